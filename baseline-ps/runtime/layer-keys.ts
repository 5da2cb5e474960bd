/** @file Where a model's layers lie among the keys: one after the other, each its weight row by row, then its bias. */
import { layerDigest } from "../../src/nn/digest.ts";
import { initializeLayer } from "../../src/nn/initialize.ts";
import { type ModelSpec, parameterCount } from "../../src/nn/spec.ts";
import { intersection, type KeyRange } from "../core/ranges.ts";

/** Of each layer. */
export function layerKeys({ layers }: ModelSpec): readonly KeyRange[] {
  let end = 0;
  return layers.map((layer) => {
    const start = end;
    end += parameterCount(layer);
    return { start, end };
  });
}

/** A layer's parameters before the first step; they depend on model and seed alone. */
export function initialLayer({ layers }: ModelSpec, index: number, seed: number): Float32Array<ArrayBuffer> {
  const spec = layers[index]!;
  const values = new Float32Array(parameterCount(spec));
  const weights = spec.inputs * spec.outputs;
  initializeLayer(spec, index, seed, values.subarray(0, weights), values.subarray(weights));
  return values;
}

/** Of each layer before the first step: SHA-256, hexadecimal. */
export function initialDigests(model: ModelSpec, seed: number): Record<string, string> {
  const digests = model.layers.map((_, layer) => layerDigest(new Uint8Array(initialLayer(model, layer, seed).buffer)));
  return Object.fromEntries(digests.map((digest, layer) => [String(layer), Buffer.from(digest).toString("hex")]));
}

/**
 * Tells which part of which layer lies in a shard.
 * @param take is given the part's keys, the layer, and the place of the part's first key in it
 */
export function forLayersIn(
  model: ModelSpec,
  shard: KeyRange,
  take: (part: KeyRange, layer: number, place: number) => void,
): void {
  for (const [layer, keys] of layerKeys(model).entries()) {
    for (const part of intersection([keys], [shard])) take(part, layer, part.start - keys.start);
  }
}
