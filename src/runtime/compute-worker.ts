/**
 * @file Entry of the compute thread: one segment a lap, replicas, one operation at a time. The thread sleeps in `Atomics.wait`
 * between operations: waking it so costs half of what an event loop's message does.
 */
import { openSync, readSync } from "node:fs";
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { type LayerPass, operationFlops } from "../nn/flops.ts";
import { HeldState, type StateDigest } from "../nn/held-state.ts";
import {
  type HeldLayout, type LayerLayout, planReplicas, planSegments, type ReplicaInit, type SegmentInit, type SegmentLayout, segmentMemory,
} from "../nn/layout.ts"; // prettier-ignore
import { Segment } from "../nn/segment.ts";
import { loadShards, saveShard } from "../nn/shard.ts";
import { assert, defined, unreachable } from "../types/assert.ts";
import { nowMs } from "./clock.ts";
import { LayerTimes } from "./compute-layer-times.ts";
import {
  type LayerDigest, type LoadedState, type Operation, type OperationTimes, type Outcomes, type Reply, sendableError,
} from "./compute-operations.ts"; // prettier-ignore
import { Pacer } from "./compute-pace.ts";

/** The first message; operations follow. */
export interface WorkerInit {
  readonly segments: readonly SegmentInit[];
  /** Null without redundancy. */
  readonly replicas: readonly ReplicaInit[] | null;
  readonly engine: EngineKind;
  readonly restore: readonly string[];
  /** The step that comes next where the memory holds the segments' state already. */
  readonly filledStep: number | null;
  readonly pace: number | null;
  readonly memory: EngineMemory["memory"];
}

export interface WorkerPort {
  readonly port: MessagePort;
  /** int32: [messages sent, replies sent]. */
  readonly turns: Int32Array;
}

const { port, turns } = workerData as WorkerPort;

/** How long this thread waited for a core, from the kernel's own account (proc(5), schedstat, second field). */
class RunQueue {
  readonly #descriptor: number | null = openOrNull("/proc/thread-self/schedstat");
  readonly #text = Buffer.alloc(128);
  #totalMs = 0;

