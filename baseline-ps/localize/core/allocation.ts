/**
 * @file Dynamic parameter allocation (Renz-Wieland 2020, "Dynamic Parameter Allocation in Parameter Servers", section 3): the machine of one node,
 * which has workers and parameters. Each key has a home that never changes and knows the owner, the node where its values are; workers need not know.
 * Links are to keep the order of each pair of nodes, and nothing else.
 *
 * A relocation takes three messages. 1. The new owner tells the home (`localize`), and keeps what comes for the key from now on. 2. The home sends
 * every later operation to the new owner, and tells the old one (`relocate`). 3. That one has done all operations that the home sent it before, and
 * hands the values over (`handOver`); the new owner does what it has kept. It may have been asked to pass the key on meanwhile: then that is kept,
 * in its order, like an operation.
 */
import { defined } from "../../../src/types/assert.ts";
import { ProtocolError } from "../../../src/types/errors.ts";
import type { Machine } from "../../../src/types/machine.ts";
import { OutputList } from "./output-list.ts";
import type { Access, AllocationOutput, Issue, Message, Operation, Waiting } from "./messages.ts";

export interface AllocationInit {
  readonly node: number;
  readonly nodes: number;
  /** Keys are 0 to `keys` - 1. At first each is at its home. */
  readonly keys: number;
}

/** What a key is to this node. */
export const Place = {
  /** Another node has it, or will. */
  away: 0,
  here: 1,
  /** On its way here, to stay. */
  awaited: 2,
  /** On its way here, to be passed on at once. */
  passing: 3,
} as const;
export type Place = (typeof Place)[keyof typeof Place];

/** Neighbouring keys, which are often used together, have different homes: no node is asked for all of them. */
export const homeOf = (key: number, nodes: number): number => key % nodes;

export class Allocation<V> implements Machine<Issue<V> | Message<V>, AllocationOutput<V>> {
  readonly #init: AllocationInit;
  /** By key. */
  readonly #places: Uint8Array;
  /** Of the keys whose home this is, by key / nodes. */
  readonly #owners: Uint16Array;
  /** In the order in which it is to be done. Only keys that are awaited or passing have an entry. */
  readonly #waiting = new Map<number, Waiting<V>[]>();
  /** Keys that lack, by this node's request. */
  readonly #open = new Map<number, number>();
  #outputs = new OutputList<V>();

