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
  readonly clockwork = new StageClockwork(new TimeAccount(this.clock.sample()), this.clock);

  wait(milliseconds: number): void {
    this.clock.now += milliseconds;
  }

  async compute(kind: "F" | "B" | "W" | "update", milliseconds: number): Promise<number | undefined> {
    const startMs = this.clock.now;
    const { endMs } = await this.clockwork.timed(() => {
      this.clock.now += milliseconds;
      return Promise.resolve({ startMs, endMs: this.clock.now, runQueueMs: 0 });
    });
    return this.clockwork.noteOperation(kind, startMs, endMs);
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

test("costs are medians by kind", async () => {
  const bench = new Bench();
  for (const milliseconds of [9, 2, 4]) await bench.compute("F", milliseconds);
  for (const milliseconds of [1, 8]) await bench.compute("B", milliseconds);
  await bench.compute("W", 3);
  expect(bench.clockwork.costs).toEqual({ forward: 4, backward: 4.5, weight: 3, update: 0 });
});

test("a wait is drawn from the end of the operation before, where it is long enough to see", async () => {
  const bench = new Bench();
  bench.clockwork.stepStarted(0);
  expect(await bench.compute("F", 5)).toBeUndefined();
  bench.wait(0.04);
  expect(await bench.compute("B", 5)).toBeUndefined();
  const endMs = bench.clock.now;
  bench.wait(2);
  expect(await bench.compute("W", 5)).toBe(endMs);
});

test("an operation that fails passes its error on", async () => {
  const bench = new Bench();
  await expect(bench.clockwork.timed(() => Promise.reject(new Error("broken")))).rejects.toThrow("broken");
});
