/** @file When a ring that commits nothing counts as standing still. */
import { expect, test, vi } from "vitest";
import { StallClock } from "../../ring/core/stall.ts";

const steps = (stepMs: number) => () => stepMs;

test("a view is given up after five seconds or eight steps, whichever is longer", () => {
  expect(new StallClock(1_000).stalledMs(6_000, steps(10))).toBeUndefined();
  expect(new StallClock(1_000).stalledMs(6_001, steps(10))).toBe(5_001);
  expect(new StallClock(0).stalledMs(8_000, steps(1_000))).toBeUndefined();
  expect(new StallClock(0).stalledMs(8_001, steps(1_000))).toBe(8_001);
});

test("each view in vain is given twice the time; a commit ends that", () => {
  const clock = new StallClock(0);
  expect(clock.stalledMs(5_001, steps(10))).toBe(5_001);
  expect(clock.stalledMs(15_001, steps(10))).toBeUndefined();
  expect(clock.stalledMs(15_002, steps(10))).toBe(10_001);
  clock.committed(20_000);
  expect(clock.stalledMs(25_000, steps(10))).toBeUndefined();
  expect(clock.stalledMs(25_001, steps(10))).toBe(5_001);
});

test("while nothing is to be expected no time passes", () => {
  const clock = new StallClock(0);
  clock.reset(60_000);
  expect(clock.stalledMs(65_000, steps(10))).toBeUndefined();
});

test("what a step takes is asked for only when nothing was committed for long", () => {
  const asked = vi.fn<() => number>(() => 1_000);
  const clock = new StallClock(0);
  for (let nowMs = 0; nowMs <= 5_000; nowMs += 50) clock.stalledMs(nowMs, asked);
  expect(asked).not.toHaveBeenCalled();
  expect(clock.stalledMs(5_050, asked)).toBeUndefined();
  expect(asked).toHaveBeenCalledTimes(1);
});
