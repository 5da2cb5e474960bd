/** @file The cut of the layers against every cut there is. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { bestPartition, cutLayers, type PartitionProblem } from "../../ring/core/partition.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
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

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const PROBLEMS = 4_000;

function drawProblem(seed: number): PartitionProblem {
  const random = new RandomStream(seed, 1);
  const layers = 1 + random.nextBelow(8);
  const nodes = 1 + random.nextBelow(Math.min(layers, 4));
  const laps = 1 + random.nextBelow(Math.floor(layers / nodes));
  const integers = (count: number, from: number, to: number): number[] =>
    Array.from({ length: count }, () => from + random.nextBelow(to - from + 1));
  const problem = {
    layerCosts: integers(layers, 1, random.nextBelow(2) === 0 ? 3 : 50),
    slowness: integers(nodes, 1, random.nextBelow(2) === 0 ? 3 : 40),
    laps,
  };
  if (random.nextBelow(2) === 0) return problem;
  const capBytes = integers(nodes, 2, 20 * laps).map((cap) => (random.nextBelow(4) === 0 ? null : cap));
  return { ...problem, memory: { layerBytes: integers(layers, 0, 6), capBytes } };
}

/** Largest stage time of a cut by the definition; Infinity where a stage does not fit. */
function largestTime(
  { layerCosts, slowness, laps, memory }: PartitionProblem,
  cut: readonly [number, number][],
): number {
  const sum = (values: readonly number[], [start, end]: readonly [number, number]): number =>
    values.slice(start, end).reduce((total, value) => total + value, 0);
  const times = cut.map((range, stage) => {
    const node = stage % slowness.length;
    const cap = memory?.capBytes[node] ?? null;
    if (memory !== undefined && cap !== null && sum(memory.layerBytes, range) > Math.floor(cap / laps)) return Infinity;
    return sum(layerCosts, range) * slowness[node]!;
  });
  return Math.max(...times);
}

/** The rule of ties over all cuts: best, then the last start lowest among those whose layers before it are cut at their best. */
function firstOfTheBest(problem: PartitionProblem, layers: number, stages: number): [number, number][] | undefined {
  if (stages === 0) return layers === 0 ? [] : undefined;
  let best: { readonly cut: [number, number][]; readonly time: number } | undefined;
  for (let start = stages - 1; start < layers; start += 1) {
    const before = firstOfTheBest(problem, start, stages - 1);
    if (before === undefined) continue;
    const cut: [number, number][] = [...before, [start, layers]];
    const time = largestTime(problem, cut);
    if (time < (best?.time ?? Infinity)) best = { cut, time };
  }
  return best?.cut;
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("nodes that differ, %s seed %i", (_, base) => {
  test("no cut is better, ties go to the lowest layer, and the error names the smallest cap", () => {
    let refused = 0;
    for (let index = 0; index < PROBLEMS; index += 1) {
      const problem = drawProblem(base + index);
      const { layerCosts, slowness, laps, memory } = problem;
      const context = `seed ${base + index}: ${JSON.stringify(problem)}`;
      const layers = layerCosts.length;
      const cuts = everyCut(layers, laps * slowness.length);
      const least = Math.min(...cuts.map((cut) => largestTime(problem, cut)));
      if (least < Infinity) {
        const ranges = firstOfTheBest(problem, layers, laps * slowness.length);
        expect(bestPartition(problem), context).toEqual({ ranges, largestTime: least });
        continue;
      }
      refused += 1;
      const bytes = { layerCosts: memory!.layerBytes, slowness: slowness.map(() => 1), laps };
      const cap = laps * Math.min(...cuts.map((cut) => largestTime(bytes, cut)));
      expect(() => bestPartition(problem), context).toThrow(
        new UsageError(
          `no cut of the model's ${layers} layers into ${laps * slowness.length} stages fits the nodes' memory caps`,
          `a cap of ${cap} bytes on every node would do; or use more nodes`,
        ),
      );
    }
    expect(refused).toBeGreaterThan(PROBLEMS / 50);
    expect(refused).toBeLessThan(PROBLEMS / 2);
  });
});

test("a slow node gets little, also where that leaves the layers before it worse off", () => {
  expect(bestPartition({ layerCosts: [1, 100, 1], slowness: [1, 10], laps: 1 })).toEqual({
    ranges: [
      [0, 2],
      [2, 3],
    ],
    largestTime: 101,
  });
});

test("laps: too few layers, and a cap is for all laps of a node", () => {
  expect(() => bestPartition({ layerCosts: [1, 1, 1], slowness: [1, 1], laps: 2 })).toThrow(
    new UsageError(
      "laps x nodes (2 x 2 = 4) is more than the model's 3 layers: a stage would be empty",
      "use fewer laps or nodes, or a deeper model",
    ),
  );
  const problem = { layerCosts: [1, 1], slowness: [1], laps: 2 };
  const ranges = [
    [0, 1],
    [1, 2],
  ];
  expect(bestPartition({ ...problem, memory: { layerBytes: [5, 5], capBytes: [10] } }).ranges).toEqual(ranges);
  expect(() => bestPartition({ ...problem, memory: { layerBytes: [5, 5], capBytes: [9] } })).toThrow(UsageError);
});

test("what is not exact is the program's error", () => {
  const memory = { layerBytes: [1], capBytes: [1] };
  expect(() => bestPartition({ layerCosts: [2 ** 40], slowness: [2 ** 14], laps: 1 })).toThrow(AssertionFailed);
  expect(() => bestPartition({ layerCosts: [1, 1], slowness: [1], laps: 1, memory })).toThrow(AssertionFailed);
  expect(() => bestPartition({ layerCosts: [1], slowness: [0], laps: 1 })).toThrow(AssertionFailed);
  expect(() => bestPartition({ layerCosts: [1], slowness: [1], laps: 0 })).toThrow(AssertionFailed);
});
