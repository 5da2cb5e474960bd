/** @file A worker's samples with the keys that they touch: logistic loss and gradient in those keys alone. Nothing here is as large as the model. */
import { assert } from "../../src/types/assert.ts";
import { type Block, drawSample, type SparseTask } from "./sparse-samples.ts";

export interface Evaluation {
  /** This block's part of the mean over all samples, before the update. */
  readonly loss: number;
  /** Of `loss`, by place of the key: the caller's. */
  readonly gradient: Float32Array;
}

export class SparseBlock {
  /** Touched by a sample: ascending, each once. */
  readonly keys: Uint32Array;
  /** By sample: the places of its keys in `keys`. */
  readonly #places: readonly Uint32Array[];
  readonly #labels: readonly number[];
  /** Samples of all blocks. */
  readonly #samples: number;

  constructor(task: SparseTask, { from, to }: Block) {
    const samples = Array.from({ length: to - from }, (_, index) => drawSample(task, from + index));
    const touched = new Set(samples.flatMap(({ keys }) => [...keys]));
    this.keys = Uint32Array.from(touched).toSorted();
    const placeOf = new Map([...this.keys].map((key, place) => [key, place]));
    this.#places = samples.map(({ keys }) => keys.map((key) => placeOf.get(key)!));
    this.#labels = samples.map(({ label }) => label);
    this.#samples = task.samples;
  }

  /** @param weights of `keys`, in their order */
  evaluate(weights: Float32Array): Evaluation {
    assert(weights.length === this.keys.length, "a weight for each key");
    const gradient = new Float64Array(weights.length);
    let loss = 0;
    for (const [index, places] of this.#places.entries()) {
      const label = this.#labels[index]!;
      let score = 0;
      for (const place of places) score += weights[place]!;
      const margin = label * score;
      // log(1 + exp(-margin)) and its slope, neither of which may overflow.
      const small = Math.exp(-Math.abs(margin));
      loss += Math.log1p(small) + Math.max(0, -margin);
      const slope = (-label * (margin > 0 ? small : 1)) / (1 + small) / this.#samples;
      for (const place of places) gradient[place]! += slope;
    }
    return { loss: loss / this.#samples, gradient: Float32Array.from(gradient) };
  }
}
