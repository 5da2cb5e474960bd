/**
 * @file Slows the compute thread down to a stated speed, so that one machine can stand for several: the real arithmetic is
 * done, then the thread sleeps until the stated duration has passed. A sleep ends about 0.1 ms late; the next operation's
 * deadline comes earlier by as much, so the mean is exact without spinning, which many paced nodes on few cores could
 * not afford.
 */
import { assert } from "../types/assert.ts";
import { nowMs } from "./clock.ts";

/** Of lateness that is carried over. More comes of a machine that is overloaded, which the figures must show. */
const CARRIED_MS_MAX = 0.5;

/** Of all operations so far. */
export interface PaceCounts {
  readonly paced: number;
  /** Operations whose arithmetic alone took longer than stated. */
  readonly missed: number;
  /** The largest duration of a missed operation over the stated one; 1 where none was missed. */
  readonly worstRatio: number;
}

export class Pacer {
  readonly #flopsPerMs: number;
  /** Nobody notifies it. */
  readonly #sleep = new Int32Array(new SharedArrayBuffer(4));
  #startMs = 0;
  #statedMs = 0;
  /** When the arithmetic of the layers so far was done. */
  #computedMs = 0;
  #carriedMs = 0;
  #paced = 0;
  #missed = 0;
  #worstRatio = 1;

  constructor(gigaflops: number) {
    assert(Number.isFinite(gigaflops) && gigaflops > 0, `a pace of ${gigaflops} GFLOP/s is none`);
    this.#flopsPerMs = gigaflops * 1e6;
  }

  get counts(): PaceCounts {
    return { paced: this.#paced, missed: this.#missed, worstRatio: this.#worstRatio };
  }

  begin(startMs: number): void {
    this.#startMs = startMs;
    this.#statedMs = 0;
  }

  /** After `flops` more of the operation: sleeps until as much as is done so far should have taken. */
  sleepAfter(flops: number): void {
    if (flops === 0) return;
    this.#statedMs += flops / this.#flopsPerMs;
    this.#computedMs = nowMs();
    const remainingMs = this.#deadlineMs - this.#computedMs;
    if (remainingMs > 0) Atomics.wait(this.#sleep, 0, 0, remainingMs);
  }

  end(endMs: number): void {
    if (this.#statedMs === 0) return;
    this.#paced++;
    const ratio = (this.#computedMs - this.#startMs) / this.#statedMs;
    if (ratio > 1) {
      this.#missed++;
      this.#worstRatio = Math.max(this.#worstRatio, ratio);
    }
    const lateMs = endMs - this.#deadlineMs;
    this.#carriedMs = ratio > 1 ? 0 : Math.min(lateMs, CARRIED_MS_MAX);
  }

  get #deadlineMs(): number {
    return this.#startMs + this.#statedMs - this.#carriedMs;
  }
}