  /** Milliseconds since the last call. */
  elapsedMs(): number {
    if (this.#descriptor === null) return 0;
    const length = readSync(this.#descriptor, this.#text, 0, this.#text.length, 0);
    const totalMs = Number(this.#text.toString("latin1", 0, length).split(" ")[1]) / 1e6;
    const elapsedMs = totalMs - this.#totalMs;
    this.#totalMs = totalMs;
    return elapsedMs;
  }
}

function openOrNull(file: string): number | null {
  try {
    return openSync(file, "r");
  } catch {
    return null;
  }
}

interface Replica {
  readonly layout: HeldLayout;
  readonly state: HeldState;
}

class Worker {
  readonly #memory: EngineMemory;
  readonly #segments: readonly Segment[];
  readonly #replicas: readonly Replica[];
  readonly #isRedundant: boolean;
  readonly #runQueue = new RunQueue();
  readonly #layerTimes: LayerTimes;
  readonly #pacer: Pacer | null;
  /** When the layer under way began. */
  #layerStartMs = 0;
  #firstStep = 0;
  #isTraining = true;

  constructor({ segments, replicas, engine, pace, memory }: WorkerInit) {
    this.#pacer = pace === null ? null : new Pacer(pace);
    this.#isRedundant = replicas !== null;
    const kernels = loadKernels(engine, memory);
    const layouts = planSegments(segments, kernels, this.#isRedundant);
    const replicaLayouts = planReplicas(replicas ?? [], layouts);
    this.#memory = segmentMemory([...layouts, ...replicaLayouts], memory);
    this.#layerTimes = new LayerTimes(layouts.flatMap(({ layers }) => layers.map(({ index }) => index)));
    this.#segments = layouts.map(
      (layout) => new Segment(layout, this.#memory, kernels, (layer, pass) => this.#afterLayer(layout, layer, pass)),
    );
    this.#replicas = replicaLayouts.map((layout) => ({ layout, state: new HeldState(layout, this.#memory, kernels) }));
  }

  start(init: WorkerInit): LoadedState {
    const loaded = this.#firstState(init);
    // What was waited before is no operation's.
    this.#runQueue.elapsedMs();
    return loaded;
  }

  /** Replicas in a memory that is filled already are told of one by one. */
  #firstState({ restore, filledStep }: WorkerInit): LoadedState {
    this.#firstStep = filledStep ?? 0;
    if (restore.length > 0) return this.#load(restore);
    if (filledStep !== null) {
      for (const segment of this.#segments) segment.reset(filledStep);
      return this.#loaded([]);
    }
    for (const segment of this.#segments) segment.initialize();
    for (const { state } of this.#replicas) state.initialize();
    return this.#loaded(this.#replicas);
  }

  /** That comes next. A spare has copies alone, and says the step that it began with. */
  get step(): number {
    return this.#segments[0]?.step ?? this.#firstStep;
  }

  run(operation: Operation): Outcomes[keyof Outcomes] & OperationTimes {
    const runQueueMs = this.#runQueue.elapsedMs();
    const startMs = nowMs();
    this.#layerStartMs = startMs;
    this.#isTraining = operation.kind !== "evaluate";
    this.#pacer?.begin(startMs);
    const outcome = this.#perform(operation);
    const endMs = nowMs();
    this.#pacer?.end(endMs);
    return { ...outcome, startMs, endMs, runQueueMs };
  }

  #perform(operation: Operation): Outcomes[keyof Outcomes] {
    switch (operation.kind) {
      case "forward":
        return this.#segment(operation.lap).forward(operation.slot);
      case "evaluate":
        return this.#segment(operation.lap).evaluate(operation.slot);
      case "abandon":
        this.#segment(operation.lap).abandon(operation.slot);
        return {};
      case "backward":
        return this.#backward(this.#segment(operation.lap), operation.slot);
      case "backwardInput":
        this.#segment(operation.lap).backwardInput(operation.slot);
        return {};
      case "weightLayer":
        this.#segment(operation.lap).backwardWeightLayer(operation.slot, operation.layer);
        return { pace: this.#pacer?.counts ?? null };
      case "update":
        return this.#update(operation.step);
      case "replicaUpdate":
        return { states: this.#replica(operation.replica).update(operation.step, operation.slice, operation.slices) };
      case "replicaFilled":
        return { states: this.#replicaFilled(operation.replica, operation.step) };
      case "digests":
        return { digests: this.#digests() };
      case "save":
        assert(operation.step === this.step, `step ${this.step} comes next, not ${operation.step}`);
        return saveShard(operation.file, this.#segment(operation.lap).layout, this.#memory, operation.step);
      case "load":
        return this.#load(operation.files);
    }
    unreachable(operation);
  }

  #segment(lap: number): Segment {
    return defined(this.#segments[lap], `lap ${lap} has a segment`);
  }

  #replica(index: number): HeldState {
    return defined(this.#replicas[index], `replica ${index} is there`).state;
  }

  #update(step: number): Outcomes["update"] {
    const states = this.#segments.flatMap((segment) => segment.update(step));
    return { layerUs: this.#layerTimes.mediansUs(), pace: this.#pacer?.counts ?? null, states };
  }

  #replicaFilled(index: number, step: number): readonly StateDigest[] {
    const replica = this.#replica(index);
    replica.reset(step);
    return replica.digests();
  }

  /** Evaluation is no part of a step: it takes what it needs, and tells nothing of what a step costs. */
  #afterLayer({ init }: SegmentLayout, { index, spec }: LayerLayout, pass: LayerPass): void {
    if (!this.#isTraining) return;
    this.#pacer?.sleepAfter(operationFlops(spec, init.rows, pass, index === 0));
    const endMs = nowMs();
    this.#layerTimes.add(index, pass, endMs - this.#layerStartMs);
    this.#layerStartMs = endMs;
  }

  #backward(segment: Segment, slot: number): Outcomes["backward"] {
    segment.backwardInput(slot);
    const boundaryMs = nowMs();
    segment.backwardWeight(slot);
    return { boundaryMs };
  }

  #digests(): LayerDigest[] {
    const digests = this.#segments.flatMap((segment) =>
      segment.digests().map((digest, i) => ({ layer: segment.layout.init.layers[0] + i, digest })),
    );
    return digests.toSorted((a, b) => a.layer - b.layer);
  }

  #load(files: readonly string[]): LoadedState {
    for (const segment of this.#segments) segment.reset(loadShards(files, segment.layout, this.#memory));
    for (const { layout, state } of this.#replicas) state.reset(loadShards(files, layout, this.#memory));
    return this.#loaded(this.#replicas);
  }

  #loaded(replicas: readonly Replica[]): LoadedState {
    const { step } = this;
    if (!this.#isRedundant) return { step, states: [] };
    const own = this.#segments.flatMap((segment) => segment.stateDigests());
    return { step, states: [...own, ...replicas.flatMap(({ state }) => state.digests())] };
  }
}

/**
 * Waits for the message of a turn, of which there is always one more: the main thread ends this thread by terminating it. It
 * sends, counts and then notifies: only the count says that a message is there, since the notice of the turn before may come
 * late and end this wait.
 */
function receive(turn: number): unknown {
  while (Atomics.load(turns, 0) === turn) Atomics.wait(turns, 0, turn);
  return receiveMessageOnPort(port)?.message;
}

function answer(work: () => object): void {
  let answered: Reply<object>;
  try {
    answered = { ok: true, value: work() };
  } catch (error) {
    answered = { ok: false, error: sendableError(error) };
  }
  port.postMessage(answered);
  Atomics.add(turns, 1, 1);
  Atomics.notify(turns, 1);
}

function main(): void {
  const init = receive(0) as WorkerInit;
  let worker: Worker | undefined;
  answer(() => (worker = new Worker(init)).start(init));
  // Where the start failed, no operation comes.
  for (let turn = 1; ; turn++) {
    const operation = receive(turn) as Operation;
    answer(() => defined(worker, "the thread has started").run(operation));
  }
}

main();
