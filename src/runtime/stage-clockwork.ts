/**
 * @file The times of one stage: its account from the first step's start to the last step's end, the steady part of it, the
 * medians of its operations and steps.
 */
import { idlePercent, noTime, type TimeAccount, type TimeSplit, type WorkerInterval } from "../metrics/accounting.ts";
import { median, type NodeCosts } from "../metrics/summary.ts";
import type { ThreadSampler } from "./process-sample.ts";

/** Newest durations that a median is taken over. */
const KEPT_DURATIONS = 2048;
/** Of those, what decisions go by: they are made in every step, and a median of all would hold up what comes next. */
const RECENT_DURATIONS = 32;
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

  get recentMedian(): number {
    const count = Math.min(RECENT_DURATIONS, this.#values.length);
    const recent = Array.from({ length: count }, (_, age) => this.#values[(this.#next - 1 - age) % KEPT_DURATIONS]!);
    return median(recent);
  }
}

export class StageClockwork {
  readonly #account: TimeAccount;
  readonly #sampler: ThreadSampler;
  /** By lap. */
  #durations: { readonly F: Durations; readonly B: Durations; readonly W: Durations }[];
  readonly #updates = new Durations();
  /** Of the W whose first slices are done. */
  #partialWeightMs = 0;
  readonly #steps = new Durations();
  #firstStep: number | undefined;
  #newestStep = 0;
  #stepStartedMs = 0;
  #begin: TimeSplit = noTime;
  #steadyBegin: TimeSplit = noTime;
  #steadyEnd: TimeSplit = noTime;
  #end: TimeSplit = noTime;
  #lastOperationEndMs: number | undefined;

  constructor(account: TimeAccount, sampler: ThreadSampler, laps: number) {
    this.#account = account;
    this.#sampler = sampler;
    this.#durations = Array.from({ length: laps }, noDurations);
  }

  /** Other layers are here, on so many laps: what was measured before is of others. */
  segmentsChanged(laps: number): void {
    this.#durations = Array.from({ length: laps }, noDurations);
  }

  /** Runs one operation of the worker, and books what it took. */
  async timed<Result extends WorkerInterval>(run: () => Promise<Result>): Promise<Result> {
    this.#account.dispatched(this.#sampler.sample());
    try {
      const result = await run();
      this.#account.completed(this.#sampler.sample(), result);
      return result;
    } catch (error) {
      this.#account.abandoned(this.#sampler.sample());
      throw error;
    }
  }

  /** Books what the worker did between the stage's operations. */
  inserted(worker: WorkerInterval): void {
    this.#account.inserted(this.#sampler.sample(), worker);
  }

  /** Called before the step's first forward. */
  stepStarted(step: number): void {
    this.#newestStep = step;
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

  /**
   * Files the duration; returns since when the worker waited for this operation, where that is worth drawing.
   * @param isWhole false for the slices of a W but the last
   */
  noteOperation(
    kind: "F" | "B" | "W",
    lap: number,
    startMs: number,
    endMs: number,
    isWhole = true,
  ): number | undefined {
    const before = kind === "W" ? this.#partialWeightMs : 0;
    const durationMs = before + endMs - startMs;
    if (kind === "W") this.#partialWeightMs = isWhole ? 0 : durationMs;
    if (isWhole) this.#durations[lap]?.[kind].add(durationMs);
    return this.#waitedFrom(startMs, endMs);
  }

  noteUpdate(startMs: number, endMs: number): number | undefined {
    this.#updates.add(endMs - startMs);
    return this.#waitedFrom(startMs, endMs);
  }

  #waitedFrom(startMs: number, endMs: number): number | undefined {
    const waitedFromMs = this.#lastOperationEndMs;
    this.#lastOperationEndMs = endMs;
    return waitedFromMs !== undefined && startMs - waitedFromMs > DRAWN_WAIT_MS ? waitedFromMs : undefined;
  }

  /** Since when the worker has had nothing to do, as far as its results tell. */
  get lastOperationEndMs(): number | undefined {
    return this.#lastOperationEndMs;
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

  /** Begun last; 0 before the first. */
  get newestStep(): number {
    return this.#newestStep;
  }

  get stepMsMedian(): number {
    return this.#steps.median;
  }

  /** As `stepMsMedian`, of the newest steps. */
  get recentStepMs(): number {
    return this.#steps.recentMedian;
  }

  /** As `costs`, of the newest micro-batches. */
  get recentCosts(): NodeCosts["laps"] {
    return this.#durations.map(({ F, B, W }) => ({
      forward: F.recentMedian,
      backward: B.recentMedian,
      weight: W.recentMedian,
    }));
  }

  /** Medians of one micro-batch, by lap, and of an update. */
  get costs(): NodeCosts {
    const laps = this.#durations.map(({ F, B, W }) => ({ forward: F.median, backward: B.median, weight: W.median }));
    return { laps, update: this.#updates.median };
  }
}

function noDurations() {
  return { F: new Durations(), B: new Durations(), W: new Durations() };
}

function difference(end: TimeSplit, begin: TimeSplit): TimeSplit {
  return {
    computeMs: end.computeMs - begin.computeMs,
    communicationMs: end.communicationMs - begin.communicationMs,
    runQueueMs: end.runQueueMs - begin.runQueueMs,
    waitMs: end.waitMs - begin.waitMs,
  };
}
