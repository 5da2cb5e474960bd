/**
 * @file Entry of the compute thread: one segment, one operation at a time. The thread sleeps in `Atomics.wait` between
 * operations: waking it so costs half of what an event loop's message does.
 */
import { openSync, readSync } from "node:fs";
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { planSegment, type SegmentInit, segmentMemory } from "../nn/layout.ts";
import { Segment } from "../nn/segment.ts";
import { loadShards, saveShard } from "../nn/shard.ts";
import { assert, unreachable } from "../types/assert.ts";
import { nowMs } from "./clock.ts";
import { type Operation, type OperationTimes, type Outcomes, type Reply, sendableError } from "./compute-operations.ts";

export interface WorkerInit {
  readonly segment: SegmentInit;
  readonly engine: EngineKind;
  readonly restore: readonly string[];
  readonly memory: EngineMemory["memory"];
  readonly port: MessagePort;
  /** int32: [operations sent, replies sent], the start's reply included. */
  readonly turns: Int32Array;
}

const { segment: segmentInit, engine, restore, memory: shared, port, turns } = workerData as WorkerInit;

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
  readonly #segment: Segment;
  readonly #runQueue = new RunQueue();

  constructor() {
    const kernels = loadKernels(engine, shared);
    const layout = planSegment(segmentInit, kernels);
    this.#memory = segmentMemory(layout, shared);
    this.#segment = new Segment(layout, this.#memory, kernels);
    if (restore.length > 0) this.#load(restore);
    else this.#segment.initialize();
    this.#runQueue.elapsedMs();
  }

  get step(): number {
    return this.#segment.step;
  }

  run(operation: Operation): Outcomes[keyof Outcomes] & OperationTimes {
    const runQueueMs = this.#runQueue.elapsedMs();
    const startMs = nowMs();
    const outcome = this.#perform(operation);
    return { ...outcome, startMs, endMs: nowMs(), runQueueMs };
  }

  #perform(operation: Operation): Outcomes[keyof Outcomes] {
    switch (operation.kind) {
      case "forward":
        return this.#segment.forward(operation.slot);
      case "evaluate":
        return this.#segment.evaluate(operation.slot);
      case "backward":
        return this.#backward(operation.slot);
      case "backwardInput":
        this.#segment.backwardInput(operation.slot);
        return {};
      case "backwardWeight":
        this.#segment.backwardWeight(operation.slot);
        return {};
      case "update":
        this.#segment.update(operation.step);
        return {};
      case "digests":
        return { digests: this.#segment.digests() };
      case "save":
        assert(operation.step === this.step, `step ${this.step} comes next, not ${operation.step}`);
        return saveShard(operation.file, this.#segment.layout, this.#memory, operation.step);
      case "load":
        return { step: this.#load(operation.files) };
    }
    unreachable(operation);
  }

  #backward(slot: number): Outcomes["backward"] {
    this.#segment.backwardInput(slot);
    const boundaryMs = nowMs();
    this.#segment.backwardWeight(slot);
    return { boundaryMs };
  }

  #load(files: readonly string[]): number {
    const step = loadShards(files, this.#segment.layout, this.#memory);
    this.#segment.reset(step);
    return step;
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
