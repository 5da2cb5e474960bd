/** @file Schedules against printed lists and a dumb player of their rules; which counts they exist for, what memory they need. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  backwardAt,
  checkSchedule,
  forwardAt,
  idleFormula,
  parseTask,
  printTask,
  SCHEDULE_KINDS,
  scheduleOf,
  TASK_KINDS,
  type ListKind,
  type ScheduleKind,
  type ScheduleShape,
} from "../../ring/core/schedule.ts";
import { leastSlots, mostSlots } from "../../ring/core/slots.ts";
import { UsageError } from "../../src/types/errors.ts";
import { microBatchIndex, stageIndex } from "../../src/types/ids.ts";
import { dumbSchedule } from "../helpers/oracle-schedule.ts";

const LISTS = SCHEDULE_KINDS.filter((kind) => kind !== "zero-bubble");
const shapeOf = <Kind extends ScheduleKind>(kind: Kind, nodes: number, microBatches: number, laps = 1) => ({
  kind,
  nodes,
  laps,
  microBatches,
});
const print = (shape: ScheduleShape & { readonly kind: ListKind }, node: number): string[] =>
  scheduleOf(shape, node).map(printTask);

/** All counts up to a bound for which the schedule exists. */
function shapesOf<Kind extends ScheduleKind>(kind: Kind) {
  const counts = (most: number): number[] => Array.from({ length: most }, (_, index) => index + 1);
  return counts(8).flatMap((nodes) =>
    counts(4).flatMap((laps) =>
      counts(17)
        .map((microBatches) => shapeOf(kind, nodes, microBatches, laps))
        .filter((shape) => refusalOf(shape) === undefined),
    ),
  );
}

function refusalOf(shape: ScheduleShape, canSplit = true): UsageError | undefined {
  try {
    checkSchedule(shape, canSplit);
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return error as UsageError;
  }
}

describe("lists", () => {
  const lists = (shape: ScheduleShape & { readonly kind: ListKind }): string[] =>
    Array.from({ length: shape.nodes }, (_, node) => print(shape, node).join(" "));

  test("naive over two nodes, two micro-batches", () => {
    expect(lists(shapeOf("naive", 2, 2))).toEqual(["0F0 0B0 0W0 0F1 0B1 0W1", "1F0 1B0 1W0 1F1 1B1 1W1"]);
  });

  test("gpipe over two nodes, three micro-batches", () => {
    expect(lists(shapeOf("gpipe", 2, 3))).toEqual([
      "0F0 0F1 0F2 0B0 0W0 0B1 0W1 0B2 0W2",
      "1F0 1F1 1F2 1B0 1W0 1B1 1W1 1B2 1W2",
    ]);
  });

  test("1f1b over three nodes, four micro-batches", () => {
    expect(lists(shapeOf("1f1b", 3, 4))).toEqual([
      "0F0 0F1 0F2 0B0 0W0 0F3 0B1 0W1 0B2 0W2 0B3 0W3",
      "1F0 1F1 1B0 1W0 1F2 1B1 1W1 1F3 1B2 1W2 1B3 1W3",
      "2F0 2B0 2W0 2F1 2B1 2W1 2F2 2B2 2W2 2F3 2B3 2W3",
    ]);
  });

  test("interleaved over two nodes, two laps, four micro-batches: node 0 has stages 0 and 2", () => {
    expect(lists(shapeOf("interleaved", 2, 4, 2))).toEqual([
      "0F0 0F1 2F0 2F1 0F2 2B0 2W0 0F3 2B1 2W1 2F2 0B0 0W0 2F3 0B1 0W1 2B2 2W2 2B3 2W3 0B2 0W2 0B3 0W3",
      "1F0 1F1 3F0 3B0 3W0 3F1 3B1 3W1 1F2 1B0 1W0 1F3 1B1 1W1 3F2 3B2 3W2 3F3 3B3 3W3 1B2 1W2 1B3 1W3",
    ]);
  });

  test("zb-h1 over three nodes, four micro-batches: node i leaves i W behind", () => {
    expect(lists(shapeOf("zb-h1", 3, 4))).toEqual([
      "0F0 0F1 0F2 0B0 0W0 0F3 0B1 0W1 0B2 0W2 0B3 0W3",
      "1F0 1F1 1B0 1F2 1B1 1W0 1F3 1B2 1W1 1B3 1W2 1W3",
      "2F0 2B0 2F1 2B1 2F2 2B2 2W0 2F3 2B3 2W1 2W2 2W3",
    ]);
  });

  test("one node, and fewer micro-batches than nodes", () => {
    expect(print(shapeOf("1f1b", 1, 2), 0).join(" ")).toBe("0F0 0B0 0W0 0F1 0B1 0W1");
    expect(print(shapeOf("zb-h1", 1, 2), 0).join(" ")).toBe("0F0 0B0 0W0 0F1 0B1 0W1");
    expect(print(shapeOf("1f1b", 8, 2), 0).join(" ")).toBe("0F0 0F1 0B0 0W0 0B1 0W1");
    expect(print(shapeOf("gpipe", 4, 1), 3).join(" ")).toBe("3F0 3B0 3W0");
  });

  test.each(LISTS)("%s is what a dumb player of its rule does", (kind) => {
    const shapes = shapesOf(kind);
    expect(shapes.length).toBeGreaterThan(30);
    for (const shape of shapes) {
      for (let node = 0; node < shape.nodes; node += 1) {
        const dumb = dumbSchedule(kind, shape.nodes, shape.laps, shape.microBatches, node);
        expect(print(shape, node), JSON.stringify(shape)).toEqual(dumb);
      }
    }
  });
});

