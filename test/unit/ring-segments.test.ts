/** @file What a ring plays under counts that its run did not begin with. */
import { expect, test } from "vitest";
import { presentShape, shapeOf } from "../../ring/runtime/segments.ts";
import { parseSettings } from "../../src/config/settings.ts";

const kinds = (schedule: string, nodes: readonly number[]): string[] => {
  const settings = parseSettings({ schedule, nodes: 4, laps: schedule === "interleaved" ? 2 : 1, microBatches: 8 });
  return nodes.map((count) => presentShape(settings, count).kind);
};

test("the interleaved list gives way to the local rule while the nodes do not divide the micro-batches", () => {
  expect(kinds("interleaved", [4, 3, 2, 5, 8])).toEqual(
    "interleaved zero-bubble interleaved zero-bubble interleaved".split(" "),
  );
  for (const schedule of ["naive", "gpipe", "1f1b", "zb-h1", "zero-bubble"]) {
    expect(kinds(schedule, [4, 3, 9])).toEqual([schedule, schedule, schedule]);
  }
});

test("one node holds all laps as one segment, whatever it plays", () => {
  const settings = parseSettings({ schedule: "zero-bubble", nodes: 4, laps: 2, microBatches: 8 });
  expect(shapeOf(settings, 1).laps).toBe(1);
  expect(presentShape(settings, 3)).toEqual({ kind: "zero-bubble", nodes: 3, laps: 2, microBatches: 8 });
});
