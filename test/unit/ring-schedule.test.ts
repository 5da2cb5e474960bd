/** @file Schedules against printed lists and a dumb player of their rules; the dry run against closed forms. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dryRunIdle, type StageCosts } from "../../ring/core/dry-run.ts";
import {
  idleFormula,
  parseTask,
  printTask,
  SCHEDULE_KINDS,
  scheduleOf,
  slotCount,
  TASK_KINDS,
  type ScheduleKind,
} from "../../ring/core/schedule.ts";
import { UsageError } from "../../src/types/errors.ts";
import { microBatchIndex, stageIndex } from "../../src/types/ids.ts";
import { dumbSchedule } from "../helpers/oracle-schedule.ts";

const print = (kind: ScheduleKind, stages: number, microBatches: number, stage: number): string[] =>
  scheduleOf(kind, stages, microBatches, stageIndex(stage)).map(printTask);

describe("lists", () => {
  test("1f1b over three stages, four micro-batches", () => {
    expect([0, 1, 2].map((stage) => print("1f1b", 3, 4, stage).join(" "))).toEqual([
      "0F0 0F1 0F2 0B0 0W0 0F3 0B1 0W1 0B2 0W2 0B3 0W3",
      "1F0 1F1 1B0 1W0 1F2 1B1 1W1 1F3 1B2 1W2 1B3 1W3",
      "2F0 2B0 2W0 2F1 2B1 2W1 2F2 2B2 2W2 2F3 2B3 2W3",
    ]);
  });

  test("gpipe over two stages, three micro-batches", () => {
    expect([0, 1].map((stage) => print("gpipe", 2, 3, stage).join(" "))).toEqual([
      "0F0 0F1 0F2 0B0 0W0 0B1 0W1 0B2 0W2",
      "1F0 1F1 1F2 1B0 1W0 1B1 1W1 1B2 1W2",
    ]);
  });

  test("one stage, and fewer micro-batches than stages", () => {
    expect(print("1f1b", 1, 2, 0).join(" ")).toBe("0F0 0B0 0W0 0F1 0B1 0W1");
    expect(print("1f1b", 8, 2, 0).join(" ")).toBe("0F0 0F1 0B0 0W0 0B1 0W1");
    expect(print("gpipe", 4, 1, 3).join(" ")).toBe("3F0 3B0 3W0");
  });

  test.each(SCHEDULE_KINDS)("%s is what a dumb player of its rule does", (kind) => {
    for (let stages = 1; stages <= 9; stages += 1) {
      for (let microBatches = 1; microBatches <= 12; microBatches += 1) {
        for (let stage = 0; stage < stages; stage += 1) {
          expect(print(kind, stages, microBatches, stage)).toEqual(dumbSchedule(kind, stages, microBatches, stage));
        }
      }
    }
  });
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

test("places: what a stage holds, and one that may arrive, never more than a step has", () => {
  const slots = (kind: ScheduleKind, stages: number, microBatches: number): number[] =>
    Array.from({ length: stages }, (_, stage) => slotCount(kind, stages, microBatches, stageIndex(stage)));
  expect(slots("1f1b", 4, 8)).toEqual([5, 4, 3, 2]);
  expect(slots("1f1b", 4, 3)).toEqual([3, 3, 3, 2]);
  expect(slots("1f1b", 1, 1)).toEqual([1]);
  expect(slots("gpipe", 3, 6)).toEqual([6, 6, 6]);
});

describe("dry run", () => {
  const uniform = (stages: number, costs: StageCosts): StageCosts[] => Array.from({ length: stages }, () => costs);

  // Whole numbers: every sum is exact, so the closed form holds to the last rounding of one division.
  test.each(SCHEDULE_KINDS)("%s with uniform stages idles (p-1)/(m+p-1) of the time", (kind) => {
    for (const stages of [1, 2, 4, 8]) {
      for (let microBatches = stages; microBatches <= 32; microBatches += 1) {
        const costs = uniform(stages, { forward: 3, backward: 4, weight: 2, update: 0 });
        const expected = (stages - 1) / (microBatches + stages - 1);
        expect(dryRunIdle(kind, microBatches, costs)).toBeCloseTo(expected, 14);
        expect(idleFormula(kind, stages, microBatches)).toBe(expected);
      }
    }
  });

  test("one stage never waits, whatever it costs", () => {
    const costs = fc.record({ forward: fc.nat(50), backward: fc.nat(50), weight: fc.nat(50), update: fc.nat(50) });
    fc.assert(
      fc.property(costs, fc.constantFrom(...SCHEDULE_KINDS), fc.integer({ min: 1, max: 9 }), (cost, kind, count) => {
        expect(dryRunIdle(kind, count, [cost])).toBe(0);
      }),
    );
  });

  test("an update that every stage pays fills part of the bubble: stages update while others drain", () => {
    const costs = uniform(4, { forward: 1, backward: 1, weight: 1, update: 5 });
    // A step's period: (m + p - 1) turns of F, B and W at stage 0, and its update.
    expect(dryRunIdle("1f1b", 8, costs)).toBeCloseTo(1 - (8 * 3 + 5) / ((8 + 3) * 3 + 5), 14);
  });

  test("a stage twice as slow makes the others wait for it", () => {
    const fast = { forward: 1, backward: 1, weight: 1, update: 0 };
    const slow = { forward: 2, backward: 2, weight: 2, update: 0 };
    // Two stages, one micro-batch: they take turns, F F B B, and never work at the same time.
    expect(dryRunIdle("gpipe", 1, [fast, slow])).toBeCloseTo(1 - (3 + 6) / (2 * 9), 14);
  });
});
