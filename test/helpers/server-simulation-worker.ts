/** @file A worker of a simulated parameter server: it asks for a task, pulls layer by layer, computes for a while, pushes layer by layer. */
import { leastVersion } from "../../baseline-ps/core/consistency.ts";
import { piecesOf } from "../../baseline-ps/core/key-map.ts";
import type { KeyRange, RangeSet } from "../../baseline-ps/core/ranges.ts";
import type { Requests, RequestsOutput } from "../../baseline-ps/core/requests.ts";
import type { SchedulerInput, Task } from "../../baseline-ps/core/scheduler.ts";
import type { ServerSimulation } from "./server-simulation.ts";

type Train = Extract<Task, { kind: "train" }>;
type Send = Extract<RequestsOutput, { kind: "send" }>;

interface Work {
  readonly task: Train;
  /** Layers whose parameters have not come. */
  readonly missing: Set<number>;
  /** Pushes that are not applied. */
  readonly open: Set<number>;
  isComputed: boolean;
}

interface Request {
  readonly send: (sent: Send) => void;
  readonly finished: () => void;
}

export class SimulatedWorker {
  readonly worker: number;
  readonly #world: ServerSimulation;
  readonly #requests: Requests;
  readonly #what = new Map<number, Request>();
  /** Newest versions of what was announced, by layer and server. */
  readonly #announced = new Map<string, number>();
  /** Of the newest push of each layer. */
  readonly #pushes = new Map<number, number>();
  /** By timestamp and server: what an answer said. */
  readonly #versions = new Map<number, number>();
  readonly #works: Work[] = [];
  #asked = 0;
  #askTimestamp = 0;
  hasEnded = false;

  constructor(world: ServerSimulation, worker: number, requests: Requests) {
    this.#world = world;
    this.worker = worker;
    this.#requests = requests;
  }

  start(): void {
    this.#ask();
    this.#tick();
  }

  /** Everything that this worker has begun is over. */
  get rests(): boolean {
    return this.#works.length === 0;
  }

  #tick(): void {
    const world = this.#world;
    this.#send(this.#requests.handle({ kind: "tick", nowMs: world.nowMs }));
    if (world.scenario.isBroadcast) for (const work of this.#works) this.#subscribe(work);
    if (!this.hasEnded) world.at(world.nowMs + 25, () => this.#tick());
  }

  #issue(servers: readonly number[], after: readonly number[], request: Request): number {
    const timestamp = this.#requests.next;
    this.#what.set(timestamp, request);
    this.#send(this.#requests.handle({ kind: "issue", servers, after, nowMs: this.#world.nowMs }));
    return timestamp;
  }

