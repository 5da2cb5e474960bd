/**
 * @file Initial weights: a pure function of model, seed and layer index, so that they depend on no cut and no order.
 * Uniform in ±√(6/inputs) for hidden layers (He et al. 2015, "Delving deep into rectifiers"), ±√(3/inputs) for the last,
 * which feeds no rectifier; biases are +0. Only the square root, which IEEE 754 rounds correctly, stands between the seed
 * and the bits.
 */
import { assert } from "../types/assert.ts";
import { RandomPurpose, RandomStream } from "../types/random.ts";
import type { DenseSpec } from "./spec.ts";

/** Fills `weight` [inputs, outputs] and `bias` [outputs]; the caller keeps both. */
export function initializeLayer(
  layer: DenseSpec,
  index: number,
  seed: number,
  weight: Float32Array,
  bias: Float32Array,
): void {
  assert(weight.length === layer.inputs * layer.outputs && bias.length === layer.outputs, "tensors fit the layer");
  const bound = Math.sqrt((layer.activation === "none" ? 3 : 6) / layer.inputs);
  const stream = new RandomStream(seed, RandomPurpose.initialWeights, index);
  for (let i = 0; i < weight.length; i++) weight[i] = bound * (2 * stream.nextFloat() - 1);
  bias.fill(0);
}
