/** @file The times of one stage over its steps, with a clock that the test moves. */
import { describe, expect, test } from "vitest";
import { noTime, TimeAccount, wallOf, type ThreadSample } from "../../src/metrics/accounting.ts";
import { ThreadSampler } from "../../src/runtime/process-sample.ts";
import { StageClockwork } from "../../src/runtime/stage-clockwork.ts";

/** Nothing but time passes: all that is not compute is wait or a hop. */
class HandClock extends ThreadSampler {
  now = 100;

  override sample(): ThreadSample {
    return { nowMs: this.now, loopActiveMs: 0, runQueueMs: 0 };
  }
}

class Bench {
  readonly clock = new HandClock();
  readonly clockwork: StageClockwork;

  constructor(laps = 1) {
    this.clockwork = new StageClockwork(new TimeAccount(this.clock.sample()), this.clock, laps);
  }

  wait(milliseconds: number): void {
    this.clock.now += milliseconds;
  }

  async compute(kind: "F" | "B" | "W", milliseconds: number, lap = 0, isWhole = true): Promise<number | undefined> {
    const [startMs, endMs] = await this.#timed(milliseconds);
    return this.clockwork.noteOperation(kind, lap, startMs, endMs, isWhole);
  }

  async update(milliseconds: number): Promise<number | undefined> {
    return this.clockwork.noteUpdate(...(await this.#timed(milliseconds)));
  }

  async #timed(milliseconds: number): Promise<[number, number]> {
    const startMs = this.clock.now;
    const { endMs } = await this.clockwork.timed(() => {
      this.clock.now += milliseconds;
      return Promise.resolve({ startMs, endMs: this.clock.now, runQueueMs: 0 });
    });
    return [startMs, endMs];
  }

  async step(step: number, waitMs: number, computeMs: number): Promise<void> {
    this.clockwork.stepStarted(step);
    this.wait(waitMs);
    await this.compute("F", computeMs);
    this.clockwork.stepEnded();
  }
}

describe("the times of a stage", () => {
  test("begin with its first step and end with its last; the steady part leaves out the first and the last step", async () => {
    const bench = new Bench();
    bench.wait(50);
    await bench.step(3, 10, 1);
    bench.wait(4);
    await bench.step(4, 20, 2);
    await bench.step(5, 30, 3);
    bench.wait(1_000);
    expect(bench.clockwork.times).toEqual({ ...noTime, computeMs: 6, waitMs: 64 });
    expect(bench.clockwork.steadyTimes).toEqual({ ...noTime, computeMs: 2, waitMs: 20 });
    expect(wallOf(bench.clockwork.times)).toBe(70);
    expect(bench.clockwork.idlePercent).toBeCloseTo((100 * 64) / 70, 12);
  });

  test("of a single step have no steady part, and before it there are none", async () => {
    const bench = new Bench();
    expect([bench.clockwork.times, bench.clockwork.idlePercent]).toEqual([noTime, 0]);
    await bench.step(0, 5, 5);
    expect(bench.clockwork.steadyTimes).toEqual(noTime);
    expect(bench.clockwork.stepMsMedian).toBe(0);
  });

  test("of a step run from its start to the next one's", async () => {
    const bench = new Bench();
    for (const [step, waitMs] of [9, 1, 5, 100].entries()) await bench.step(step, waitMs, 1);
    expect(bench.clockwork.stepMsMedian).toBe(6);
  });
});

describe("costs", () => {
  const none = { forward: 0, backward: 0, weight: 0 };

  test("are medians by kind and lap", async () => {
    const bench = new Bench(2);
    expect(bench.clockwork.costs).toEqual({ laps: [none, none], update: 0 });
    for (const milliseconds of [9, 2, 4]) await bench.compute("F", milliseconds);
    for (const milliseconds of [1, 8]) await bench.compute("B", milliseconds);
    await bench.compute("W", 3);
    for (const milliseconds of [7, 5]) await bench.compute("F", milliseconds, 1);
    for (const milliseconds of [20, 10, 30]) await bench.update(milliseconds);
    expect(bench.clockwork.costs).toEqual({
      laps: [
        { forward: 4, backward: 4.5, weight: 3 },
        { ...none, forward: 6 },
      ],
      update: 20,
    });
  });

  test("that decisions go by are of the newest 32; those of reports of all", async () => {
    const bench = new Bench(2);
    expect([bench.clockwork.recentStepMs, bench.clockwork.recentCosts]).toEqual([0, [none, none]]);
    for (let count = 0; count < 100; count += 1) await bench.compute("B", count < 68 ? 3 : 8, 1);
    await bench.compute("F", 2);
    expect(bench.clockwork.costs.laps[1]!.backward).toBe(3);
    expect(bench.clockwork.recentCosts).toEqual([
      { ...none, forward: 2 },
      { ...none, backward: 8 },
    ]);
    for (let step = 0; step < 100; step += 1) await bench.step(step, step < 67 ? 1 : 9, 1);
    expect([bench.clockwork.stepMsMedian, bench.clockwork.recentStepMs]).toEqual([2, 10]);
  });

  test("that decisions go by are the newest also when the oldest are overwritten", async () => {
    const bench = new Bench();
    for (let count = 0; count < 2048 + 20; count += 1) await bench.compute("F", count < 2048 - 12 ? 1 : 5);
    expect(bench.clockwork.recentCosts).toEqual([{ ...none, forward: 5 }]);
    expect(bench.clockwork.costs.laps).toEqual([{ ...none, forward: 1 }]);
  });

  test("of a W are the sum of its slices, whatever comes between them", async () => {
    const bench = new Bench(2);
    await bench.compute("W", 1, 1, false);
    await bench.compute("F", 50);
    bench.wait(7);
    await bench.compute("W", 2, 1, false);
    expect(bench.clockwork.costs.laps[1]!.weight, "it is not whole yet").toBe(0);
    await bench.compute("W", 4, 1);
    expect(bench.clockwork.costs.laps).toEqual([
      { ...none, forward: 50 },
      { ...none, weight: 7 },
    ]);
    await bench.compute("W", 9, 1);
    expect(bench.clockwork.costs.laps[1]!.weight, "the next one begins anew").toBe(8);
  });

  test("of other layers begin anew; an update's do not, nor do the times", async () => {
    const bench = new Bench();
    await bench.step(0, 5, 5);
    await bench.update(3);
    bench.clockwork.segmentsChanged(1);
    expect(bench.clockwork.costs).toEqual({ laps: [none], update: 3 });
    await bench.compute("F", 2);
    expect(bench.clockwork.costs.laps).toEqual([{ ...none, forward: 2 }]);
    expect(bench.clockwork.times).toEqual({ ...noTime, computeMs: 5, waitMs: 5 });
  });
});

test("a wait is drawn from the end of the operation before, where it is long enough to see", async () => {
  const bench = new Bench();
  bench.clockwork.stepStarted(0);
  expect(await bench.compute("F", 5)).toBeUndefined();
  bench.wait(0.04);
  expect(await bench.compute("B", 5)).toBeUndefined();
  const endMs = bench.clock.now;
  bench.wait(2);
  expect(await bench.compute("W", 5, 0, false)).toBe(endMs);
  bench.wait(1);
  expect(await bench.update(5), "after a slice").toBe(endMs + 7);
  expect(bench.clockwork.lastOperationEndMs).toBe(endMs + 13);
});

test("an operation that fails passes its error on", async () => {
  const bench = new Bench();
  await expect(bench.clockwork.timed(() => Promise.reject(new Error("broken")))).rejects.toThrow("broken");
});
