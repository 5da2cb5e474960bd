/** @file The embedded digits: the same bytes everywhere, plausible images, and hard enough to need a hidden layer. */
import { describe, expect, it } from "vitest";
import { digitsDataSet } from "../../src/data/digits.ts";
import { plainTestAccuracy } from "../helpers/plain-training.ts";

const data = digitsDataSet();

describe("digits", () => {
  it("has the content that every machine draws", () => {
    expect(data).toMatchObject({ name: "digits", features: 784, classes: 10 });
    expect([data.train.count, data.test.count]).toEqual([8_000, 2_000]);
    expect(data.sha256).toBe("743d700ec9bfa6a3169b5c5577c1d16216fcacd600c33cd7a32d119f792fd15e");
  });

  it("draws a sample whatever the number of samples is", () => {
    const small = digitsDataSet(30, 10);
    const expected = new Float32Array(784);
    const actual = new Float32Array(784);
    for (const split of ["train", "test"] as const) {
      for (let sample = 0; sample < small[split].count; sample++) {
        data[split].fill(sample, expected, 0);
        small[split].fill(sample, actual, 0);
        expect(actual).toEqual(expected);
        expect(small[split].labels[sample]).toBe(data[split].labels[sample]);
      }
    }
  });

  it("holds all ten digits about equally often, all images different", () => {
    for (const split of [data.train, data.test]) {
      const counts = Array.from({ length: 10 }, () => 0);
      for (const label of split.labels) counts[label]!++;
      for (const count of counts) expect(Math.abs(count / split.count - 0.1)).toBeLessThan(0.025);
    }
    const image = new Float32Array(784);
    const images = new Set<string>();
    for (let sample = 0; sample < data.test.count; sample++) {
      data.test.fill(sample, image, 0);
      images.add(Buffer.from(image.buffer).toString("latin1"));
    }
    expect(images.size).toBe(data.test.count);
  });

  it("keeps the ink on the paper: the rim is empty but for noise, and every image has ink", () => {
    const image = new Float32Array(784);
    let rim = 0;
    let inkMin = Infinity;
    for (let sample = 0; sample < data.train.count; sample++) {
      data.train.fill(sample, image, 0);
      let ink = 0;
      for (let pixel = 0; pixel < 784; pixel++) {
        const [row, column] = [Math.floor(pixel / 28), pixel % 28];
        if (image[pixel]! > 0.4) ink++;
        if (row % 27 === 0 || column % 27 === 0) rim += image[pixel]!;
      }
      inkMin = Math.min(inkMin, ink);
    }
    expect(rim / (108 * data.train.count)).toBeLessThan(0.03);
    expect(inkMin).toBeGreaterThan(8);
  });

  it("fills only the place that it is given, with multiples of 1/255", () => {
    const into = new Float32Array(800).fill(-7);
    data.train.fill(3, into, 8);
    expect([...into.subarray(0, 8), ...into.subarray(792)]).toEqual(Array.from({ length: 16 }, () => -7));
    for (const value of into.subarray(8, 792)) expect(Math.fround(Math.round(value * 255) / 255)).toBe(value);
    expect(() => data.train.fill(8_000, into, 0)).toThrow("no sample");
  });

  it("is beyond a linear model, and within reach of a small network", { timeout: 90_000 }, () => {
    // Trained to the end (8,000 steps), the linear model stands at 0.88 and a 784-256-256-256-10 network at 0.985.
    const training = { batch: 128, seed: 1 };
    const linear = plainTestAccuracy(data, { ...training, hidden: [], steps: 400, rate: 6e-3 });
    const network = plainTestAccuracy(data, { ...training, hidden: [128, 32], steps: 350, rate: 3e-3 });
    expect(linear).toBeGreaterThan(0.8);
    expect(linear).toBeLessThan(0.92);
    expect(network).toBeGreaterThan(0.96);
  });
});
