/** @file The work of a layer's passes, for pacing and for predicted costs: products only, since they are nearly all of it. */
import type { DenseSpec } from "./spec.ts";

export const LAYER_PASSES = ["forward", "backwardInput", "backwardWeight"] as const;
export type LayerPass = (typeof LAYER_PASSES)[number];

/** FLOP of one pass over `rows` samples. The model's first layer has no gradient to send upstream. */
export function operationFlops(spec: DenseSpec, rows: number, pass: LayerPass, isFirstLayer: boolean): number {
  return pass === "backwardInput" && isFirstLayer ? 0 : 2 * spec.inputs * spec.outputs * rows;
}
