/** @file Decisions by hand: the model against plain division, both modes, and every reason to keep a cut. */
import { describe, expect, test } from "vitest";
import { decideBalance, speedModel, type BalanceProblem, type NodeMeasurement } from "../../ring/core/balance.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import { AssertionFailed } from "../../src/types/assert.ts";

const measured = (node: number, first: number, times: readonly number[]): NodeMeasurement => ({
  node,
  layers: times.map((us, offset) => ({ layer: first + offset, us })),
  capBytes: null,
});
const cut = (...ends: number[]): LayerRange[] => ends.map((end, stage) => [stage === 0 ? 0 : ends[stage - 1]!, end]);

/** Two nodes with four equal layers each; the second takes three times as long. Best: six layers and two. */
const problem: BalanceProblem = {
  mode: "auto",
  measurements: [measured(0, 0, [1000, 1000, 1000, 1000]), measured(1, 4, [3000, 3000, 3000, 3000])],
  layerCosts: Array<number>(8).fill(70),
  layerBytes: Array<number>(8).fill(1_000_000),
  ranges: cut(4, 8),
  microBatches: 8,
  remainingSteps: 100,
  plan: 0,
  earlierMoves: 0,
};
const decide = (changes: Partial<BalanceProblem> = {}) => decideBalance({ ...problem, ...changes });
const reason = (changes: Partial<BalanceProblem>): string => {
  const decision = decide(changes);
  return decision.kind === "keep" ? decision.reason : "it moves";
};

test("a slow node gives layers away", () => {
  expect(decide()).toEqual({
    kind: "move",
    ranges: cut(6, 8),
    moves: [
      { layer: 4, from: 1, to: 0 },
      { layer: 5, from: 1, to: 0 },
    ],
    beforeUs: 12_000,
    afterUs: 6_000,
  });
});

describe("the model", () => {
  test("gives back each measured time, and sums to the reference on each node", () => {
    const measurements = [measured(0, 0, [400, 1300]), measured(1, 2, [77]), measured(2, 3, [5000, 90, 1])];
    const layerCosts = [3, 9, 2, 11, 1, 1];
    const { slowness, costs } = speedModel({ measurements, layerCosts });
    const ringUs = 400 + 1300 + 77 + 5000 + 90 + 1;
    expect(slowness).toEqual(
      [1700 / 12, 77 / 2, 5091 / 13].map((rate) => Math.round((1000 * rate) / (ringUs / 27))), // reference units: 27
    );
    const nodes = [0, 0, 1, 2, 2, 2];
    const times = costs.map((cost, layer) => Math.round((cost * slowness[nodes[layer]!]!) / 1e6));
    expect(times).toEqual([400, 1300, 77, 5000, 90, 1]);
    expect((costs[0]! + costs[1]!) / costs[2]!).toBeCloseTo(12 / 2, 1);
  });

  test("stays exact where products pass 2^53", () => {
    const measurements = [measured(0, 0, [2 ** 40]), measured(1, 1, [2 ** 41])];
    expect(speedModel({ measurements, layerCosts: [2 ** 50, 2 ** 50] }).slowness).toEqual([667, 1333]);
    expect(reason({ measurements, layerCosts: [1, 1], layerBytes: [1, 1], ranges: cut(1, 2) })).toBe(
      "the measurements are too large",
    );
  });
});

test("even cuts by measured cost, as if nodes were equal", () => {
  expect(reason({ mode: "even" })).toBe("the best cut takes 100 % of the present one's time: a move needs 90 %");
  const measurements = [measured(0, 0, [5000, 1000, 1000, 1000]), measured(1, 4, [2000, 2000, 2000, 2000])];
  const layerCosts = [5, 1, 1, 1, 1, 1, 1, 1];
  const decision = decide({ mode: "even", measurements, layerCosts });
  expect(decision).toMatchObject({ kind: "move", ranges: cut(2, 8) });
});

