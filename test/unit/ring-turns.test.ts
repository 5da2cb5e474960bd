/** @file Whose turn it is: by rank, put off by others' progress, with growing patience. */
import { expect, test } from "vitest";
import { Turns } from "../../ring/core/turns.ts";

test("ranks take their turns one after the other, the first at once", () => {
  const due = [0, 1, 2].map((rank) => {
    const turns = new Turns();
    turns.ask(1_000, rank);
    return [1_000, 1_060, 1_120].filter((nowMs) => turns.isDue(nowMs)).length;
  });
  expect(due).toEqual([3, 2, 1]);
});

test("waiting again does not start anew; a cancelled turn is not due", () => {
  const turns = new Turns();
  expect(turns.isDue(1e9)).toBe(false);
  turns.ask(0, 1);
  turns.ask(50, 1);
  expect(turns.isDue(60)).toBe(true);
  turns.cancel();
  expect(turns.isDue(1e9)).toBe(false);
});

test("others' progress puts it off, one's own rounds ever longer, to a limit", () => {
  const turns = new Turns();
  turns.ask(0, 0);
  turns.putOff(100, 0);
  expect([599, 600].map((nowMs) => turns.isDue(nowMs))).toEqual([false, true]);
  let nowMs = 600;
  const waits: number[] = [];
  for (let round = 0; round < 7; round += 1) {
    turns.begin(nowMs, 0);
    const startMs = nowMs;
    while (!turns.isDue(nowMs)) nowMs += 100;
    waits.push(nowMs - startMs);
  }
  expect(waits).toEqual([500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
});
