/**
 * @file Nodes with dynamically allocated keys in virtual time: their machines over links that keep the order of each pair of nodes and delay everything
 * arbitrarily, and workers that pull, push and localize at random. A key's values are the list of pushes that are in them.
 */
import { Allocation } from "../../baseline-ps/localize/core/allocation.ts";
import type { AllocationOutput, Issue, Message } from "../../baseline-ps/localize/core/messages.ts";
import { EventQueue } from "../../src/sim/event-queue.ts";
import { RandomStream } from "../../src/types/random.ts";
import { AllocationChecker } from "./allocation-checker.ts";
import type { KeyOperation } from "./key-history.ts";

export interface AllocationScenario {
  readonly seed: number;
  readonly nodes: number;
  readonly workersPerNode: number;
  readonly keys: number;
  /** Of each worker. */
  readonly requests: number;
  readonly delayMsMax: number;
  /** Between two requests of a worker. */
  readonly pauseMsMax: number;
  /** Requests of a thousand for whose end their worker waits. */
  readonly synchronousPermille: number;
  readonly localizePermille: number;
}

/** The pushes that are in a key's values. */
export type Pushes = readonly number[];

const EVENTS_MAX = 200_000;

export function allocationScenario(seed: number): AllocationScenario {
  const random = new RandomStream(seed, 1_001);
  const pick = (...values: readonly number[]): number => values[random.nextBelow(values.length)]!;
  return {
    seed,
    nodes: pick(1, 2, 2, 3, 3, 4, 5),
    workersPerNode: pick(1, 1, 2),
    keys: pick(1, 1, 2, 3, 7),
    requests: 4 + random.nextBelow(20),
    delayMsMax: pick(0, 1, 10, 100),
    pauseMsMax: pick(0, 1, 10),
    synchronousPermille: pick(0, 300, 700, 1_000),
    localizePermille: pick(100, 300, 600),
  };
}

class SimulatedWorker {
  readonly #world: AllocationSimulation;
  readonly #worker: number;
  readonly node: number;
  issued = 0;

  constructor(world: AllocationSimulation, worker: number) {
    this.#world = world;
    this.#worker = worker;
    this.node = worker % world.scenario.nodes;
  }

  /** The next request; the one after it follows when this one is finished, or after a pause. */
  next(): void {
    const { scenario, random } = this.#world;
    if (this.issued === scenario.requests) return;
    this.issued += 1;
    const later = (): void => this.#world.after(random.nextFloat() * scenario.pauseMsMax, () => this.next());
    const isSynchronous = random.nextBelow(1_000) < scenario.synchronousPermille;
    this.#world.issue(this.#worker, this.#draw(), isSynchronous ? later : () => {});
    if (!isSynchronous) later();
  }

  #draw(): Pick<Issue<Pushes>, "operation" | "keys"> {
    const { scenario, random } = this.#world;
    const operation =
      random.nextBelow(1_000) < scenario.localizePermille ? "localize" : random.nextBelow(2) === 0 ? "pull" : "push";
    const first = random.nextBelow(scenario.keys);
    const all = Array.from({ length: scenario.keys }, (_, key) => key);
    return { operation, keys: all.filter((key) => key === first || random.nextBelow(3) === 0) };
  }
}

export class AllocationSimulation {
  readonly scenario: AllocationScenario;
  readonly random: RandomStream;
  readonly machines: readonly Allocation<Pushes>[];
  /** By node, what it has. */
  readonly stores: readonly Map<number, number[]>[];
  /** Sent, and not arrived. */
  readonly inFlight = new Set<{ readonly from: number; readonly to: number; readonly message: Message<Pushes> }>();
  readonly history: KeyOperation[] = [];
  readonly checker: AllocationChecker;
  readonly counts = { events: 0, messages: 0, operationsDuringRelocation: 0, relocationsDuringRelocation: 0 };
  readonly #workers: readonly SimulatedWorker[];
  readonly #queue = new EventQueue();
  readonly #events: (() => void)[] = [];
  /** By pair: when its newest message arrives. */
  readonly #arrivalMs = new Map<string, number>();
  /** By request, which has a number of its own in this world: what it saw, and what happens at its end. */
  readonly #open = new Map<number, { readonly seen: Map<number, Pushes>; readonly onFinished: () => void }>();
  #requests = 0;
  #nowMs = 0;

  constructor(scenario: AllocationScenario) {
    const { seed, nodes, keys, workersPerNode } = scenario;
    this.scenario = scenario;
    this.random = new RandomStream(seed, 1_002);
    this.machines = Array.from({ length: nodes }, (_, node) => new Allocation<Pushes>({ node, nodes, keys }));
    this.stores = this.machines.map((_, node) => {
      const own = Array.from({ length: keys }, (__, key) => key).filter((key) => key % nodes === node);
      return new Map(own.map((key) => [key, []]));
    });
    this.checker = new AllocationChecker(this);
    this.#workers = Array.from({ length: nodes * workersPerNode }, (_, worker) => new SimulatedWorker(this, worker));
  }

