/** @file The order of the data: every epoch uses every sample once, and nothing but the arguments decides. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BatchPlan, type BatchPlanInit } from "../../src/data/batches.ts";
import { AssertionFailed } from "../../src/types/assert.ts";

function sequence(plan: BatchPlan, init: BatchPlanInit, steps: number): number[] {
  const samples: number[] = [];
  for (let step = 0; step < steps; step++) {
    for (let microBatch = 0; microBatch < init.microBatches; microBatch++) {
      samples.push(...plan.samples(step, microBatch));
    }
  }
  return samples;
}

describe("BatchPlan", () => {
  it("uses each sample once in each epoch, batches larger than an epoch included", () => {
    const shapes = fc.record({
      count: fc.integer({ min: 1, max: 50 }),
      seed: fc.maxSafeNat(),
      perMicroBatch: fc.integer({ min: 1, max: 40 }),
      microBatches: fc.integer({ min: 1, max: 5 }),
    });
    // On failure fast-check prints its seed.
    fc.assert(
      fc.property(shapes, ({ count, seed, perMicroBatch, microBatches }) => {
        const init = { count, seed, microBatches, batch: perMicroBatch * microBatches };
        const drawn = sequence(new BatchPlan(init), init, Math.ceil((3 * count) / init.batch));
        for (let epoch = 0; epoch < 3; epoch++) {
          const order = drawn.slice(epoch * count, (epoch + 1) * count).toSorted((a, b) => a - b);
          expect(order).toEqual(Array.from({ length: count }, (_, sample) => sample));
        }
      }),
      { numRuns: 60 },
    );
  });

  it("does not depend on the order of calls, nor on which epochs it still holds", () => {
    const init = { count: 23, seed: 8, batch: 12, microBatches: 3 };
    const keys = Array.from({ length: 60 }, (_, index) => ({ step: Math.floor(index / 3), microBatch: index % 3 }));
    const plan = new BatchPlan(init);
    const forward = keys.map(({ step, microBatch }) => plan.samples(step, microBatch).join());
    const backward = keys.toReversed().map(({ step, microBatch }) => plan.samples(step, microBatch).join());
    const alone = keys.map(({ step, microBatch }) => new BatchPlan(init).samples(step, microBatch).join());
    expect(backward.toReversed()).toEqual(forward);
    expect(alone).toEqual(forward);
  });

  it("cuts the same batch into any number of micro-batches", () => {
    const init = { count: 100, seed: 3, batch: 24 };
    const whole = new BatchPlan({ ...init, microBatches: 1 }).samples(7, 0);
    for (const microBatches of [2, 3, 4, 6, 8, 12, 24]) {
      const plan = new BatchPlan({ ...init, microBatches });
      const parts = Array.from({ length: microBatches }, (_, microBatch) => [...plan.samples(7, microBatch)]);
      expect(parts.flat()).toEqual([...whole]);
    }
  });

  it("orders epochs and seeds differently, and hands out arrays of its own", () => {
    const init = { count: 64, seed: 2 ** 40 + 1, batch: 64, microBatches: 1 };
    const plan = new BatchPlan(init);
    const first = plan.samples(0, 0);
    expect(plan.samples(1, 0)).not.toEqual(first);
    expect(new BatchPlan({ ...init, seed: 1 }).samples(0, 0)).not.toEqual(first);
    const copy = Int32Array.from(first);
    first.fill(-1);
    expect(plan.samples(0, 0)).toEqual(copy);
  });

  it("stays the order that runs were recorded with", () => {
    const plan = new BatchPlan({ count: 10, seed: 1, batch: 10, microBatches: 1 });
    expect(plan.samples(0, 0).join()).toBe("4,7,9,6,0,1,2,5,3,8");
    expect(plan.samples(1, 0).join()).toBe("4,0,6,1,8,9,3,7,5,2");
  });

  it("rejects what cannot be cut", () => {
    const init = { count: 10, seed: 1, batch: 8, microBatches: 2 };
    expect(() => new BatchPlan({ ...init, microBatches: 3 })).toThrow(AssertionFailed);
    expect(() => new BatchPlan({ ...init, count: 0 })).toThrow(AssertionFailed);
    expect(() => new BatchPlan(init).samples(0, 2)).toThrow(AssertionFailed);
    expect(() => new BatchPlan(init).samples(-1, 0)).toThrow(AssertionFailed);
  });
});
