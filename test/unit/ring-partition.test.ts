/** @file The cut of the layers against every cut there is. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { cutLayers } from "../../ring/core/partition.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { everyCut } from "../helpers/oracle-schedule.ts";

const heaviest = (costs: readonly number[], cut: readonly (readonly [number, number])[]): number =>
  Math.max(...cut.map(([start, end]) => costs.slice(start, end).reduce((sum, cost) => sum + cost, 0)));

/**
 * Of all cuts with the lightest heaviest segment, the one that the rule names: the last segment starts as low as it can
 * while the segments before it, cut by the same rule, stay as light as possible.
 */
function bruteForce(costs: readonly number[], stages: number): [number, number][] {
  if (stages === 1) return [[0, costs.length]];
  let best: { readonly cut: [number, number][]; readonly heaviest: number } | undefined;
  for (let start = stages - 1; start < costs.length; start += 1) {
    const cut: [number, number][] = [...bruteForce(costs.slice(0, start), stages - 1), [start, costs.length]];
    const weight = heaviest(costs, cut);
    if (best === undefined || weight < best.heaviest) best = { cut, heaviest: weight };
  }
  return best!.cut;
}

const tasks = fc
  .array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 9 })
  .chain((costs) => fc.tuple(fc.constant(costs), fc.integer({ min: 1, max: costs.length })));

test("the heaviest segment is as light as any cut makes it", () => {
  fc.assert(
    fc.property(tasks, ([costs, stages]) => {
      const lightest = Math.min(...everyCut(costs.length, stages).map((cut) => heaviest(costs, cut)));
      expect(heaviest(costs, cutLayers(costs, stages))).toBe(lightest);
    }),
    { numRuns: 500 },
  );
});

test("ties go to the cut at the lowest layer", () => {
  fc.assert(
    fc.property(tasks, ([costs, stages]) => {
      expect(cutLayers(costs, stages)).toEqual(bruteForce(costs, stages));
    }),
    { numRuns: 500 },
  );
  expect(cutLayers([1, 1, 1], 2)).toEqual([
    [0, 1],
    [1, 3],
  ]);
  expect(cutLayers([2, 1, 2], 2)).toEqual([
    [0, 1],
    [1, 3],
  ]);
});

test("as many stages as layers, one stage, and heavy ends", () => {
  expect(cutLayers([5, 1, 9], 3)).toEqual([
    [0, 1],
    [1, 2],
    [2, 3],
  ]);
  expect(cutLayers([5, 1, 9], 1)).toEqual([[0, 3]]);
  expect(cutLayers([1, 1, 1, 9], 2)).toEqual([
    [0, 3],
    [3, 4],
  ]);
});

test("more nodes than layers is the user's error, anything else the program's", () => {
  expect(() => cutLayers([1, 1], 3)).toThrow(
    new UsageError(
      "nodes 3 is more than the model's 2 layers: a node would have nothing to hold",
      "use at most -n 2, or a deeper model",
    ),
  );
  for (const costs of [[0], [-1], [1.5], [Number.NaN], [Infinity]]) {
    expect(() => cutLayers(costs, 1)).toThrow(AssertionFailed);
  }
  expect(() => cutLayers([1], 0)).toThrow(AssertionFailed);
});
