/** @file Accounts of time: the four parts are the wall time, each instant counts once, by precedence. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { addTimes, idlePercent, noTime, TimeAccount, wallOf, type ThreadSample } from "../../src/metrics/accounting.ts";
import { AssertionFailed } from "../../src/types/assert.ts";

const sample = (nowMs: number, loopActiveMs = 0, runQueueMs = 0): ThreadSample => ({ nowMs, loopActiveMs, runQueueMs });

describe("while the worker is free", () => {
  test("the busy main thread is communication, a missing core run queue, the rest wait", () => {
    const account = new TimeAccount(sample(100, 7, 3));
    account.settle(sample(110, 11, 5));
    expect(account.total).toEqual({ computeMs: 0, communicationMs: 4, runQueueMs: 2, waitMs: 4 });
  });

  test("neither may be more than there was time for", () => {
    const account = new TimeAccount(sample(0));
    account.settle(sample(10, 50, 3));
    expect(account.total).toEqual({ computeMs: 0, communicationMs: 7, runQueueMs: 3, waitMs: 0 });
    account.settle(sample(12, 50, 100));
    expect(account.total).toEqual({ computeMs: 0, communicationMs: 7, runQueueMs: 5, waitMs: 0 });
  });

  test("totals that run backwards, and a clock that does, count as nothing", () => {
    const account = new TimeAccount(sample(10, 5, 5));
    account.settle(sample(20, 0, 0));
    expect(account.total).toEqual({ computeMs: 0, communicationMs: 0, runQueueMs: 0, waitMs: 10 });
    account.settle(sample(15));
    expect(wallOf(account.total)).toBe(10);
  });
});

describe("while an operation is under way", () => {
  test("the worker's interval is compute, what is left of the hops communication or run queue, none of it wait", () => {
    const account = new TimeAccount(sample(0));
    account.dispatched(sample(2));
    // 10 ms there and back: 6 of compute, 1 + 1 without a core, 2 of hops.
    account.completed(sample(12, 0, 1), { startMs: 3, endMs: 9, runQueueMs: 1 });
    expect(account.total).toEqual({ computeMs: 6, communicationMs: 2, runQueueMs: 2, waitMs: 2 });
  });

  test("what the main thread does meanwhile is overlapped: it counts once, as compute", () => {
    const account = new TimeAccount(sample(0));
    account.dispatched(sample(0));
    account.completed(sample(10, 10, 0), { startMs: 0, endMs: 10, runQueueMs: 0 });
    account.settle(sample(11, 10, 0));
    expect(account.total).toEqual({ computeMs: 10, communicationMs: 0, runQueueMs: 0, waitMs: 1 });
  });

  test("a worker whose clock says more than passed, or runs backwards, is cut to what passed", () => {
    const account = new TimeAccount(sample(0));
    account.dispatched(sample(0));
    account.completed(sample(4), { startMs: -10, endMs: 90, runQueueMs: 7 });
    expect(account.total).toEqual({ ...noTime, computeMs: 4 });
    account.dispatched(sample(4));
    account.completed(sample(9), { startMs: 8, endMs: 6, runQueueMs: 9 });
    expect(account.total).toEqual({ ...noTime, computeMs: 4, runQueueMs: 5 });
  });

  test("settling waits for its end; two at once, or an end without a beginning, are the program's errors", () => {
    const account = new TimeAccount(sample(0));
    expect(() => account.completed(sample(1), { startMs: 0, endMs: 1, runQueueMs: 0 })).toThrow(AssertionFailed);
    account.dispatched(sample(1));
    account.settle(sample(5));
    expect(wallOf(account.total)).toBe(1);
    expect(() => account.dispatched(sample(6))).toThrow(AssertionFailed);
  });
});

test("in any sequence the parts are the wall time to the last bit, and none is negative or shrinks", () => {
  // Whole numbers add up exactly in float64: a difference is a mistake, not rounding.
  const step = fc.record({
    kind: fc.constantFrom("settle", "operate"),
    freeMs: fc.nat(50),
    busyMs: fc.nat(50),
    activeMs: fc.integer({ min: -5, max: 80 }),
    queuedMs: fc.integer({ min: -5, max: 30 }),
    workerFrom: fc.integer({ min: -10, max: 60 }),
    workerMs: fc.integer({ min: -10, max: 80 }),
    workerQueuedMs: fc.integer({ min: -5, max: 30 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      let now = 1_000;
      let active = 0;
      let queued = 0;
      const account = new TimeAccount(sample(now, active, queued));
      for (const each of steps) {
        const before = account.total;
        const startMs = now;
        now += each.freeMs;
        const at = (): ThreadSample => sample(now, (active += each.activeMs), (queued += each.queuedMs));
        if (each.kind === "settle") account.settle(at());
        else {
          account.dispatched(at());
          const from = now + each.workerFrom;
          now += each.busyMs;
          account.completed(at(), { startMs: from, endMs: from + each.workerMs, runQueueMs: each.workerQueuedMs });
        }
        expect(wallOf(account.total) - wallOf(before)).toBe(now - startMs);
        for (const part of Object.keys(noTime) as (keyof typeof noTime)[]) {
          expect(account.total[part]).toBeGreaterThanOrEqual(before[part]);
        }
      }
    }),
  );
});

test("idle is wait over wall; no time at all is not idle", () => {
  const times = { computeMs: 5, communicationMs: 1, runQueueMs: 2, waitMs: 2 };
  expect(idlePercent(times)).toBe(20);
  expect(idlePercent(noTime)).toBe(0);
  expect(wallOf(addTimes(times, times))).toBe(20);
});