  #send(outputs: readonly RequestsOutput[]): void {
    for (const output of outputs) {
      const request = this.#what.get(output.timestamp)!;
      if (output.kind === "send") {
        this.#world.checker.sent(this.worker, output.timestamp);
        request.send(output);
        continue;
      }
      this.#world.checker.finished(this.worker, output.timestamp);
      this.#what.delete(output.timestamp);
      request.finished();
    }
  }

  replied(server: number, timestamp: number, version: number | undefined): void {
    if (version !== undefined)
      this.#versions.set(timestamp, Math.min(version, this.#versions.get(timestamp) ?? Infinity));
    this.#send(this.#requests.handle({ kind: "reply", timestamp, server, nowMs: this.#world.nowMs }));
  }

  #tell(input: SchedulerInput): void {
    const place = this.#world.schedulerPlace;
    const send = ({ timestamp }: Send): void => this.#world.toScheduler(this.worker, timestamp, input);
    this.#issue([place], [], { send, finished: () => {} });
  }

  #ask(): void {
    const number = this.#asked;
    const send = ({ timestamp }: Send): void =>
      this.#world.toScheduler(this.worker, timestamp, { kind: "ask", worker: this.worker, number });
    this.#askTimestamp = this.#issue([this.#world.schedulerPlace], [], { send, finished: () => {} });
  }

  given(number: number, task: Task): void {
    if (number !== this.#asked) return;
    this.#asked += 1;
    this.replied(this.#world.schedulerPlace, this.#askTimestamp, undefined);
    const world = this.#world;
    switch (task.kind) {
      case "end":
        this.hasEnded = true;
        return;
      case "pause":
        world.checker.paused(task, world.workers);
        this.#tell({ kind: "pauseDone", number });
        return this.#ask();
      case "train":
        return this.#begin(task);
    }
  }

  #begin(task: Train): void {
    const { pulled, checker, scenario } = this.#world;
    checker.begins(this.worker, task.step);
    const work: Work = { task, missing: new Set(pulled.keys()), open: new Set(), isComputed: false };
    this.#works.push(work);
    if (scenario.isBroadcast) {
      this.#subscribe(work);
      return this.#look(work);
    }
    for (const [layer, range] of pulled.entries()) {
      // Not before its own push of this layer is applied, at times: what it reads has its own writes in it.
      const own = this.#pushes.get(layer);
      const after = own !== undefined && this.#world.random.nextBelow(2) === 0 && this.#mayWait ? [own] : [];
      this.#pull(work, layer, range, after);
    }
  }

  /** A push is applied without another worker's next one only where each is applied at once. */
  get #mayWait(): boolean {
    return ["ssp", "async", "bsp"].includes(this.#world.scenario.consistency.kind);
  }

  #pull(work: Work, layer: number, range: KeyRange, after: readonly number[]): void {
    const { map, scenario, checker } = this.#world;
    const least = leastVersion(scenario.consistency, work.task.step);
    const pieces = piecesOf(map, range);
    checker.waitsFor(this.worker, this.#requests.next, after);
    const timestamp = this.#issue(
      pieces.map(({ server }) => server),
      after,
      {
        send: ({ timestamp: now, server, oldest }) =>
          this.#world.toServer(server, {
            ...{ kind: "pull", client: this.worker, timestamp: now, oldest, leastVersion: least },
            keys: pieces.find((piece) => piece.server === server)!.keys,
          }),
        finished: () => {
          checker.read(work.task.step, this.#versions.get(timestamp)!);
          this.#versions.delete(timestamp);
          work.missing.delete(layer);
          this.#compute(work);
        },
      },
    );
  }

  /** Said again while an announcement that is needed may be lost. */
  #subscribe({ task, missing }: Work): void {
    const { map, pulled, scenario } = this.#world;
    const least = leastVersion(scenario.consistency, task.step);
    for (const layer of missing) {
      for (const { server, keys } of piecesOf(map, pulled[layer]!)) {
        if ((this.#announced.get(`${layer} ${server}`) ?? -1) >= least) continue;
        const subscription = layer;
        this.#world.toServer(server, {
          kind: "subscribe",
          client: this.worker,
          subscription,
          keys,
          leastVersion: least,
        });
      }
    }
  }

  announced(server: number, layer: number, version: number): void {
    const key = `${layer} ${server}`;
    this.#announced.set(key, Math.max(version, this.#announced.get(key) ?? -1));
    for (const work of [...this.#works]) this.#look(work);
  }

  #look(work: Work): void {
    const { map, pulled, scenario, checker } = this.#world;
    const least = leastVersion(scenario.consistency, work.task.step);
    for (const layer of work.missing) {
      const versions = piecesOf(map, pulled[layer]!).map(
        ({ server }) => this.#announced.get(`${layer} ${server}`) ?? -1,
      );
      if (Math.min(...versions) < least) continue;
      checker.read(work.task.step, Math.min(...versions));
      work.missing.delete(layer);
    }
    this.#compute(work);
  }

  #compute(work: Work): void {
    if (work.missing.size > 0 || work.isComputed) return;
    work.isComputed = true;
    const { random, scenario, nowMs } = this.#world;
    const durationMs = scenario.computeMs[this.worker]! * (0.5 + random.nextFloat());
    this.#world.at(nowMs + durationMs, () => this.#computed(work));
  }

  #computed(work: Work): void {
    const { step, share, from, to } = work.task;
    const { layers, scenario } = this.#world;
    const losses = Array.from({ length: to - from }, (_, index) => lossOf(scenario.microBatches, step, from + index));
    this.#tell({ kind: "losses", step, share, losses });
    for (const [layer, range] of [...layers.entries()].toReversed()) this.#push(work, layer, range);
    this.#world.checker.clockEnds(this.worker, step);
    this.#ask();
  }

  #push(work: Work, layer: number, range: KeyRange): void {
    const { map } = this.#world;
    const { step, share } = work.task;
    const pieces = piecesOf(map, range);
    const keysOf = (at: number): RangeSet => pieces.find(({ server }) => server === at)!.keys;
    const timestamp = this.#requests.next;
    for (const { server, keys } of pieces)
      this.#world.checker.pushes(this.worker, timestamp, server, { step, share, keys });
    work.open.add(timestamp);
    this.#pushes.set(layer, timestamp);
    this.#issue(
      pieces.map(({ server }) => server),
      [],
      {
        send: ({ timestamp: now, server, oldest }) =>
          this.#world.toServer(server, {
            ...{ kind: "push", client: this.worker, timestamp: now, oldest, step, share, keys: keysOf(server) },
          }),
        finished: () => this.#applied(work, timestamp),
      },
    );
  }

  #applied(work: Work, timestamp: number): void {
    work.open.delete(timestamp);
    if (work.open.size > 0) return;
    this.#works.splice(this.#works.indexOf(work), 1);
    const { step, share } = work.task;
    this.#tell({ kind: "done", step, share });
  }
}

/** A number that shows which micro-batches were added up, and that falls. */
export function lossOf(microBatches: number, step: number, microBatch: number): number {
  return (1 + microBatch / 64) / (microBatches * (step + 1));
}
