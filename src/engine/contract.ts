/**
 * @file What every engine offers: kernels on one shared memory. Addresses are byte offsets into that memory, multiples
 * of 4 (of 64 for what `EngineMemory` allocates); arrays are float32, row-major, without gaps, and never overlap
 * unless a kernel says so. A kernel's result depends on its arguments alone, never on the node or on where the model was
 * cut.
 */

/** An array in the engine's memory. Its owner is whoever allocated it; views are never freed one by one. */
export interface View {
  readonly offsetBytes: number;
  readonly shape: readonly number[];
  /** Elements: the product of `shape`. */
  readonly length: number;
}

/** Engines that this version runs, the fastest first. */
export const ENGINE_KINDS = ["wasm", "wasm-exact"] as const;
export type EngineKind = (typeof ENGINE_KINDS)[number];

/** Elements. */
export const DIGEST_CHUNK = 256;
export const DIGEST_BYTES = 16;
export const ACCUMULATORS_BYTES = 64;

export interface Kernels {
  // Products: m, n and k are at least 1. Every element is one chain over k from zero, the same in all three, so its bits
  // depend on k and its two factors alone: rows give the same result alone as in a larger micro-batch.
  /** c[m,n] = a[m,k] · b[k,n]. */
  matmul(a: number, b: number, c: number, m: number, n: number, k: number, scratch: number): void;
  /** c[m,n] = a[m,k] · b[n,k]ᵀ. */
  matmulTransposedB(a: number, b: number, c: number, m: number, n: number, k: number, scratch: number): void;
  /** c[m,n] += a[k,m]ᵀ · b[k,n]: the product is summed completely from zero, then added once. */
  matmulTransposedAAdd(a: number, b: number, c: number, m: number, n: number, k: number, scratch: number): void;
  /** Bytes of scratch that a product with these sizes may use, whichever transposition. */
  matmulScratchBytes(m: number, n: number, k: number): number;

  /** y[rows,columns] += bias[columns], in place. */
  addBias(y: number, bias: number, rows: number, columns: number): void;
  /**
   * gradient[columns] += Σ_rows dy[rows,columns]: the column's sum is completed from zero in row order, then added once.
   * Needs columns · 4 bytes of scratch.
   */
  sumRowsAdd(dy: number, gradient: number, rows: number, columns: number, scratch: number): void;

  /** y = activation(x), count elements; y may be x. */
  relu(x: number, y: number, count: number): void;
  /** gelu(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))) (Hendrycks and Gimpel 2016). */
  gelu(x: number, y: number, count: number): void;
  tanh(x: number, y: number, count: number): void;
  /** dx = dy · activation'(…); dx may be dy. relu and tanh take their output y, gelu its input x. */
  reluBackward(y: number, dy: number, dx: number, count: number): void;
  geluBackward(x: number, dy: number, dx: number, count: number): void;
  tanhBackward(y: number, dy: number, dx: number, count: number): void;

  /**
   * Softmax and cross-entropy. logits[rows,classes] float32, labels[rows] int32 (negative: the row does not count).
   * Writes gradient[rows,classes] = (softmax − onehot) · scale, the sum of the rows' losses as float64 at `loss`, and the
   * number of rows whose largest logit (ties: lowest class) is the label as int32 at `correct`. A label beyond
   * the classes makes the loss NaN.
   */
  softmaxCrossEntropy(
    logits: number,
    labels: number,
    gradient: number,
    rows: number,
    classes: number,
    scale: number,
    loss: number,
    correct: number,
  ): void;

  /** y = x, count elements. */
  copy(x: number, y: number, count: number): void;

  // A 128-bit digest of arrays, the same on every engine: for each array in turn begin, add its parts in order, end. All
  // parts but the last are multiples of DIGEST_CHUNK elements. A single changed word changes the digest for certain.
  /** Sets 64 bytes of accumulators up for an array of `count` elements. */
  digestBegin(accumulators: number, count: number): void;
  digestAdd(accumulators: number, x: number, count: number): void;
  /** Folds the array into the 16 bytes at `digest`, which are zero before the first array. */
  digestEnd(accumulators: number, digest: number): void;

  /** Index of the first element that is not finite, or -1. */
  firstNotFinite(x: number, count: number): number;

  // Optimizers: weights and state are updated in place, and the gradient is zero afterwards.
  /** w -= rate·g. */
  sgd(w: number, g: number, count: number, rate: number): void;
  /** v = beta·v + g; w -= rate·v. */
  momentum(w: number, g: number, v: number, count: number, rate: number, beta: number): void;
  /**
   * Kingma and Ba 2015: m = b1·m + (1−b1)·g; v = b2·v + (1−b2)·g²; w −= rate·(m/c1) / (√(v/c2) + epsilon), where c1 = 1−b1^t and
   * c2 = 1−b2^t are given. `decay` > 0 is AdamW's decoupled weight decay (Loshchilov and Hutter 2019): w −= rate·decay·w first.
   */
  adam(
    w: number,
    g: number,
    m: number,
    v: number,
    count: number,
    rate: number,
    b1: number,
    b2: number,
    epsilon: number,
    c1: number,
    c2: number,
    decay: number,
  ): void;
  /** Duchi 2011: s += g²; w −= rate·g / (√s + epsilon). */
  adagrad(w: number, g: number, s: number, count: number, rate: number, epsilon: number): void;
}
