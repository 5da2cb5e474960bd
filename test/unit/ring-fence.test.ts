/** @file A process that stood still: shut until a majority of the voters has confirmed its view, this node among them. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { OVERSLEPT_MS } from "../../ring/core/detector.ts";
import { Fence } from "../../ring/runtime/fence.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

function fenced(voters: readonly number[]) {
  const asked: number[] = [];
  const slept: number[] = [];
  /** What the newest question named. */
  let named = 0;
  const fence = new Fence({
    node: () => 0,
    voters: () => voters,
    ask: (voter, sleep) => {
      asked.push(voter);
      named = sleep;
    },
    shut: (sleptMs) => slept.push(sleptMs),
  });
  const answer = (voter: number, sleep = named): void => fence.confirmed(voter, sleep);
  return { fence, asked, slept, answer, named: () => named };
}

describe("a fence", () => {
  test("is open while its process runs", () => {
    const { fence, asked } = fenced([0, 1, 2]);
    for (let tick = 0; tick < 20; tick += 1) {
      vi.advanceTimersByTime(OVERSLEPT_MS / 2);
      fence.tick();
      expect(fence.gate()).toBeUndefined();
    }
    expect(asked).toEqual([]);
  });

  test("is shut by the first who asks behind a sleep, before any tick, and once a sleep", () => {
    const { fence, asked, slept } = fenced([0, 1, 2]);
    vi.advanceTimersByTime(OVERSLEPT_MS + 100);
    expect(fence.gate()).toBeInstanceOf(Promise);
    expect(fence.gate()).toBeInstanceOf(Promise);
    expect(slept).toEqual([OVERSLEPT_MS + 100]);
    expect(asked, "each voter but itself").toEqual([1, 2]);
  });

  test("asks again with each tick until it opens", async () => {
    const { fence, asked, answer } = fenced([0, 1, 2]);
    fence.overslept(1_000);
    const gate = fence.gate();
    fence.tick();
    expect(asked).toEqual([1, 2, 1, 2]);
    answer(2);
    expect(fence.isShut).toBe(false);
    await gate;
    fence.tick();
    expect(asked).toHaveLength(4);
  });

  test("opens for a majority of the voters only, each of which counts once", () => {
    const { fence, answer } = fenced([0, 1, 2, 3, 4]);
    fence.overslept(1_000);
    answer(3);
    answer(3);
    answer(7);
    expect(fence.isShut).toBe(true);
    answer(4);
    expect(fence.isShut).toBe(false);
  });

  test("counts what was confirmed since the last sleep", () => {
    const { fence, answer } = fenced([0, 1, 2, 3, 4]);
    fence.overslept(1_000);
    answer(1);
    fence.open();
    answer(2);
    fence.overslept(1_000);
    answer(3);
    expect(fence.isShut).toBe(true);
  });

  test("that sleeps again while it is shut counts no answers from before", () => {
    const { fence, answer, named } = fenced([0, 1, 2, 3, 4]);
    fence.overslept(1_000);
    const before = named();
    answer(1);
    fence.overslept(60_000);
    answer(2, before);
    answer(3, before);
    expect(fence.isShut, "old answers").toBe(true);
    answer(2);
    expect(fence.isShut, "one that was counted before the second sleep counts no more").toBe(true);
    answer(3);
    expect(fence.isShut).toBe(false);
  });

  test("counts no answer that is read behind a sleep which no clock has noticed yet", () => {
    const { fence, answer, asked } = fenced([0, 1, 2]);
    fence.overslept(1_000);
    vi.advanceTimersByTime(60_000);
    answer(1);
    expect(fence.isShut).toBe(true);
    expect(asked, "it has asked anew").toEqual([1, 2, 1, 2]);
    answer(1);
    expect(fence.isShut).toBe(false);
  });

  test("of the only voter never shuts", () => {
    const { fence } = fenced([0]);
    fence.overslept(1_000);
    expect(fence.gate()).toBeUndefined();
  });
});
