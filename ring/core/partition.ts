/**
 * @file Cuts the layers into one contiguous segment a stage. Every node computes the same cut from the same integers.
 */
import { UsageError } from "../../src/types/errors.ts";
import { assert, defined } from "../../src/types/assert.ts";

/** Layers `[start, end)`. */
export type LayerRange = readonly [start: number, end: number];

/**
 * The partition whose heaviest segment is lightest (dynamic programming over prefix sums, O(stages·layers²)); ties go to the
 * cut at the lowest layer.
 * @param costs one positive integer a layer, any unit.
 */
export function cutLayers(costs: readonly number[], stages: number): readonly LayerRange[] {
  const layers = costs.length;
  assert(stages >= 1, "at least one stage");
  if (stages > layers) {
    throw new UsageError(
      `nodes ${stages} is more than the model's ${layers} layers: a node would have nothing to hold`,
      `use at most -n ${layers}, or a deeper model`,
    );
  }
  assert(
    costs.every((cost) => Number.isSafeInteger(cost) && cost > 0),
    "costs are positive integers",
  );
  const prefix = [0];
  for (const cost of costs) prefix.push(defined(prefix.at(-1), "prefix") + cost);
  const sum = (start: number, end: number): number => prefix[end]! - prefix[start]!;

  // best[s][l]: lightest possible heaviest segment of the first l layers in s segments; from[s][l]: where the last one starts.
  const best = Array.from({ length: stages + 1 }, () => Array<number>(layers + 1).fill(Infinity));
  const from = Array.from({ length: stages + 1 }, () => Array<number>(layers + 1).fill(0));
  best[0]![0] = 0;
  for (let stage = 1; stage <= stages; stage += 1) {
    for (let end = stage; end <= layers; end += 1) {
      for (let start = stage - 1; start < end; start += 1) {
        const heaviest = Math.max(best[stage - 1]![start]!, sum(start, end));
        if (heaviest < best[stage]![end]!) {
          best[stage]![end] = heaviest;
          from[stage]![end] = start;
        }
      }
    }
  }
  const ranges: LayerRange[] = [];
  for (let stage = stages, end = layers; stage >= 1; stage -= 1) {
    const start = from[stage]![end]!;
    ranges.unshift([start, end]);
    end = start;
  }
  return ranges;
}
