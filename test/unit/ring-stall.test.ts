/** @file When a ring that commits nothing counts as standing still. */
import { expect, test } from "vitest";
import { StallClock } from "../../ring/core/stall.ts";

test("a view is given up after five seconds or eight steps, whichever is longer", () => {
  expect(new StallClock(1_000).stalledMs(6_000, 10)).toBeUndefined();
  expect(new StallClock(1_000).stalledMs(6_001, 10)).toBe(5_001);
  expect(new StallClock(0).stalledMs(8_000, 1_000)).toBeUndefined();
  expect(new StallClock(0).stalledMs(8_001, 1_000)).toBe(8_001);
});

test("each view in vain is given twice the time; a commit ends that", () => {
  const clock = new StallClock(0);
  expect(clock.stalledMs(5_001, 10)).toBe(5_001);
  expect(clock.stalledMs(15_001, 10)).toBeUndefined();
  expect(clock.stalledMs(15_002, 10)).toBe(10_001);
  clock.committed(20_000);
  expect(clock.stalledMs(25_000, 10)).toBeUndefined();
  expect(clock.stalledMs(25_001, 10)).toBe(5_001);
});

test("while nothing is to be expected no time passes", () => {
  const clock = new StallClock(0);
  clock.reset(60_000);
  expect(clock.stalledMs(65_000, 10)).toBeUndefined();
});
