/**
 * @file The simulated ring against the closed forms: every static schedule idles exactly as long as theory says, at every
 * node, to the last bit. Costs are integers, so that sums are exact. Forms: sources in `ring/core/schedule.ts`.
 */
import { describe, expect, test } from "vitest";
import { idleFormula, type ScheduleKind, type ScheduleShape } from "../../ring/core/schedule.ts";
import { idleUnits, sum, type Costs } from "../helpers/steady-period.ts";

const NODES = [1, 2, 4, 8, 16, 32] as const;
const MICRO_BATCHES_MAX = 64;
/** Equal; B heavier, as with recomputation; W heavier; F heaviest. */
const COSTS: readonly Costs[] = [
  [1, 1, 1],
  [2, 5, 3],
  [1, 2, 4],
  [4, 1, 2],
];
/** Unequal costs change nothing in which micro-batches meet: fewer counts are enough. */
const SOME = new Set([1, 2, 3, 7, 8, 16, 31, 32, 33, 64]);

function shapesOf(kind: ScheduleKind, laps: number, mayRun: (nodes: number, microBatches: number) => boolean) {
  const shapes: ScheduleShape[] = [];
  for (const nodes of NODES) {
    for (let microBatches = 1; microBatches <= MICRO_BATCHES_MAX; microBatches += 1) {
      if (mayRun(nodes, microBatches)) shapes.push({ kind, nodes, laps, microBatches });
    }
  }
  return shapes;
}

/** Holds at every node, for all shapes at equal costs and for some at each of the others. */
function expectIdle(
  shapes: readonly ScheduleShape[],
  form: (shape: ScheduleShape, costs: Costs) => number,
  canSplit = true,
): void {
  expect(shapes.length).toBeGreaterThan(0);
  for (const [index, costs] of COSTS.entries()) {
    for (const shape of shapes.filter(({ microBatches }) => index === 0 || SOME.has(microBatches))) {
      const expected = Array<number>(shape.nodes).fill(form(shape, costs));
      expect(idleUnits(shape, costs, { canSplit }), `${JSON.stringify(shape)} at ${costs.join()}`).toEqual(expected);
    }
  }
}

const always = (): boolean => true;
const isMultiple = (nodes: number, microBatches: number): boolean => microBatches % nodes === 0;
/** Of a step of all nodes on one micro-batch, what the other nodes do: of one lap, where there are several. */
const onePass = ({ nodes }: ScheduleShape, costs: Costs): number => (nodes - 1) * sum(costs);

describe("idle time per node and step", () => {
  test("naive: (p-1)·m·T", () => {
    expectIdle(shapesOf("naive", 1, always), (shape, costs) => shape.microBatches * onePass(shape, costs));
  });

  test.each(["gpipe", "1f1b"] as const)("%s: (p-1)T, also for fewer micro-batches than nodes", (kind) => {
    expectIdle(shapesOf(kind, 1, always), onePass);
  });

  test.each([1, 2, 3, 4])("interleaved, %i laps: (p-1)T/v, T that of all laps", (laps) => {
    expectIdle(shapesOf("interleaved", laps, isMultiple), onePass);
  });

  test("zb-h1: (p-1)(tF+tB-tW) where a W takes at most an F's time; a longer one fills no more than that", () => {
    const shapes = shapesOf("zb-h1", 1, (nodes, microBatches) => microBatches >= nodes);
    expectIdle(shapes, ({ nodes }, [forward, backward, weight]) => {
      return (nodes - 1) * (forward + backward - Math.min(forward, weight));
    });
  });
});

describe("the local rule", () => {
  test("lacks one operation's time for each micro-batch that a step has less than 2p-1", () => {
    for (const shape of shapesOf("zero-bubble", 1, always)) {
      const expected = Array<number>(shape.nodes).fill(Math.max(0, 2 * shape.nodes - 1 - shape.microBatches));
      expect(idleUnits(shape, [1, 1, 1]), JSON.stringify(shape)).toEqual(expected);
    }
  });

  test.each([1, 2, 3, 4])("is interleaved to the digit where B and W are one operation, %i laps", (laps) => {
    expectIdle(shapesOf("zero-bubble", laps, isMultiple), onePass, false);
  });

  test("is 1F1B where B and W are one operation, also for micro-batches that do not divide", () => {
    expectIdle(shapesOf("zero-bubble", 1, always), onePass, false);
  });
});

test("the stated idle fraction is that of the closed form", () => {
  const check = (shape: ScheduleShape): void => {
    const idle = idleUnits(shape, [1, 1, 1])[0]!;
    expect(idleFormula(shape), JSON.stringify(shape)).toBe(idle / (idle + 3 * shape.laps * shape.microBatches));
  };
  for (const nodes of [1, 2, 4, 8]) {
    for (const microBatches of [8, 16, 24, 64]) {
      for (const kind of ["gpipe", "1f1b", "zb-h1", "zero-bubble"] as const)
        check({ kind, nodes, laps: 1, microBatches });
      for (const laps of [1, 2, 3]) check({ kind: "interleaved", nodes, laps, microBatches });
    }
  }
});
