/**
 * @file How long a silence is too long for a peer, from the times between its newest frames: phi-accrual (Hayashibara et al.
 * 2004, "The phi accrual failure detector") with normally distributed intervals. Holds at most `INTERVALS_MAX` numbers.
 */

/** A silence is too long when a live peer would be as silent once in 10^8 times. */
export const PHI_LIMIT = 8;
export const INTERVALS_MAX = 100;
/** A regular peer is given this much of a deviation all the same. */
export const DEVIATION_MS_MIN = 20;
/** An outage that healed counts for no longer, or the next one would go unseen for too long. */
export const INTERVAL_MS_MAX = 5_000;

const FRACTION_DEPTH = 60;

/** The chance that a standard normal number is above `deviations`, from 2 on: Laplace's continued fraction. */
function normalTail(deviations: number): number {
  let denominator = deviations;
  for (let depth = FRACTION_DEPTH; depth >= 1; depth -= 1) denominator = deviations + depth / denominator;
  return Math.exp(-(deviations ** 2) / 2) / Math.sqrt(2 * Math.PI) / denominator;
}

/** How many deviations above the mean phi, which is -log10 of the tail, is `phi`. For phi of 2 to 100. */
function deviationsAt(phi: number): number {
  let [low, high] = [2, 22];
  while (high - low > 1e-9) {
    const middle = (low + high) / 2;
    if (-Math.log10(normalTail(middle)) < phi) low = middle;
    else high = middle;
  }
  return high;
}

const DEVIATIONS = deviationsAt(PHI_LIMIT);

/** The times between the newest frames of one peer. */
export class ArrivalIntervals {
  readonly #intervalsMs: number[] = [];
  #next = 0;

  add(intervalMs: number): void {
    this.#intervalsMs[this.#next] = Math.min(intervalMs, INTERVAL_MS_MAX);
    this.#next = (this.#next + 1) % INTERVALS_MAX;
  }

  /** The silence at which phi reaches `PHI_LIMIT`; 0 before the second interval. */
  get limitMs(): number {
    const count = this.#intervalsMs.length;
    if (count < 2) return 0;
    const mean = this.#intervalsMs.reduce((sum, interval) => sum + interval, 0) / count;
    const squares = this.#intervalsMs.reduce((sum, interval) => sum + (interval - mean) ** 2, 0);
    return mean + DEVIATIONS * Math.max(DEVIATION_MS_MIN, Math.sqrt(squares / count));
  }
}
