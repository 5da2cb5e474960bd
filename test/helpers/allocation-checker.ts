/** @file The invariants A1 to A6 of dynamic parameter allocation (`baseline-ps/README.md`), looked at after every event of a simulation. */
import { homeOf, Place } from "../../baseline-ps/localize/core/allocation.ts";
import type { Issue, Message } from "../../baseline-ps/localize/core/messages.ts";
import type { AllocationSimulation, Pushes } from "./allocation-simulation.ts";
import { inconsistencies } from "./key-history.ts";

const MESSAGES_MAX = 3;

interface Request {
  readonly origin: number;
  readonly operation: Issue<Pushes>["operation"];
  readonly lacks: Set<number>;
}

export class AllocationChecker {
  readonly #world: AllocationSimulation;
  /** By key: the pushes in it, in the order in which they were added. */
  readonly #pushes: number[][];
  /** By key and origin: its newest request that was done. */
  readonly #newest = new Map<string, number>();
  /** By request: who issued it, and which keys it lacks. */
  readonly #open = new Map<number, Request>();
  /** By request and key. */
  readonly #messages = new Map<string, number>();
  readonly #relocations = { localize: 0, relocate: 0, handOver: 0 };

  constructor(world: AllocationSimulation) {
    this.#world = world;
    this.#pushes = Array.from({ length: world.scenario.keys }, () => []);
  }

  issued(node: number, { operation, request, keys }: Issue<Pushes>): void {
    const isLacking = (key: number): boolean =>
      operation !== "localize" || this.#world.machines[node]!.place(key) !== Place.here;
    this.#open.set(request, { origin: node, operation, lacks: new Set(keys.filter(isLacking)) });
  }

  added(key: number, [push]: Pushes): void {
    const { origin, lacks } = this.#open.get(push!)!;
    expect(lacks.delete(key), () => `A4: push ${push} is in key ${key} twice`);
    this.#inOrder(key, origin, push!);
    this.#pushes[key]!.push(push!);
  }

  read(keys: readonly number[], request: number): void {
    for (const key of keys) this.#inOrder(key, this.#open.get(request)!.origin, request);
  }

  seen(request: number, keys: readonly number[]): void {
    const { lacks } = this.#open.get(request)!;
    for (const key of keys) expect(lacks.delete(key), () => `A4: request ${request} is answered twice for key ${key}`);
  }

  taken(node: number, keys: readonly number[]): void {
    for (const { origin, operation, lacks } of this.#open.values()) {
      if (origin === node && operation === "localize") for (const key of keys) lacks.delete(key);
    }
  }

  finished(request: number): void {
    const { operation, lacks } = this.#open.get(request)!;
    expect(lacks.size === 0, () => `A6: ${operation} ${request} is finished, and lacks keys ${[...lacks].join(", ")}`);
  }

  sent(message: Message<Pushes>): void {
    switch (message.kind) {
      case "localize":
      case "relocate":
      case "handOver":
        this.#relocations[message.kind] += message.keys.length;
        return;
      case "pull":
      case "push":
      case "pulled":
        return this.#count(message.request, message.keys);
      case "pushed":
        expect(message.count > 0, () => `request ${message.request}: nothing is acknowledged`);
    }
  }

  /** After every event. */
  check(): void {
    for (let key = 0; key < this.#pushes.length; key += 1) {
      this.#oneOwner(key);
      this.#homeKnows(key);
      for (const node of this.#world.machines.keys()) this.#waitsInReason(key, node);
    }
  }

  ended(): void {
    const { history, inFlight, machines } = this.#world;
    expect(inFlight.size === 0, () => "L1: messages are in flight at the end");
    for (let key = 0; key < this.#pushes.length; key += 1) {
      const owners = machines.filter((machine) => machine.place(key) === Place.here).length;
      expect(owners === 1, () => `L1: key ${key} has ${owners} owners at the end`);
    }
    const { localize, relocate, handOver } = this.#relocations;
    // A message that a node would send itself is none.
    expect(
      Math.max(localize, relocate) <= handOver,
      () => `A5: ${localize}, ${relocate}, ${handOver} messages to relocate`,
    );
    const found = inconsistencies(history);
    expect(found.length === 0, () => `A4: ${found.join("; ")}`);
  }

  /** A1, A2. */
  #oneOwner(key: number): void {
    const { machines, stores, inFlight } = this.#world;
    const here = stores.flatMap((store) => (store.has(key) ? [store.get(key)!] : []));
    const places = machines.filter((machine) => machine.place(key) === Place.here).length;
    const flying = [...inFlight].flatMap(({ message }) => {
      const place = message.kind === "handOver" ? message.keys.indexOf(key) : -1;
      return message.kind === "handOver" && place >= 0 ? [message.values[place]!] : [];
    });
    const copies = [...here, ...flying];
    expect(copies.length === 1 && places === here.length, () => `A1: ${copies.length} of key ${key}, ${places} here`);
    const [value, model] = [copies[0]!, this.#pushes[key]!];
    expect(value.join() === model.join(), () => `A2: key ${key} has ${value.join()}, and was pushed ${model.join()}`);
  }

  /** A3. */
  #homeKnows(key: number): void {
    const { machines, inFlight, scenario } = this.#world;
    const home = homeOf(key, scenario.nodes);
    const owner = machines[home]!.owner(key);
    const isOnItsWay = (kind: string, from: number, to: number): boolean =>
      [...inFlight].some(
        ({ from: sender, to: receiver, message }) =>
          message.kind === kind &&
          sender === from &&
          receiver === to &&
          "keys" in message &&
          message.keys.includes(key),
      );
    for (const [node, machine] of machines.entries()) {
      const place = machine.place(key);
      const isIts = place === Place.here || place === Place.awaited;
      const isTold = isOnItsWay("relocate", home, node) || isOnItsWay("localize", node, home);
      expect(
        isIts === (node === owner) || isTold,
        () => `A3: key ${key}: home says ${owner}, at ${node} it is ${place}`,
      );
    }
  }

  /** A6. */
  #waitsInReason(key: number, node: number): void {
    const machine = this.#world.machines[node]!;
    const [place, kinds] = [machine.place(key), machine.waiting(key).map(({ kind }) => kind)];
    const isOnItsWay = place === Place.awaited || place === Place.passing;
    expect(isOnItsWay === kinds.length > 0, () => `A6: key ${key} at ${node}: ${place}, kept: ${kinds.join()}`);
    expect(
      (kinds.at(-1) === "relocate") === (place === Place.passing),
      () => `A6: kept behind a relocation: ${kinds.join()}`,
    );
  }

  /** A4. */
  #inOrder(key: number, origin: number, request: number): void {
    const name = `${key} ${origin}`;
    const before = this.#newest.get(name) ?? 0;
    expect(request > before, () => `A4: key ${key}: request ${request} of node ${origin} is done after ${before}`);
    this.#newest.set(name, request);
  }

  /** A5. */
  #count(request: number, keys: readonly number[]): void {
    for (const key of keys) {
      const name = `${request} ${key}`;
      const count = (this.#messages.get(name) ?? 0) + 1;
      this.#messages.set(name, count);
      expect(count <= MESSAGES_MAX, () => `A5: request ${request} takes ${count} messages for key ${key}`);
    }
  }
}

function expect(condition: boolean, what: () => string): asserts condition {
  if (!condition) throw new Error(what());
}
