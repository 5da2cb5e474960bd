/** @file When a view that commits nothing is given up: after a time that steps never take, doubled with each view in vain, so that slow rings come to rest. */

const LEAST_MS = 5_000;
const STEPS = 8;

export class StallClock {
  #sinceMs: number;
  #factor = 1;

  constructor(nowMs: number) {
    this.#sinceMs = nowMs;
  }

  /** Nothing was to be expected until now: a view begins, or does not train. */
  reset(nowMs: number): void {
    this.#sinceMs = nowMs;
  }

  committed(nowMs: number): void {
    this.#sinceMs = nowMs;
    this.#factor = 1;
  }

  /** How long nothing was committed, where that is too long; it then counts anew. `stepMs`: what a step usually takes, asked for where it counts. */
  stalledMs(nowMs: number, stepMs: () => number): number | undefined {
    const forMs = nowMs - this.#sinceMs;
    if (forMs <= this.#factor * LEAST_MS || forMs <= this.#factor * STEPS * stepMs()) return undefined;
    this.#sinceMs = nowMs;
    this.#factor *= 2;
    return forMs;
  }
}
