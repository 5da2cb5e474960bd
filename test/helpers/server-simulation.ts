/**
 * @file A parameter server in virtual time: the machines of clients, shards and scheduler over a network that loses, delays, doubles and
 * reorders. Values are the lists of shares that were applied to a key, so that the checker sees not sums but what went into them.
 */
import { rulesOf, type Consistency } from "../../baseline-ps/core/consistency.ts";
import { divideKeys, type KeyMap } from "../../baseline-ps/core/key-map.ts";
import type { KeyRange } from "../../baseline-ps/core/ranges.ts";
import { Requests } from "../../baseline-ps/core/requests.ts";
import { Scheduler, type SchedulerInput, type SchedulerOutput } from "../../baseline-ps/core/scheduler.ts";
import { type HeldOutput, HeldShard } from "../../baseline-ps/core/held-shard.ts";
import type { ShardInit } from "../../baseline-ps/core/shard-messages.ts";
import { EventQueue } from "../../src/sim/event-queue.ts";
import { RandomStream } from "../../src/types/random.ts";
import { type ClientRequest, ServerChecker } from "./server-checker.ts";
import { SimulatedWorker } from "./server-simulation-worker.ts";

export interface ServerScenario {
  readonly seed: number;
  readonly consistency: Consistency;
  readonly workers: number;
  readonly servers: number;
  readonly keys: number;
  readonly steps: number;
  readonly microBatches: number;
  readonly layers: number;
  readonly lossPermille: number;
  readonly duplicatePermille: number;
  readonly delayMsMax: number;
  /** Compute time of one share, by worker. */
  readonly computeMs: readonly number[];
  readonly evaluateEvery: number;
  readonly saveEvery: number;
  readonly stopAtLoss: number | null;
  /** The user's stop; Infinity: none. */
  readonly stopMs: number;
  /** Workers are told of new versions instead of asking for them. */
  readonly isBroadcast: boolean;
}

const EVENTS_MAX = 200_000;
export const RESEND_MS = 50;

/** What one shard's user does: here it files which shares went into which key. */
class SimulatedServer {
  readonly #machine: HeldShard<never, never>;
  readonly #world: ServerSimulation;
  readonly #server: number;

  constructor(world: ServerSimulation, server: number, init: ShardInit) {
    this.#world = world;
    this.#server = server;
    this.#machine = new HeldShard(init);
    // It is alone in its chain: what it decides is made at once.
    const place = { epoch: 0, previous: null, next: null, hasState: true, nextHasState: true };
    for (const output of this.#machine.handle({ kind: "place", place })) this.#do(output);
  }

  hear(request: ClientRequest): void {
    const { checker } = this.#world;
    checker.heard(this.#server, request);
    for (const output of this.#machine.handle({ kind: "request", request })) this.#do(output);
    checker.serverRests(this.#server, this.#machine.shard!);
  }

  #do(output: HeldOutput<never, never>): void {
    const world = this.#world;
    const server = this.#server;
    world.note(() => `server ${server}: ${JSON.stringify(output)}`);
    switch (output.kind) {
      case "add":
        return world.checker.added(output);
      case "forget":
        return world.checker.forgotten(server, output);
      case "update":
        if (output.values.kind === "push") return world.checker.updatedByPush(output, output.values.push);
        return world.checker.updatedByStep(output);
      case "stepOver":
        return world.checker.stepOver(server, output.step, world.map.shards[server]!);
      case "applied":
        world.checker.acknowledged(server, output);
        return world.carry(`${server}>${output.client}`, () =>
          world.workers[output.client]!.replied(server, output.timestamp, undefined),
        );
      case "answer": {
        world.checker.answered(server, output);
        const { client, timestamp, version } = output;
        return world.carry(`${server}>${client}`, () => world.workers[client]!.replied(server, timestamp, version));
      }
      case "announce": {
        world.checker.announced(server, output);
        const { client, subscription, version } = output;
        return world.carry(`${server}>${client}`, () =>
          world.workers[client]!.announced(server, subscription, version),
        );
      }
      case "refused":
        throw new Error(`server ${server} refuses client ${output.client}: ${output.reason}`);
      default:
        throw new Error(`a server alone in its chain says ${output.kind}`);
    }
  }
}

export class ServerSimulation {
  readonly scenario: ServerScenario;
  readonly random: RandomStream;
  readonly checker: ServerChecker;
  readonly map: KeyMap;
  readonly workers: readonly SimulatedWorker[];
  /** What is pushed at once. */
  readonly layers: readonly KeyRange[];
  /** What is pulled at once: cut otherwise, at times. */
  readonly pulled: readonly KeyRange[];
  readonly story: string[] = [];
  readonly #servers: readonly SimulatedServer[];
  readonly #scheduler: Scheduler;
  readonly #queue = new EventQueue();
  readonly #thunks: (() => void)[] = [];
  readonly #isTold: boolean;
  /** What has happened so far. */
  readonly counts = { events: 0, messages: 0, lost: 0, doubled: 0 };
  nowMs = 0;

  constructor(scenario: ServerScenario, isTold = false) {
    this.scenario = scenario;
    this.#isTold = isTold;
    this.random = new RandomStream(scenario.seed, 1_000);
    const { keys, servers, workers, consistency, microBatches, steps } = scenario;
    const rules = rulesOf(consistency.kind);
    this.map = divideKeys(keys, servers);
    this.layers = this.#cutLayers();
    this.pulled = this.random.nextBelow(2) === 0 ? this.layers : this.#cutLayers();
    this.checker = new ServerChecker(scenario);
    this.#servers = this.map.shards.map(
      (range, server) =>
        new SimulatedServer(this, server, {
          range,
          firstStep: 0,
          shares: workers,
          rules,
          tau: consistency.tau,
          keepsBefore: false,
        }),
    );
    const { evaluateEvery, saveEvery, stopAtLoss } = scenario;
    this.#scheduler = new Scheduler({
      ...{ workers, assignment: rules.assignment, firstStep: 0, steps, microBatches, batch: 1 },
      ...{ evaluateEvery, saveEvery, stopAtLoss },
    });
    const requests = (): Requests => new Requests({ resendMs: RESEND_MS, openMax: 256 });
    this.workers = scenario.computeMs.map((_, worker) => new SimulatedWorker(this, worker, requests()));
  }

