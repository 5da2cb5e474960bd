/** @file What every data set offers, wherever its samples come from: features and integer labels, by index. */

/** An ordered list of samples that never changes; indices run from 0 to `count - 1` in file order. */
export interface Split {
  readonly count: number;
  /** Class of each sample, `[count]`, in [0, classes); owned by the data set, to be read only. */
  readonly labels: Int32Array;
  /**
   * Writes one sample's features as float32 to `into[offset .. offset + features)`, and nothing else. The caller owns
   * `into`, which has room; the data set keeps no reference to it.
   */
  fill(sample: number, into: Float32Array, offset: number): void;
}

export interface DataSet {
  /** As the user named it: `digits`, `mnist`, `csv:flowers.csv` … */
  readonly name: string;
  /** Features of a sample: the model's input width. */
  readonly features: number;
  /** Labels are below this: the model's output width. */
  readonly classes: number;
  /** Of the content, as 64 hexadecimal digits: equal on every machine, and part of the job's fingerprint. */
  readonly sha256: string;
  readonly train: Split;
  readonly test: Split;
}
