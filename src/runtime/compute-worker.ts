/**
 * @file Entry of the compute thread: one segment a lap, one operation at a time. The thread sleeps in `Atomics.wait` between
 * operations: waking it so costs half of what an event loop's message does.
 */
import { openSync, readSync } from "node:fs";
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { type LayerPass, operationFlops } from "../nn/flops.ts";
import { type LayerLayout, planSegments, type SegmentInit, type SegmentLayout, segmentMemory } from "../nn/layout.ts";
import { Segment } from "../nn/segment.ts";
import { loadShards, saveShard } from "../nn/shard.ts";
import { assert, defined, unreachable } from "../types/assert.ts";
import { nowMs } from "./clock.ts";
import { LayerTimes } from "./compute-layer-times.ts";
import {
  type LayerDigest, type Operation, type OperationTimes, type Outcomes, type Reply, sendableError,
} from "./compute-operations.ts"; // prettier-ignore
import { Pacer } from "./compute-pace.ts";

export interface WorkerInit {
  readonly segments: readonly SegmentInit[];
  readonly engine: EngineKind;
  readonly restore: readonly string[];
  /** The step that comes next where the memory holds the state already. */
  readonly filledStep: number | null;
  readonly pace: number | null;
  readonly memory: EngineMemory["memory"];
  readonly port: MessagePort;
  /** int32: [operations sent, replies sent], the start's reply included. */
  readonly turns: Int32Array;
}

const { segments: inits, engine, restore, filledStep, pace, memory: shared, port, turns } = workerData as WorkerInit;

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

function reply<Value>(value: Reply<Value>): void {
  port.postMessage(value);
  Atomics.add(turns, 1, 1);
  Atomics.notify(turns, 1);
}

class Worker {
  readonly #memory: EngineMemory;
  readonly #segments: readonly Segment[];
  readonly #runQueue = new RunQueue();
  readonly #layerTimes: LayerTimes;
  readonly #pacer = pace === null ? null : new Pacer(pace);
  /** When the layer under way began. */
  #layerStartMs = 0;
  #isTraining = true;

  constructor() {
    const kernels = loadKernels(engine, shared);
    const layouts = planSegments(inits, kernels);
    this.#memory = segmentMemory(layouts, shared);
    this.#layerTimes = new LayerTimes(layouts.flatMap(({ layers }) => layers.map(({ index }) => index)));
    this.#segments = layouts.map(
      (layout) => new Segment(layout, this.#memory, kernels, (layer, pass) => this.#afterLayer(layout, layer, pass)),
    );
    if (restore.length > 0) this.#load(restore);
    else if (filledStep !== null) for (const segment of this.#segments) segment.reset(filledStep);
    else for (const segment of this.#segments) segment.initialize();
    this.#runQueue.elapsedMs();
  }

  get step(): number {
    return this.#segment(0).step;
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
      case "backward":
        return this.#backward(this.#segment(operation.lap), operation.slot);
      case "backwardInput":
        this.#segment(operation.lap).backwardInput(operation.slot);
        return {};
      case "weightLayer":
        this.#segment(operation.lap).backwardWeightLayer(operation.slot, operation.layer);
        return {};
      case "update":
        for (const segment of this.#segments) segment.update(operation.step);
        return { layerUs: this.#layerTimes.mediansUs(), pace: this.#pacer?.counts ?? null };
      case "digests":
        return { digests: this.#digests() };
      case "save":
        assert(operation.step === this.step, `step ${this.step} comes next, not ${operation.step}`);
        return saveShard(operation.file, this.#segment(operation.lap).layout, this.#memory, operation.step);
      case "load":
        return { step: this.#load(operation.files) };
    }
    unreachable(operation);
  }

  #segment(lap: number): Segment {
    return defined(this.#segments[lap], `lap ${lap} has a segment`);
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

  #load(files: readonly string[]): number {
    for (const segment of this.#segments) segment.reset(loadShards(files, segment.layout, this.#memory));
    return this.step;
  }
}

function main(): void {
  let worker: Worker;
  try {
    worker = new Worker();
    reply({ ok: true, value: { step: worker.step } });
  } catch (error) {
    reply({ ok: false, error: sendableError(error) });
    // Until it is terminated: its end would be heard before the error, and told instead.
    Atomics.wait(turns, 0, 0);
    return;
  }
  for (let turn = 0; ; turn++) {
    // The main thread sends, counts and then notifies: only the count says that a message is there, since the notice of the
    // turn before may come late and end this wait. It ends this thread by terminating it.
    while (Atomics.load(turns, 0) === turn) Atomics.wait(turns, 0, turn);
    const operation = receiveMessageOnPort(port)?.message as Operation;
    try {
      reply({ ok: true, value: worker.run(operation) });
    } catch (error) {
      reply({ ok: false, error: sendableError(error) });
    }
  }
}

main();
