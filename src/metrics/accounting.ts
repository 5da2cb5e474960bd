/**
 * @file Where a node's wall time goes. Each instant counts once, by precedence: compute (the worker is busy) >
 * communication (the main thread is busy and the worker free) > run queue (runnable, but without a core) > wait.
 * The four add up to the wall time. Durations come in as numbers: this file reads no clock.
 */
import { assert } from "../types/assert.ts";

/** Milliseconds. */
export interface TimeSplit {
  readonly computeMs: number;
  readonly communicationMs: number;
  readonly runQueueMs: number;
  readonly waitMs: number;
}

/** Running totals of the main thread, read at one instant. */
export interface ThreadSample {
  readonly nowMs: number;
  /** Time in which the event loop was not polling, since some start. */
  readonly loopActiveMs: number;
  /** Time in which the thread was runnable without a core, since some start. */
  readonly runQueueMs: number;
}

/** What the worker says of one operation, on the common clock. */
export interface WorkerInterval {
  readonly startMs: number;
  readonly endMs: number;
  /** Time without a core since the worker's previous operation: part of the delay before `startMs`. */
  readonly runQueueMs: number;
}

export const noTime: TimeSplit = { computeMs: 0, communicationMs: 0, runQueueMs: 0, waitMs: 0 };

export function addTimes(a: TimeSplit, b: TimeSplit): TimeSplit {
  return {
    computeMs: a.computeMs + b.computeMs,
    communicationMs: a.communicationMs + b.communicationMs,
    runQueueMs: a.runQueueMs + b.runQueueMs,
    waitMs: a.waitMs + b.waitMs,
  };
}

export function wallOf(times: TimeSplit): number {
  return times.computeMs + times.communicationMs + times.runQueueMs + times.waitMs;
}

/** Wait over wall, in percent; 0 for no time at all. */
export function idlePercent(times: TimeSplit): number {
  const wall = wallOf(times);
  return wall > 0 ? (100 * times.waitMs) / wall : 0;
}

/**
 * Follows one node: `free` while the worker has nothing to do, until `dispatched`, then until `completed`. `total` is the split since
 * the account was opened.
 */
export class TimeAccount {
  #total: TimeSplit = noTime;
  /** The worker has been free since then; totals of the main thread as of then. */
  #since: ThreadSample;
  #dispatchedAt: number | undefined;
  /** Of work for others that was done between a dispatch and its operation. */
  #insertedMs = 0;

  constructor(opened: ThreadSample) {
    this.#since = opened;
  }

  get total(): TimeSplit {
    return this.#total;
  }

  /** The main thread hands an operation to the worker. */
  dispatched(sample: ThreadSample): void {
    assert(this.#dispatchedAt === undefined, "one operation at a time");
    this.#closeFree(sample);
    this.#dispatchedAt = sample.nowMs;
  }

  /** The main thread learns that the operation is over. The hops to the worker and back are communication. */
  completed(sample: ThreadSample, worker: WorkerInterval): void {
    const dispatchedAt = this.#dispatchedAt;
    assert(dispatchedAt !== undefined, "an operation ends that was dispatched");
    const elapsed = sample.nowMs - dispatchedAt;
    const computeMs = clamp(worker.endMs - worker.startMs + this.#insertedMs, 0, elapsed);
    this.#insertedMs = 0;
    const hops = elapsed - computeMs;
    const runQueueMs = clamp(worker.runQueueMs + sample.runQueueMs - this.#since.runQueueMs, 0, hops);
    this.#add({ computeMs, communicationMs: hops - runQueueMs, runQueueMs, waitMs: 0 });
    this.#since = sample;
    this.#dispatchedAt = undefined;
  }

  /** The operation was broken off: until now the worker was busy with it. */
  abandoned(sample: ThreadSample): void {
    const { nowMs: endMs } = sample;
    this.completed(sample, { startMs: this.#dispatchedAt ?? endMs, endMs, runQueueMs: 0 });
  }

  /** The worker did something between the node's own operations: a copy's update. */
  inserted(sample: ThreadSample, worker: WorkerInterval): void {
    const computeMs = worker.endMs - worker.startMs;
    if (this.#dispatchedAt === undefined) this.#closeFree(sample, computeMs);
    else this.#insertedMs += computeMs;
  }

  /** Brings `total` up to now while the worker is free. */
  settle(sample: ThreadSample): void {
    if (this.#dispatchedAt === undefined) this.#closeFree(sample);
  }

  /** @param busyMs of it the worker was not free */
  #closeFree(sample: ThreadSample, busyMs = 0): void {
    const wallMs = Math.max(0, sample.nowMs - this.#since.nowMs);
    const computeMs = clamp(busyMs, 0, wallMs);
    const elapsed = wallMs - computeMs;
    const runQueueMs = clamp(sample.runQueueMs - this.#since.runQueueMs, 0, elapsed);
    const active = sample.loopActiveMs - this.#since.loopActiveMs;
    const communicationMs = clamp(active, 0, elapsed - runQueueMs);
    this.#add({ computeMs, communicationMs, runQueueMs, waitMs: elapsed - runQueueMs - communicationMs });
    this.#since = sample;
  }

  #add(times: TimeSplit): void {
    this.#total = addTimes(this.#total, times);
  }
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
