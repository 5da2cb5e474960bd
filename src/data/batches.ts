/**
 * @file Which samples a micro-batch holds: a pure function of `(count, seed, batch, microBatches, step, microBatch)`, so
 * that every node, every system and every replay reads the same data. Batches are cut from an endless sequence of
 * epochs, each a random order of all samples; a batch may straddle epochs, and may be larger than one.
 */
import { assert } from "../types/assert.ts";
import { RandomPurpose, RandomStream, shuffle } from "../types/random.ts";

export interface BatchPlanInit {
  /** Samples in the training split, at least 1. */
  readonly count: number;
  /** The job's seed: a safe integer, at least 0. */
  readonly seed: number;
  /** Samples in a step; a multiple of `microBatches`. */
  readonly batch: number;
  readonly microBatches: number;
}

/** Orders kept: a batch straddles two epochs (a larger one walks through its epochs once). */
const CACHED_EPOCHS_MAX = 2;

export class BatchPlan {
  readonly #init: BatchPlanInit;
  readonly #orders = new Map<number, Int32Array>();

  constructor(init: BatchPlanInit) {
    for (const [name, value] of Object.entries({ ...init, seed: 1 })) {
      assert(Number.isSafeInteger(value) && value >= 1, `${name} is an integer of at least 1, not ${value}`);
    }
    assert(
      init.batch % init.microBatches === 0,
      `${init.microBatches} micro-batches do not divide ${init.batch} samples`,
    );
    this.#init = init;
  }

  /** Indices into the training split, `[batch / microBatches]`, of one micro-batch. The caller owns the array. */
  samples(step: number, microBatch: number): Int32Array {
    const { count, batch, microBatches } = this.#init;
    assert(Number.isSafeInteger(step) && step >= 0, `no step ${step}`);
    assert(
      Number.isSafeInteger(microBatch) && microBatch >= 0 && microBatch < microBatches,
      `no micro-batch ${microBatch}`,
    );
    const samples = new Int32Array(batch / microBatches);
    let position = step * batch + microBatch * samples.length;
    for (let filled = 0; filled < samples.length;) {
      const start = position % count;
      const taken = Math.min(samples.length - filled, count - start);
      samples.set(this.#order(Math.floor(position / count)).subarray(start, start + taken), filled);
      filled += taken;
      position += taken;
    }
    return samples;
  }

  #order(epoch: number): Int32Array {
    let order = this.#orders.get(epoch);
    if (order !== undefined) return order;
    order = Int32Array.from({ length: this.#init.count }, (_, sample) => sample);
    shuffle(order, new RandomStream(this.#init.seed, RandomPurpose.epochOrder, epoch));
    const oldest = this.#orders.keys().next();
    if (this.#orders.size === CACHED_EPOCHS_MAX && !oldest.done) this.#orders.delete(oldest.value);
    this.#orders.set(epoch, order);
    return order;
  }
}