test("the orders over laps: forwards by group and lap, backwards by group and lap descending", () => {
  const shape = shapeOf("zero-bubble", 2, 4, 2);
  const positions = Array.from({ length: 8 }, (_, position) => position);
  expect(positions.map((position) => forwardAt(shape, position).join())).toEqual(
    "0,0 0,1 1,0 1,1 0,2 0,3 1,2 1,3".split(" "),
  );
  expect(positions.map((position) => backwardAt(shape, position).join())).toEqual(
    "1,0 1,1 0,0 0,1 1,2 1,3 0,2 0,3".split(" "),
  );
});

test("the last group of the orders is smaller where the nodes do not divide the micro-batches", () => {
  const shape = shapeOf("zero-bubble", 3, 5, 2);
  const positions = Array.from({ length: 10 }, (_, position) => position);
  expect(positions.map((position) => forwardAt(shape, position).join())).toEqual(
    "0,0 0,1 0,2 1,0 1,1 1,2 0,3 0,4 1,3 1,4".split(" "),
  );
  expect(positions.map((position) => backwardAt(shape, position).join())).toEqual(
    "1,0 1,1 1,2 0,0 0,1 0,2 1,3 1,4 0,3 0,4".split(" "),
  );
});

test("zb-h1 with fewer micro-batches than nodes, as when nodes have come", () => {
  const shape = shapeOf("zb-h1", 4, 2);
  expect([0, 1, 2, 3].map((node) => print(shape, node).join(" "))).toEqual([
    "0F0 0F1 0B0 0W0 0B1 0W1",
    "1F0 1F1 1B0 1B1 1W0 1W1",
    "2F0 2F1 2B0 2B1 2W0 2W1",
    "3F0 3B0 3F1 3B1 3W0 3W1",
  ]);
});

describe("tasks as text", () => {
  test("parsing undoes printing", () => {
    const task = fc.record({
      stage: fc.nat(999_999_999).map(stageIndex),
      kind: fc.constantFrom(...TASK_KINDS),
      microBatch: fc.nat(999_999_999).map(microBatchIndex),
    });
    fc.assert(
      fc.property(task, (value) => {
        expect(parseTask(printTask(value))).toEqual(value);
      }),
    );
    expect(parseTask("2F0")).toEqual({ stage: 2, kind: "F", microBatch: 0 });
  });

  test.each([
    "",
    "F",
    "2F",
    "F0",
    "2f0",
    "2G0",
    " 2F0",
    "2F0 ",
    "-2F0",
    "2F0\n",
    "2.0F0",
    "1234567890F0",
    "2F00000000000",
  ])("%j is none", (text) => {
    expect(() => parseTask(text)).toThrow(UsageError);
  });
});