  /** To the end. Throws what the checker finds, with the seed. */
  run(): void {
    for (const worker of this.workers) worker.start();
    if (this.scenario.stopMs < Infinity) this.at(this.scenario.stopMs, () => this.#schedule({ kind: "stop" }));
    while (this.#queue.size > 0 && !this.workers.every(({ hasEnded }) => hasEnded)) {
      this.counts.events += 1;
      if (this.counts.events > EVENTS_MAX) throw new Error(`not at its end after ${EVENTS_MAX} events`);
      this.nowMs = this.#queue.time;
      this.#thunks[this.#queue.pop()]!();
    }
    this.checker.ended(this.workers, this.#scheduler.committed, this.layers);
  }

  note(text: () => string): void {
    if (this.#isTold) this.story.push(`${this.nowMs.toFixed(1)} ${text()}`);
  }

  at(timeMs: number, event: () => void): void {
    this.#queue.push(timeMs, this.#thunks.push(event) - 1);
  }

  /** One message of the network: it may be lost, come twice, and be overtaken. */
  carry(way: string, arrive: () => void): void {
    const { lossPermille, duplicatePermille, delayMsMax } = this.scenario;
    const send = (): void => {
      this.counts.messages += 1;
      if (this.random.nextBelow(1_000) < lossPermille) {
        this.counts.lost += 1;
        return this.note(() => `${way}: lost`);
      }
      this.at(this.nowMs + this.random.nextFloat() * delayMsMax, arrive);
    };
    send();
    if (this.random.nextBelow(1_000) >= duplicatePermille) return;
    this.counts.doubled += 1;
    send();
  }

  toServer(server: number, input: ClientRequest): void {
    this.note(() => `${input.client}>${server}: ${JSON.stringify(input)}`);
    this.carry(`${input.client}>${server}`, () => this.#servers[server]!.hear(input));
  }

  toScheduler(worker: number, timestamp: number, input: SchedulerInput): void {
    this.note(() => `${worker}>scheduler: ${JSON.stringify(input)}`);
    this.carry(`${worker}>scheduler`, () => {
      this.#schedule(input);
      // An answer to a question is the task itself.
      if (input.kind !== "ask")
        this.carry(`scheduler>${worker}`, () =>
          this.workers[worker]!.replied(this.schedulerPlace, timestamp, undefined),
        );
    });
  }

  /** The scheduler's place among those that a worker asks. */
  get schedulerPlace(): number {
    return this.scenario.servers;
  }

  #schedule(input: SchedulerInput): void {
    for (const output of this.#scheduler.handle(input)) this.#scheduled(output);
  }

  #scheduled(output: SchedulerOutput): void {
    this.note(() => `scheduler: ${JSON.stringify(output)}`);
    if (output.kind === "committed") return this.checker.committed(output.step, output.loss);
    if (output.kind === "extra") throw new Error("nobody is lost");
    const { worker, number, task } = output;
    this.checker.given(worker, number, task);
    this.carry(`scheduler>${worker}`, () => this.workers[worker]!.given(number, task));
  }

  #cutLayers(): readonly KeyRange[] {
    const { keys, layers } = this.scenario;
    const cuts = new Set<number>();
    while (cuts.size < layers - 1) cuts.add(1 + this.random.nextBelow(keys - 1));
    const bounds = [0, ...[...cuts].toSorted((a, b) => a - b), keys];
    return bounds.slice(1).map((end, index) => ({ start: bounds[index]!, end }));
  }
}