  constructor(init: AllocationInit) {
    const { node, nodes, keys } = init;
    this.#init = init;
    this.#places = Uint8Array.from({ length: keys }, (_, key) =>
      homeOf(key, nodes) === node ? Place.here : Place.away,
    );
    this.#owners = new Uint16Array(Math.ceil(keys / nodes)).fill(node);
  }

  place(key: number): Place {
    return this.#places[key] as Place;
  }

  /** Where the home sends what it is asked for. @param key whose home this is */
  owner(key: number): number {
    return this.#owners[Math.floor(key / this.#init.nodes)]!;
  }

  /** What the key is awaited for. */
  waiting(key: number): readonly Waiting<V>[] {
    return this.#waiting.get(key) ?? [];
  }

  /** @throws ProtocolError for a message that no node of the same build sends; the machine is of no use afterwards */
  handle(input: Issue<V> | Message<V>): readonly AllocationOutput<V>[] {
    this.#outputs = new OutputList();
    switch (input.kind) {
      case "issue":
        this.#issue(input);
        break;
      case "pull":
      case "push":
        this.#operate(input);
        break;
      case "localize":
        for (const key of input.keys) this.#giveTo(key, input.owner);
        break;
      case "relocate":
        for (const key of input.keys) this.#passOn(key, input.owner);
        break;
      case "handOver":
        for (const [place, key] of input.keys.entries()) this.#arrive(key, input.values[place]!);
        break;
      case "pulled":
        this.#outputs.deliver(input.request, input.keys, input.values);
        this.#complete(input.request, input.keys.length);
        break;
      case "pushed":
        this.#complete(input.request, input.count);
        break;
    }
    return this.#outputs.all;
  }

  #issue({ operation, request, keys, values }: Issue<V>): void {
    this.#open.set(request, keys.length);
    if (operation === "localize") for (const key of keys) this.#localize(key, request);
    else this.#operate({ kind: operation, origin: this.#init.node, request, keys, values });
  }

  #operate({ kind, origin, request, keys, values }: Operation<V>): void {
    for (const [place, key] of keys.entries()) {
      const access: Access<V> =
        kind === "pull" ? { kind, origin, request } : { kind, origin, request, value: values[place]! };
      if (this.place(key) === Place.here) this.#access(key, access);
      else if (this.place(key) === Place.awaited) this.#keep(key, access);
      else this.#outputs.operation(this.#next(key, access), access, key);
    }
  }

  /** Where an operation goes that is not for this node. */
  #next(key: number, { kind, origin }: Access<V>): number {
    const { node, nodes } = this.#init;
    const home = homeOf(key, nodes);
    if (home === node) return this.owner(key);
    if (origin !== node) throw wrong(`a ${kind} of key ${key}, which is neither here nor at home here`);
    return home;
  }

  #access(key: number, access: Access<V>): void {
    const { origin, request } = access;
    if (access.kind === "push") this.#outputs.add(key, access.value);
    else this.#outputs.answer(origin, request, key);
    if (origin === this.#init.node) this.#complete(request, 1);
    else if (access.kind === "push") this.#outputs.pushed(origin, request);
  }

  #localize(key: number, request: number): void {
    const { node, nodes } = this.#init;
    const place = this.place(key);
    if (place === Place.here) return this.#complete(request, 1);
    this.#places[key] = Place.awaited;
    this.#keep(key, { kind: "localize", request });
    if (place === Place.awaited) return;
    const home = homeOf(key, nodes);
    if (home === node) this.#giveTo(key, node);
    else this.#outputs.move(home, "localize", node, key);
  }

  /** At home. */
  #giveTo(key: number, owner: number): void {
    const { node, nodes } = this.#init;
    if (homeOf(key, nodes) !== node) throw wrong(`a localize of key ${key}, which is not at home here`);
    const before = this.owner(key);
    if (before === owner) throw wrong(`a localize of key ${key} by its owner, node ${owner}`);
    this.#owners[Math.floor(key / nodes)] = owner;
    if (before === node) this.#passOn(key, owner);
    else this.#outputs.move(before, "relocate", owner, key);
  }

  /** At the owner so far. */
  #passOn(key: number, owner: number): void {
    const place = this.place(key);
    if (place === Place.here) {
      this.#places[key] = Place.away;
      this.#outputs.handOver(owner, key);
    } else if (place === Place.awaited) {
      this.#places[key] = Place.passing;
      this.#keep(key, { kind: "relocate", owner });
    } else throw wrong(`a relocate of key ${key}, which is not this node's`);
  }

  /** At the new owner: what was kept is done, up to the next relocation. */
  #arrive(key: number, value: V): void {
    if (this.place(key) === Place.here || this.place(key) === Place.away) throw wrong(`key ${key} unasked`);
    this.#outputs.take(key, value);
    const waiting = defined(this.#waiting.get(key), "a key on its way is awaited for something");
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
      if (item.kind === "relocate") {
        this.#outputs.handOver(item.owner, key);
        break;
      }
      if (item.kind === "localize") this.#complete(item.request, 1);
      else this.#access(key, item);
    }
    // With more to do behind a relocation, the key has been asked for again, and is on its way once more.
    if (waiting.length > 0) return;
    this.#waiting.delete(key);
    this.#places[key] = this.place(key) === Place.passing ? Place.away : Place.here;
  }

  #keep(key: number, item: Waiting<V>): void {
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) this.#waiting.set(key, [item]);
    else waiting.push(item);
  }

  #complete(request: number, keys: number): void {
    const lacks = (this.#open.get(request) ?? 0) - keys;
    if (lacks < 0) throw wrong(`an answer to request ${request}, which does not lack it`);
    if (lacks > 0) this.#open.set(request, lacks);
    else {
      this.#open.delete(request);
      this.#outputs.finished(request);
    }
  }
}

function wrong(what: string): ProtocolError {
  return new ProtocolError(
    `a node sent what this one does not take: ${what}`,
    "run the same build and job on every node",
  );
}