describe("a schedule that does not exist", () => {
  test.each([
    [
      shapeOf("1f1b", 4, 8, 2),
      "--schedule 1f1b: it has no laps, and --laps is 2",
      "use --schedule zero-bubble or interleaved, or --laps 1",
    ],
    [
      shapeOf("zb-h1", 4, 8, 2),
      "--schedule zb-h1: it has no laps, and --laps is 2",
      "use --schedule zero-bubble or interleaved, or --laps 1",
    ],
    [
      shapeOf("interleaved", 4, 6, 1),
      "--schedule interleaved: it needs --micro-batches divisible by the 4 nodes, not 6",
      "use for example --micro-batches 8",
    ],
    [
      shapeOf("zero-bubble", 4, 9, 2),
      "--schedule zero-bubble: 2 laps need --micro-batches divisible by the 4 nodes, not 9",
      "use for example --micro-batches 8",
    ],
    [
      shapeOf("zero-bubble", 8, 1, 2),
      "--schedule zero-bubble: 2 laps need --micro-batches divisible by the 8 nodes, not 1",
      "use for example --micro-batches 8",
    ],
    [
      shapeOf("zb-h1", 8, 7),
      "--schedule zb-h1: it needs at least as many micro-batches as nodes, not 7 for 8",
      "use --micro-batches 8 or more, or --schedule zero-bubble",
    ],
  ])("%o", (shape, cause, remedy) => {
    expect(refusalOf(shape)).toMatchObject({ message: cause, remedy });
  });

  test("zb-h1, for layers that cannot compute B and W apart", () => {
    expect(refusalOf(shapeOf("zb-h1", 4, 8), false)).toMatchObject({
      message: "--schedule zb-h1: a layer of this model cannot compute B and W apart",
      remedy: "use --schedule 1f1b",
    });
    for (const kind of SCHEDULE_KINDS.filter((other) => other !== "zb-h1")) {
      expect(refusalOf(shapeOf(kind, 4, 8), false)).toBeUndefined();
    }
  });

  test("every remedy's number of micro-batches makes it exist", () => {
    for (const nodes of [2, 3, 5, 8]) {
      for (let microBatches = 1; microBatches <= 20; microBatches += 1) {
        const remedy = refusalOf(shapeOf("zero-bubble", nodes, microBatches, 2))?.remedy;
        const advised = remedy === undefined ? microBatches : Number(/\d+$/.exec(remedy)?.[0]);
        expect(refusalOf(shapeOf("zero-bubble", nodes, advised, 2))).toBeUndefined();
        expect(Math.abs(advised - microBatches)).toBeLessThan(nodes);
      }
    }
  });
});

describe("slots", () => {
  const least = (shape: ScheduleShape): number[] =>
    Array.from({ length: shape.nodes }, (_, node) => leastSlots(shape, node));

  test("at least: what the list holds in a lap", () => {
    expect(least(shapeOf("naive", 4, 8))).toEqual([1, 1, 1, 1]);
    expect(least(shapeOf("gpipe", 3, 6))).toEqual([6, 6, 6]);
    expect(least(shapeOf("1f1b", 4, 8))).toEqual([4, 3, 2, 1]);
    expect(least(shapeOf("1f1b", 4, 3))).toEqual([3, 3, 2, 1]);
    expect(least(shapeOf("zb-h1", 4, 8))).toEqual([4, 4, 4, 4]);
    expect(least(shapeOf("interleaved", 2, 4, 2))).toEqual([4, 3]);
  });

  test("at least: the rule works with one micro-batch, or with a group of one for each node", () => {
    expect(least(shapeOf("zero-bubble", 4, 8))).toEqual([1, 1, 1, 1]);
    expect(least(shapeOf("zero-bubble", 4, 8, 3))).toEqual([4, 4, 4, 4]);
  });

  test.each(LISTS)("at least: %s never holds more in a lap, and holds that much once", (kind) => {
    for (const shape of shapesOf(kind)) {
      for (let node = 0; node < shape.nodes; node += 1) {
        const held = new Map<string, number>();
        let most = 0;
        for (const task of dumbSchedule(kind, shape.nodes, shape.laps, shape.microBatches, node)) {
          const [, stage, letter] = /^(\d+)(.)/.exec(task)!;
          held.set(stage!, (held.get(stage!) ?? 0) + { F: 1, B: 0, W: -1 }[letter as "F" | "B" | "W"]);
          most = Math.max(most, held.get(stage!)!);
        }
        expect(leastSlots(shape, node), `${JSON.stringify(shape)} node ${node}`).toBe(most);
      }
    }
  });

  test("at most: two steps' micro-batches", () => {
    expect(mostSlots(shapeOf("zero-bubble", 4, 8))).toBe(16);
  });
});

test("idle fractions of the closed forms", () => {
  expect(idleFormula(shapeOf("naive", 8, 16))).toBe(7 / 8);
  expect(idleFormula(shapeOf("gpipe", 8, 16))).toBe(7 / 23);
  expect(idleFormula(shapeOf("1f1b", 8, 16))).toBe(7 / 23);
  expect(idleFormula(shapeOf("interleaved", 8, 16, 3))).toBe(7 / 55);
  expect(idleFormula(shapeOf("zb-h1", 8, 16))).toBe(7 / 55);
  expect(idleFormula(shapeOf("zero-bubble", 8, 15))).toBe(0);
  expect(idleFormula(shapeOf("zero-bubble", 8, 8))).toBe(7 / 31);
  expect(idleFormula(shapeOf("zero-bubble", 8, 16, 2))).toBe(0);
  expect(idleFormula(shapeOf("zero-bubble", 8, 8, 2))).toBeNull();
  for (const kind of SCHEDULE_KINDS) expect(idleFormula(shapeOf(kind, 1, 4))).toBe(0);
});
