/** @file How long each layer's passes took lately: the newest 15 of each layer and pass, kept without allocation. */
import { LAYER_PASSES, type LayerPass } from "../nn/flops.ts";
import { defined } from "../types/assert.ts";

const SAMPLES = 15;
const PASSES = LAYER_PASSES.length;

/** Medians in whole microseconds, at least 1; 0 for a pass that never ran. */
export interface LayerTimesUs {
  /** In the model. */
  readonly layer: number;
  readonly forwardUs: number;
  /** At the model's first layer: of the activation alone. */
  readonly backwardInputUs: number;
  readonly backwardWeightUs: number;
}

export class LayerTimes {
  readonly #layers: readonly number[];
  readonly #places: ReadonlyMap<number, number>;
  /** [layers, passes, SAMPLES], each row a ring. */
  readonly #samplesMs: Float64Array;
  /** [layers, passes]: samples ever added. */
  readonly #counts: Float64Array;

  constructor(layers: readonly number[]) {
    this.#layers = layers.toSorted((a, b) => a - b);
    this.#places = new Map(this.#layers.map((layer, place) => [layer, place]));
    this.#samplesMs = new Float64Array(layers.length * PASSES * SAMPLES);
    this.#counts = new Float64Array(layers.length * PASSES);
  }

  add(layer: number, pass: LayerPass, durationMs: number): void {
    const row = this.#row(layer, pass);
    const count = this.#counts[row] as number;
    this.#samplesMs[row * SAMPLES + (count % SAMPLES)] = durationMs;
    this.#counts[row] = count + 1;
  }

  /** In layer order. */
  mediansUs(): LayerTimesUs[] {
    return this.#layers.map((layer) => ({
      layer,
      forwardUs: this.#medianUs(layer, "forward"),
      backwardInputUs: this.#medianUs(layer, "backwardInput"),
      backwardWeightUs: this.#medianUs(layer, "backwardWeight"),
    }));
  }

  #medianUs(layer: number, pass: LayerPass): number {
    const row = this.#row(layer, pass);
    const count = Math.min(this.#counts[row] as number, SAMPLES);
    if (count === 0) return 0;
    const sorted = this.#samplesMs.subarray(row * SAMPLES, row * SAMPLES + count).toSorted();
    return Math.max(1, Math.round(1000 * (sorted[count >> 1] as number)));
  }

  #row(layer: number, pass: LayerPass): number {
    return defined(this.#places.get(layer), "a layer of this thread") * PASSES + LAYER_PASSES.indexOf(pass);
  }
}