test("with laps every node holds a segment of each", () => {
  const measurements = [
    { ...measured(0, 0, [1000, 1000]), layers: [0, 1, 4, 5].map((layer) => ({ layer, us: 1000 })) },
    { ...measured(1, 2, [3000, 3000]), layers: [2, 3, 6, 7].map((layer) => ({ layer, us: 3000 })) },
  ];
  expect(decide({ measurements, ranges: cut(2, 4, 6, 8) })).toMatchObject({
    kind: "move",
    ranges: cut(3, 4, 7, 8),
    beforeUs: 6_000,
    afterUs: 3_000,
  });
});

describe("a cut is kept", () => {
  test("where the memory allows no other", () => {
    const capped = (capBytes: number) => [{ ...problem.measurements[0]!, capBytes }, problem.measurements[1]!];
    expect(decide({ measurements: capped(5_000_000) })).toMatchObject({ kind: "move", ranges: cut(5, 8) });
    expect(reason({ measurements: capped(4_000_000) })).toMatch(/^the best cut takes 100 %/);
    expect(reason({ measurements: capped(5) })).toBe(
      "no cut of the model's 8 layers into 2 stages fits the nodes' memory caps",
    );
  });

  test("where the gain is below a tenth, and later below more", () => {
    const measurements = [measured(0, 0, [1000, 1000, 1000, 100]), measured(1, 4, [1000, 1000, 1000, 400])];
    const layerCosts = [10, 10, 10, 1, 10, 10, 10, 4];
    expect(reason({ measurements, layerCosts })).toMatch(/^the best cut takes (?:9[1-9]|100) %/);
    expect(decide({ earlierMoves: 8 }).kind, "half is a move after eight others").toBe("move");
    expect(reason({ earlierMoves: 9 })).toBe("the best cut takes 50 % of the present one's time: a move needs 45 %");
    expect(reason({ earlierMoves: 8, plan: 3 })).toMatch(/a move needs 45 %$/);
    expect(decide({ earlierMoves: 8, plan: 2 }).kind).toBe("move");
  });

  test("where the move would not pay back", () => {
    // Two layers of 1 MB over one edge at 1 MB/s: 2 s. Each step saves 8 times 6 ms.
    const slow = { moveBytesPerSecond: 1_000_000, restartUs: 16_000 };
    const late = "the move would not pay back in the steps that are left";
    expect(reason({ ...slow, remainingSteps: 42 })).toBe(late);
    expect(decide({ ...slow, remainingSteps: 43 }).kind).toBe("move");
    expect(reason({ ...slow, remainingSteps: 43, microBatches: 7 })).toBe(late);
    expect(reason({ remainingSteps: 0 })).toBe(late);
  });

  test.each([
    [
      "another layer",
      [measured(0, 0, [1, 1, 1, 1]), measured(1, 3, [1, 1, 1, 1])],
      "the measurement of node 1 is not of its layers",
    ],
    [
      "a layer too few",
      [measured(0, 0, [1, 1, 1]), measured(1, 4, [1, 1, 1, 1])],
      "the measurement of node 0 is not of its layers",
    ],
    [
      "another node",
      [measured(1, 0, [1, 1, 1, 1]), measured(1, 4, [1, 1, 1, 1])],
      "the measurement of node 0 is not of its layers",
    ],
    ["no time", [measured(0, 0, [1, 1, 1, 1]), measured(1, 4, [1, 0, 1, 1])], "node 1 measured no whole time"],
    ["a fraction", [measured(0, 0, [1, 1.5, 1, 1]), measured(1, 4, [1, 1, 1, 1])], "node 0 measured no whole time"],
    [
      "no cap",
      problem.measurements.map((entry) => ({ ...entry, capBytes: Number.NaN })),
      "the memory cap of node 0 is not a number of bytes",
    ],
  ])("where a measurement does not fit: %s", (_, measurements, expected) => {
    expect(reason({ measurements })).toBe(expected);
  });
});

test("a stage count that nodes do not share is the program's error", () => {
  expect(() => decide({ ranges: cut(2, 4, 8) })).toThrow(AssertionFailed);
});
