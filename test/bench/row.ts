/** @file One line of a benchmark's table. */

export interface BenchRow {
  readonly name: string;
  /** Median of the repetitions. */
  readonly value: number;
  readonly unit: string;
  /** Smallest and largest repetition, in the same unit: `12.1..14.0`. */
  readonly spread: string;
  /** What it is measured beside in the same run, as a ratio. */
  readonly beside?: string;
}
