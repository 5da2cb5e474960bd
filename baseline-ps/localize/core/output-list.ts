/**
 * @file What a machine wants done, with keys of one message together. What concerns a key keeps its order: only with the last output is a use of values
 * put together. An operation that goes on, a move, an acknowledgement uses no values here, and a key has one of them in a list at most: they may be put together
 * across others, and come behind.
 */
import type { Access, AllocationOutput, Message, Move } from "./messages.ts";

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] extends readonly (infer Item)[] ? Item[] : T[Name] };
type Sent<V, Kind extends Message<V>["kind"]> = Mutable<Extract<Message<V>, { readonly kind: Kind }>>;
type Output<V, Kind extends AllocationOutput<V>["kind"]> = Mutable<Extract<AllocationOutput<V>, { kind: Kind }>>;

export class OutputList<V> {
  readonly #uses: AllocationOutput<V>[] = [];
  readonly #operations = new Map<number, Sent<V, "pull" | "push">>();
  readonly #moves = new Map<string, { readonly to: number; readonly message: Mutable<Move> }>();
  readonly #acknowledged = new Map<string, { readonly to: number; readonly message: Sent<V, "pushed"> }>();
  readonly #finished: AllocationOutput<V>[] = [];

  get all(): readonly AllocationOutput<V>[] {
    const operations = [...this.#operations].map(([to, message]) => ({ to, message }));
    const sent = [...operations, ...this.#moves.values(), ...this.#acknowledged.values()];
    return [
      ...this.#uses,
      ...sent.map(({ to, message }) => ({ kind: "send" as const, to, message })),
      ...this.#finished,
    ];
  }

  add(key: number, value: V): void {
    this.#useOf("add", key, value);
  }

  take(key: number, value: V): void {
    this.#useOf("take", key, value);
  }

  answer(to: number, request: number, key: number): void {
    const last = this.#uses.at(-1) as Output<V, "answer"> | undefined;
    if (last?.kind === "answer" && last.to === to && last.request === request) last.keys.push(key);
    else this.#uses.push({ kind: "answer", to, request, keys: [key] });
  }

  handOver(to: number, key: number): void {
    const last = this.#uses.at(-1) as Output<V, "handOver"> | undefined;
    if (last?.kind === "handOver" && last.to === to) last.keys.push(key);
    else this.#uses.push({ kind: "handOver", to, keys: [key] });
  }

  deliver(request: number, keys: readonly number[], values: readonly V[]): void {
    this.#uses.push({ kind: "deliver", request, keys, values });
  }

  /** All operations of a list are of one request. */
  operation(to: number, access: Access<V>, key: number): void {
    const { kind, origin, request } = access;
    let message = this.#operations.get(to);
    if (message === undefined) this.#operations.set(to, (message = { kind, origin, request, keys: [], values: [] }));
    message.keys.push(key);
    if (access.kind === "push") message.values.push(access.value);
  }

  move(to: number, kind: Move["kind"], owner: number, key: number): void {
    const name = `${to} ${kind} ${owner}`;
    let move = this.#moves.get(name);
    if (move === undefined) this.#moves.set(name, (move = { to, message: { kind, owner, keys: [] } }));
    move.message.keys.push(key);
  }

  pushed(to: number, request: number): void {
    const name = `${to} ${request}`;
    let answer = this.#acknowledged.get(name);
    if (answer === undefined)
      this.#acknowledged.set(name, (answer = { to, message: { kind: "pushed", request, count: 0 } }));
    answer.message.count += 1;
  }

  finished(request: number): void {
    this.#finished.push({ kind: "finished", request });
  }

  #useOf(kind: "add" | "take", key: number, value: V): void {
    const last = this.#uses.at(-1) as Output<V, "add" | "take"> | undefined;
    if (last?.kind === kind) {
      last.keys.push(key);
      last.values.push(value);
    } else this.#uses.push({ kind, keys: [key], values: [value] });
  }
}
