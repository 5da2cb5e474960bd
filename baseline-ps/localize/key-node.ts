/**
 * @file A node with dynamically allocated keys (Renz-Wieland 2020): workers, and a part of the parameters. `push`, `pull`, `wait`, `localize`; a key that is
 * here is used through memory, without a message. Where it is not, nobody has to know where it is.
 */
import type { Transport } from "../../src/net/transport.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { ProtocolError, UsageError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { FrameKind, TENSOR_BYTES_MAX } from "../../src/wire/header.ts";
import { placeOf } from "../core/ranges.ts";
import { Allocation, homeOf } from "./core/allocation.ts";
import type { AllocationOutput, Issue, Message } from "./core/messages.ts";
import { decode, encode, encodeKeys, type KeySpace, memoryFor, payloadBytes, type Values } from "./frames.ts";
import { checkKeys, countOf, isRange, type Keys, listOf } from "./keys.ts";
import { Mesh } from "./mesh.ts";
import { KeyStore } from "./store.ts";

export interface KeyNodeInit extends KeySpace {
  readonly job: string;
  readonly node: number;
  readonly transport: Transport;
}

/** Requests of a node under way. Bounds what others keep for it. */
const OPEN_MAX = 4096;
/** Requests travel as unsigned 32-bit numbers, and start again: none is open for that long. */
const REQUESTS = 2 ** 32;
/** The timestamp of what was finished when it was issued. */
const AT_ONCE = -1;

interface Open {
  readonly keys: readonly number[];
  /** Of a pull. */
  readonly into: Float32Array | undefined;
  readonly settled: PromiseWithResolvers<void>;
}

export class KeyNode {
  readonly #init: KeyNodeInit;
  readonly #machine: Allocation<Values>;
  readonly #store: KeyStore;
  readonly #open = new Map<number, Open>();
  #mesh: Mesh | undefined;
  #next = 0;
  #failure: Error | undefined;
  /** Keys in pushes and pulls: those that were here, and those that were not. */
  readonly accesses = { local: 0, remote: 0 };

  private constructor(init: KeyNodeInit) {
    const { node, nodes, keys, length } = init;
    this.#init = init;
    this.#machine = new Allocation({ node, nodes, keys });
    this.#store = new KeyStore(keys, length);
    for (let key = node; key < keys; key += nodes) {
      assert(homeOf(key, nodes) === node, "keys are at home at first");
      this.#store.put(key, new Float32Array(length));
    }
  }