  /** To the end. Throws what the checker finds. */
  run(): void {
    for (const worker of this.#workers) this.after(0, () => worker.next());
    while (this.#queue.size > 0) {
      this.counts.events += 1;
      if (this.counts.events > EVENTS_MAX) throw new Error(`not at its end after ${EVENTS_MAX} events`);
      this.#nowMs = this.#queue.time;
      this.#events[this.#queue.pop()]!();
      this.checker.check();
    }
    if (this.#open.size > 0) throw new Error(`L1: requests ${[...this.#open.keys()].join(", ")} are never finished`);
    this.checker.ended();
  }

  after(delayMs: number, event: () => void): void {
    this.#queue.push(this.#nowMs + delayMs, this.#events.push(event) - 1);
  }

  issue(worker: number, { operation, keys }: Pick<Issue<Pushes>, "operation" | "keys">, onFinished: () => void): void {
    const { node } = this.#workers[worker]!;
    const request = (this.#requests += 1);
    const values = operation === "push" ? keys.map(() => [request]) : [];
    const seen = new Map<number, number[]>();
    this.#open.set(request, { seen, onFinished });
    for (const key of keys) {
      if (operation === "push") this.history.push({ kind: "push", worker, key, id: request });
      if (operation !== "pull") continue;
      seen.set(key, []);
      // Filled in when it is answered.
      this.history.push({ kind: "pull", worker, key, seen: seen.get(key)! });
    }
    this.checker.issued(node, { kind: "issue", operation, request, keys, values });
    this.#hand(node, { kind: "issue", operation, request, keys, values });
  }

  #hand(node: number, input: Issue<Pushes> | Message<Pushes>): void {
    for (const output of this.machines[node]!.handle(input)) this.#do(node, output);
  }

  #do(node: number, output: AllocationOutput<Pushes>): void {
    const store = this.stores[node]!;
    switch (output.kind) {
      case "add":
        output.keys.forEach((key, place) => {
          this.checker.added(key, output.values[place]!);
          store.get(key)!.push(...output.values[place]!);
        });
        return;
      case "take":
        output.keys.forEach((key, place) => store.set(key, [...output.values[place]!]));
        return this.checker.taken(node, output.keys);
      case "answer": {
        const { to, request, keys } = output;
        this.checker.read(keys, request);
        const values = keys.map((key) => [...store.get(key)!]);
        if (to === node) this.#see(request, keys, values);
        else this.#send(node, to, { kind: "pulled", request, keys, values });
        return;
      }
      case "handOver": {
        const values = output.keys.map((key) => [...store.get(key)!]);
        for (const key of output.keys) store.delete(key);
        this.#send(node, output.to, { kind: "handOver", keys: output.keys, values });
        return;
      }
      case "deliver":
        return this.#see(output.request, output.keys, output.values);
      case "send":
        return this.#send(node, output.to, output.message);
      case "finished": {
        const open = this.#open.get(output.request);
        if (open === undefined) throw new Error(`A6: request ${output.request} is finished twice`);
        this.#open.delete(output.request);
        this.checker.finished(output.request);
        open.onFinished();
      }
    }
  }

  #see(request: number, keys: readonly number[], values: readonly Pushes[]): void {
    const { seen } = this.#open.get(request)!;
    keys.forEach((key, place) => (seen.get(key) as number[]).push(...values[place]!));
    this.checker.seen(request, keys);
  }

  #send(from: number, to: number, message: Message<Pushes>): void {
    if (from === to) throw new Error(`node ${from} sends itself ${JSON.stringify(message)}`);
    this.counts.messages += 1;
    this.checker.sent(message);
    const pair = `${from} ${to}`;
    const delayMs = this.random.nextFloat() * this.scenario.delayMsMax;
    const arrivalMs = Math.max(this.#arrivalMs.get(pair) ?? 0, this.#nowMs + delayMs);
    this.#arrivalMs.set(pair, arrivalMs);
    const sent = { from, to, message };
    this.inFlight.add(sent);
    this.after(arrivalMs - this.#nowMs, () => {
      this.inFlight.delete(sent);
      this.#note(to, message);
      this.#hand(to, message);
    });
  }

  /** What the scenarios are to reach. */
  #note(to: number, message: Message<Pushes>): void {
    const { kind } = message;
    if (kind !== "pull" && kind !== "push" && kind !== "relocate") return;
    const awaited = message.keys.filter((key) => this.machines[to]!.waiting(key).length > 0).length;
    this.counts[kind === "relocate" ? "relocationsDuringRelocation" : "operationsDuringRelocation"] += awaited;
  }
}
