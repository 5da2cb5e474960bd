/** @file What users write behind `--data`, and the synthetic task that can have any size. */
import { describe, expect, it } from "vitest";
import type { Split } from "../../src/data/dataset.ts";
import { describeDataSets, loadDataSet } from "../../src/data/load.ts";
import { syntheticDataSet } from "../../src/data/synthetic.ts";
import { failureOf } from "../helpers/failures.ts";
import { plainTestAccuracy } from "../helpers/plain-training.ts";
import { hasMnist, MNIST_DIR } from "../helpers/shared-data.ts";

describe("loadDataSet", () => {
  it("loads digits and synthetic data without files", async () => {
    expect((await loadDataSet("digits", { seed: 1 })).name).toBe("digits");
    const synthetic = await loadDataSet("synthetic:classes=3,features=4", { seed: 1 });
    expect(synthetic).toMatchObject({ classes: 3, features: 4, train: { count: 8_000 }, test: { count: 2_000 } });
  });

  it.skipIf(!hasMnist)("loads MNIST from a folder", async () => {
    expect((await loadDataSet("mnist", { seed: 1, dataDir: MNIST_DIR })).train.count).toBe(8_000);
  });

  it.each([
    ["minst", /^UsageError: unknown data set "minst" \| did you mean "mnist"/],
    ["fasion-mnist", /did you mean "fashion-mnist"/],
    ["", /^UsageError: unknown data set ""/],
    ["text:tiny.txt", /^UsageError: .* is not in this version/],
    ["csv", /^UsageError: .* \| write csv:PATH/],
    ["csv:", /^UsageError: .* \| write csv:PATH/],
    ["mnist:small", /^UsageError: .* \| write mnist/],
    ["synthetic:", /^UsageError: .* \| write synthetic:classes/],
    ["synthetic:classes=3", /^UsageError: synthetic data needs features=/],
    ["synthetic:classes=1,features=3", /^UsageError: synthetic classes=1 is outside 2\.\.65536/],
    ["synthetic:classes=2,features=0", /features=0 is outside/],
    ["synthetic:classes=2,features=-3", /^UsageError: synthetic data cannot read "features=-3"/],
    ["synthetic:classes=2,features=3,colour=4", /cannot read "colour=4"/],
    ["synthetic:classes=2,features=3,toString=4", /cannot read "toString=4"/],
    ["synthetic:classes=65536,features=1048576", /^UsageError: synthetic classes x features/],
  ])("rejects %j", async (spec, message) => {
    expect(await failureOf(loadDataSet(spec, { seed: 1 }))).toMatch(message);
  });

  it("describes every name that it knows", () => {
    expect(describeDataSets().map(({ name }) => name)).toEqual([
      "digits",
      "mnist",
      "fashion-mnist",
      "csv",
      "synthetic",
    ]);
  });
});

describe("syntheticDataSet", () => {
  const shape = { classes: 5, features: 20, samples: 2_000, test: 500 };
  const sampleOf = (split: Split, sample: number, features = shape.features): Float32Array => {
    const into = new Float32Array(features);
    split.fill(sample, into, 0);
    return into;
  };

  it("draws the same sample in any order and at any count, and another for each seed and split", () => {
    const data = syntheticDataSet(shape, 7);
    const late = sampleOf(data.train, 1_999);
    sampleOf(data.train, 3);
    expect(sampleOf(data.train, 1_999)).toEqual(late);
    const longer = syntheticDataSet({ ...shape, samples: 3_000 }, 7);
    expect(sampleOf(longer.train, 1_999)).toEqual(late);
    expect(longer.sha256).not.toBe(data.sha256);
    expect(sampleOf(data.test, 3)).not.toEqual(sampleOf(data.train, 3));
    const other = syntheticDataSet(shape, 8);
    expect(sampleOf(other.train, 1_999)).not.toEqual(late);
    expect(other.sha256).not.toBe(data.sha256);
  });

  it("stays what runs were recorded with: a change here needs a new content version", () => {
    const { train } = syntheticDataSet({ classes: 3, features: 4, samples: 5, test: 1 }, 1);
    expect(train.labels.join()).toBe("1,0,1,1,1");
    expect(sampleOf(train, 0, 4).join()).toBe("-2.65010929107666,-1.9318184852600098,-5.0380859375,4.150047779083252");
  });

  it("has noise of deviation 1 around its centres, which can be learnt", () => {
    const data = syntheticDataSet(shape, 7);
    const sums = new Map<number, { count: number; sum: number; squares: number }>();
    for (let sample = 0; sample < data.train.count; sample++) {
      const value = sampleOf(data.train, sample)[11]!;
      const label = data.train.labels[sample]!;
      const entry = sums.get(label) ?? { count: 0, sum: 0, squares: 0 };
      sums.set(label, { count: entry.count + 1, sum: entry.sum + value, squares: entry.squares + value * value });
    }
    expect([...sums.keys()].toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4]);
    for (const { count, sum, squares } of sums.values()) {
      // About 400 samples a class: the deviation's own deviation is 0.035.
      expect(Math.abs(Math.sqrt(squares / count - (sum / count) ** 2) - 1)).toBeLessThan(0.15);
    }
    expect(plainTestAccuracy(data, { hidden: [], steps: 200, batch: 64, rate: 1e-2, seed: 1 })).toBeGreaterThan(0.9);
  });

  it("can be learnt at the default model's width", { timeout: 60_000 }, () => {
    const wide = syntheticDataSet({ classes: 10, features: 784, samples: 4_000, test: 500 }, 1);
    expect(plainTestAccuracy(wide, { hidden: [], steps: 200, batch: 64, rate: 3e-3, seed: 1 })).toBeGreaterThan(0.9);
  });

  it("goes to the edges of its limits", () => {
    const narrow = syntheticDataSet({ classes: 2, features: 1, samples: 1, test: 1 }, Number.MAX_SAFE_INTEGER);
    expect(Number.isFinite(sampleOf(narrow.train, 0, 1)[0])).toBe(true);
    const many = syntheticDataSet({ classes: 65_536, features: 2, samples: 10, test: 1 }, 0);
    expect(Math.max(...many.train.labels)).toBeGreaterThan(1_000);
    expect(() => sampleOf(many.train, 10, 2)).toThrow("no sample");
  });
});