  /** All values are 0 at first. Then all nodes `meet`. */
  static async listen(init: KeyNodeInit): Promise<KeyNode> {
    const self = new KeyNode(init);
    const { job, node, nodes, keys, length, transport } = init;
    self.#mesh = await Mesh.listen({
      ...{ protocol: `/ringtmp/data/localize/1/${job}`, node, nodes, hello: { job, nodes, keys, length }, transport },
      destination: (header) => memoryFor(header, init),
      hear: (frame) => self.#hear(frame),
      onFailure: (error) => self.#fail(error),
    });
    return self;
  }

  /** Until all nodes have links with all. @param addresses of each node. Throws NetworkError where one does not come. */
  async meet(addresses: readonly (readonly string[])[]): Promise<void> {
    await this.#links.connect(addresses);
  }

  get counters(): Mesh["counters"] {
    return this.#links.counters;
  }

  /** Whether the key's values are at this node. */
  has(key: number): boolean {
    return this.#store.has(key);
  }

  /**
   * @param into `[keys, length]`, in their order; written until it is finished
   * @returns its timestamp; it is finished when the values are there, which is at once where all keys are here
   * @throws UsageError for keys that are not, or not in order, and for more than one message takes
   */
  pull(keys: Keys, into: Float32Array): number {
    this.#check("a pull", keys, into);
    if (this.#areHere(keys)) {
      this.#forEach(keys, (key, offset) => this.#store.read(key, into, offset));
      return this.#atOnce(keys);
    }
    return this.#issue("pull", keys, [], into);
  }

  /** @param values `[keys, length]`, in their order: added to those of the keys; they are copied */
  push(keys: Keys, values: Float32Array): number {
    this.#check("a push", keys, values);
    if (this.#areHere(keys)) {
      this.#forEach(keys, (key, offset) => this.#store.add(key, values, offset));
      return this.#atOnce(keys);
    }
    const { length } = this.#init;
    const copy = values.slice();
    const each = Array.from({ length: countOf(keys) }, (_, place) =>
      copy.subarray(place * length, (place + 1) * length),
    );
    return this.#issue("push", keys, each, undefined);
  }

  /** Makes this node the owner of the keys. Finished when each has been here; another node may localize it at any time. */
  localize(keys: Keys): number {
    this.#check("a localize", keys);
    return this.#areHere(keys) ? AT_ONCE : this.#issue("localize", keys, [], undefined);
  }

  isFinished(timestamp: number): boolean {
    return !this.#open.has(timestamp);
  }

  /** Until the request is finished. Rejects where a node is gone. */
  async wait(timestamp: number): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await this.#open.get(timestamp)?.settled.promise;
  }

  /** Until all that this node has issued is finished. */
  async waitForAll(): Promise<void> {
    await Promise.all([...this.#open.keys()].map((timestamp) => this.wait(timestamp)));
  }

  /** Until all nodes have come here, each with all its requests finished. */
  async barrier(): Promise<void> {
    await this.waitForAll();
    await this.#links.barrier();
  }

  /** When all nodes close. Rejects where one is gone. */
  async close(): Promise<void> {
    try {
      // A node may be another's home until that one has done all.
      await this.barrier();
    } finally {
      await this.#links.close();
    }
  }

  get #links(): Mesh {
    return defined(this.#mesh, "it listens");
  }

  #check(what: string, keys: Keys, values?: Float32Array): void {
    const { keys: all, length } = this.#init;
    checkKeys(what, keys, all);
    const count = countOf(keys);
    if (values !== undefined && values.length !== count * length) {
      throw new UsageError(`${what} of ${count} keys with ${values.length} values`, `give ${length} for each key`);
    }
    if (payloadBytes(count, length) <= TENSOR_BYTES_MAX) return;
    throw new UsageError(
      `${what} of ${payloadBytes(count, length)} bytes at once, where a message has at most ${TENSOR_BYTES_MAX}`,
      "name fewer keys at once",
    );
  }

  #areHere(keys: Keys): boolean {
    if (isRange(keys)) {
      for (let key = keys.start; key < keys.end; key += 1) if (!this.#store.has(key)) return false;
      return true;
    }
    for (let place = 0; place < keys.length; place += 1) if (!this.#store.has(keys[place]!)) return false;
    return true;
  }

  #forEach(keys: Keys, use: (key: number, offset: number) => void): void {
    const { length } = this.#init;
    const count = countOf(keys);
    for (let place = 0; place < count; place += 1) {
      use(isRange(keys) ? keys.start + place : keys[place]!, place * length);
    }
  }

  #atOnce(keys: Keys): number {
    this.accesses.local += countOf(keys);
    return AT_ONCE;
  }

  #issue(
    operation: Issue<Values>["operation"],
    named: Keys,
    values: readonly Values[],
    into: Float32Array | undefined,
  ): number {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#open.size === OPEN_MAX) {
      throw new UsageError(`${OPEN_MAX} requests of one node are under way`, "wait for some of them");
    }
    const request = this.#next;
    this.#next = (request + 1) % REQUESTS;
    const keys = listOf(named);
    if (operation !== "localize") {
      const here = keys.filter((key) => this.#store.has(key)).length;
      this.accesses.local += here;
      this.accesses.remote += keys.length - here;
    }
    const settled = Promise.withResolvers<void>();
    // Told to whoever waits; nobody has to.
    settled.promise.catch(() => {});
    this.#open.set(request, { keys, into, settled });
    this.#drive({ kind: "issue", operation, request, keys, values });
    return request;
  }

  #hear(frame: Frame): void {
    this.#drive(decode(frame, this.#init));
  }

  #drive(input: Issue<Values> | Message<Values>): void {
    for (const output of this.#machine.handle(input)) this.#do(output);
  }

  #do(output: AllocationOutput<Values>): void {
    switch (output.kind) {
      case "add":
        for (const [place, key] of output.keys.entries()) this.#store.add(key, output.values[place]!, 0);
        return;
      case "take":
        for (const [place, key] of output.keys.entries()) this.#store.put(key, output.values[place]!);
        return;
      case "answer":
        return this.#answer(output);
      case "handOver":
        this.#links.send(output.to, { fields: { kind: FrameKind.handOver }, payload: this.#read(output.keys) });
        for (const key of output.keys) this.#store.forget(key);
        return;
      case "deliver":
        return this.#place(output.request, output.keys, (place, into, offset) =>
          into.set(output.values[place]!, offset),
        );
      case "send":
        return this.#links.send(output.to, encode(output.message, this.#init.length));
      case "finished":
        this.#open.get(output.request)?.settled.resolve();
        this.#open.delete(output.request);
    }
  }

  #answer({ to, request, keys }: Extract<AllocationOutput<Values>, { kind: "answer" }>): void {
    if (to === this.#init.node) {
      this.#place(request, keys, (place, into, offset) => this.#store.read(keys[place]!, into, offset));
    } else this.#links.send(to, { fields: { kind: FrameKind.ownedPulled, view: request }, payload: this.#read(keys) });
  }

  #read(keys: readonly number[]): Uint8Array {
    return encodeKeys(keys, this.#init.length, (place, into, offset) => this.#store.read(keys[place]!, into, offset));
  }

  /** Values of an own pull go where its caller wants them. */
  #place(
    request: number,
    keys: readonly number[],
    write: (place: number, into: Float32Array, offset: number) => void,
  ): void {
    const { keys: asked, into } = defined(this.#open.get(request), "the machine knows the request");
    for (const [place, key] of keys.entries()) {
      const to = placeOf(asked, key);
      if (into === undefined || asked[to] !== key) throw unasked(key);
      write(place, into, to * this.#init.length);
    }
  }

  #fail(error: Error): void {
    this.#failure = error;
    for (const { settled } of this.#open.values()) settled.reject(error);
  }
}

function unasked(key: number): ProtocolError {
  return new ProtocolError(`a node sent key ${key}, which was not asked for`, "run the same build on every node");
}
