/** @file What counts as life while a view is installed, here and at other members, and what they are told of it. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { STILL_MS } from "../../ring/core/readiness.ts";
import { InstallWatch } from "../../ring/runtime/install-watch.ts";

const TICK_MS = 50;

beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }));
afterEach(() => void vi.useRealTimers());

/** Of node 0 in view 3. */
function watching() {
  const told: number[] = [];
  let still = 0;
  const watch = new InstallWatch({ tell: (view, progress) => told.push(view, progress), still: () => (still += 1) });
  watch.begin(3);
  const pass = (ms: number, isInstalling = false, steps = 0): number => {
    still = 0;
    for (let passedMs = 0; passedMs < ms; passedMs += TICK_MS) {
      vi.advanceTimersByTime(TICK_MS);
      watch.tick(0, isInstalling, steps);
    }
    return still;
  };
  return { watch, told, pass };
}

test("where nothing arrives anywhere it is told once a second that all stands still", () => {
  const { pass } = watching();
  expect(pass(STILL_MS)).toBe(0);
  expect(pass(5_000)).toBeGreaterThanOrEqual(4);
  expect(pass(5_000)).toBeLessThanOrEqual(5);
});

test.each<[string, (watch: InstallWatch, round: number) => void, (round: number) => number]>([
  ["parts and layers", (watch) => watch.arrived(), () => 0],
  ["losses", () => {}, (round) => round],
  ["what another member tells", (watch, round) => watch.heard(1, 3, round), () => 0],
])("%s that arrive are life, however slowly they come", (_, arrive, steps) => {
  const { watch, pass } = watching();
  for (let round = 1; round < 5; round += 1) {
    arrive(watch, round);
    expect(pass(STILL_MS - 2_000, true, steps(round))).toBe(0);
  }
});

test("what another member says again, or of another view, is no life; what this process slept through is no standstill", () => {
  const { watch, pass } = watching();
  watch.heard(1, 3, 5);
  expect(pass(STILL_MS - 1_000)).toBe(0);
  watch.heard(1, 3, 5);
  watch.heard(1, 2, 6);
  expect(pass(3_000)).toBeGreaterThan(0);
  watch.overslept();
  expect(pass(3_000)).toBe(0);
});

test("who installs tells how far it is, once a second; who waits does not", () => {
  const { watch, told, pass } = watching();
  watch.arrived();
  pass(1_000, true, 4);
  expect(told).toEqual([3, 5]);
  pass(3_000);
  expect(told).toEqual([3, 5]);
});
