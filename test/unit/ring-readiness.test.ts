/** @file Who is ready, for want of whom a view cannot begin, and when an install stands still. */
import { expect, test } from "vitest";
import { InstallClock, Readiness, STILL_MS } from "../../ring/core/readiness.ts";

test("a view begins when all its members are ready, as they said or others heard them say", () => {
  const readiness = new Readiness([4, 1, 2]);
  readiness.add([1, 9]);
  expect(readiness.missing).toEqual([4, 2]);
  readiness.add([4, 2]);
  expect(readiness.missing).toEqual([]);
});

test("whom two name is left, whoever they are; one alone may be wrong", () => {
  const readiness = new Readiness([0, 1, 2, 3]);
  readiness.name(0, [2, 2, 7]);
  expect(readiness.stragglers).toEqual([]);
  readiness.name(1, [2, 3, 7]);
  expect(readiness.stragglers).toEqual([2]);
  readiness.name(3, [3]);
  expect(readiness.stragglers).toEqual([2, 3]);
  readiness.add([2]);
  expect(readiness.stragglers, "it got ready after all").toEqual([3]);
  readiness.name(1, []);
  expect(readiness.stragglers, "what a node says takes the place of what it said before").toEqual([]);
});

test("an install stands still when nobody has got any further for half a minute, however slowly it went before", () => {
  const clock = new InstallClock(0);
  for (let step = 1; step <= 10; step += 1) {
    clock.reached(step % 2, step, step * STILL_MS);
    expect(clock.stillMs(step * STILL_MS)).toBeUndefined();
  }
  clock.reached(0, 10, 10 * STILL_MS + 1);
  expect(clock.stillMs(11 * STILL_MS), "what is said again is no progress").toBeUndefined();
  expect(clock.stillMs(11 * STILL_MS + 1)).toBe(STILL_MS + 1);
  clock.overslept(12 * STILL_MS);
  expect(clock.stillMs(12 * STILL_MS + 1)).toBeUndefined();
});
