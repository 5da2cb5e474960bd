/**
 * @file The times of one stage: its account from the first step's start to the last step's end, the steady part of it, the
 * medians of its operations and steps.
 */
import { idlePercent, noTime, type TimeAccount, type TimeSplit, type WorkerInterval } from "../metrics/accounting.ts";
import { median } from "../metrics/summary.ts";
import type { ThreadSampler } from "./process-sample.ts";

/** Newest durations that a median is taken over. */
const KEPT_DURATIONS = 2048;
/** Shorter gaps between operations are not drawn as waits. */
const DRAWN_WAIT_MS = 0.05;

class Durations {
  readonly #values: number[] = [];
  #next = 0;

  add(milliseconds: number): void {
    this.#values[this.#next % KEPT_DURATIONS] = milliseconds;
    this.#next += 1;
  }

  get median(): number {
    return median(this.#values);
  }
}

export class StageClockwork {
  readonly #account: TimeAccount;
  readonly #sampler: ThreadSampler;
  readonly #durations = { F: new Durations(), B: new Durations(), W: new Durations(), update: new Durations() };
  readonly #steps = new Durations();
  #firstStep: number | undefined;
  #stepStartedMs = 0;
  #begin: TimeSplit = noTime;
  #steadyBegin: TimeSplit = noTime;
  #steadyEnd: TimeSplit = noTime;
  #end: TimeSplit = noTime;
  #lastOperationEndMs: number | undefined;

  constructor(account: TimeAccount, sampler: ThreadSampler) {
    this.#account = account;
    this.#sampler = sampler;
  }

  /** Runs one operation of the worker, and books what it took. */
  async timed<Result extends WorkerInterval>(run: () => Promise<Result>): Promise<Result> {
    this.#account.dispatched(this.#sampler.sample());
    const result = await run();
    this.#account.completed(this.#sampler.sample(), result);
    return result;
  }

  /** Called before the step's first forward. */
  stepStarted(step: number): void {
    const sample = this.#sampler.sample();
    this.#account.settle(sample);
    const total = this.#account.total;
    if (this.#firstStep === undefined) {
      this.#firstStep = step;
      this.#begin = this.#steadyBegin = total;
    } else {
      this.#steps.add(sample.nowMs - this.#stepStartedMs);
      if (step === this.#firstStep + 1) this.#steadyBegin = total;
    }
    this.#stepStartedMs = sample.nowMs;
    this.#steadyEnd = total;
    this.#lastOperationEndMs ??= sample.nowMs;
  }

  stepEnded(): void {
    this.#end = this.#account.total;
  }

  /** Files the duration; returns since when the worker waited for this operation, where that is worth drawing. */
  noteOperation(kind: "F" | "B" | "W" | "update", startMs: number, endMs: number): number | undefined {
    this.#durations[kind].add(endMs - startMs);
    const waitedFromMs = this.#lastOperationEndMs;
    this.#lastOperationEndMs = endMs;
    return waitedFromMs !== undefined && startMs - waitedFromMs > DRAWN_WAIT_MS ? waitedFromMs : undefined;
  }

  /** From the first step's start to the last step's end. */
  get times(): TimeSplit {
    return difference(this.#end, this.#begin);
  }

  /** From the second step's start to the last step's start. */
  get steadyTimes(): TimeSplit {
    return difference(this.#steadyEnd, this.#steadyBegin);
  }

  /** Since the first step's start, as of the last operation. */
  get idlePercent(): number {
    return idlePercent(difference(this.#account.total, this.#begin));
  }

  get stepMsMedian(): number {
    return this.#steps.median;
  }

  get costs(): {
    readonly forward: number;
    readonly backward: number;
    readonly weight: number;
    readonly update: number;
  } {
    const { F, B, W, update } = this.#durations;
    return { forward: F.median, backward: B.median, weight: W.median, update: update.median };
  }
}

function difference(end: TimeSplit, begin: TimeSplit): TimeSplit {
  return {
    computeMs: end.computeMs - begin.computeMs,
    communicationMs: end.communicationMs - begin.communicationMs,
    runQueueMs: end.runQueueMs - begin.runQueueMs,
    waitMs: end.waitMs - begin.waitMs,
  };
}
