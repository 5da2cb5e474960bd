/** @file Softmax and cross-entropy of every engine against float64. */
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS, type EngineKind } from "../../src/engine/contract.ts";
import { bits, randomFloats, Workbench, worstUlp } from "./engine-support.ts";

const FRESH_SEED = Date.now() % 2 ** 31;

interface Outcome {
  readonly gradient: Float32Array;
  readonly loss: number;
  readonly correct: number;
}

function run(kind: EngineKind, logits: ArrayLike<number>, labels: readonly number[], scale: number): Outcome {
  const bench = new Workbench(kind);
  const x = bench.place(logits);
  const target = bench.memory.allocate([labels.length]);
  bench.memory.i32(target).set(labels);
  const gradient = bench.room(logits.length);
  const loss = bench.memory.allocateBytes(8);
  const correct = bench.memory.allocate([1]);
  const { kernels } = bench;
  const classes = logits.length / labels.length;
  kernels.softmaxCrossEntropy(
    x.address,
    target.offsetBytes,
    gradient.address,
    labels.length,
    classes,
    scale,
    loss,
    correct.offsetBytes,
  );
  bench.checkGuards();
  const [total] = new Float64Array(bench.memory.memory.buffer, loss, 1);
  return { gradient: gradient.values, loss: total!, correct: bench.memory.i32(correct)[0]! };
}

/** Float64 throughout. Rows without a label count for nothing. */
function exact(logits: ArrayLike<number>, labels: readonly number[], scale: number): Outcome {
  const classes = logits.length / labels.length;
  const gradient = new Float64Array(logits.length);
  let loss = 0;
  let correct = 0;
  labels.forEach((label, row) => {
    if (label < 0) return;
    const x = Array.from({ length: classes }, (_, index) => logits[row * classes + index]!);
    const top = Math.max(...x);
    const sum = x.reduce((total, value) => total + Math.exp(value - top), 0);
    x.forEach((value, index) => {
      gradient[row * classes + index] = (Math.exp(value - top) / sum - Number(index === label)) * scale;
    });
    loss += Math.log(sum) - (x[label]! - top);
    correct += Number(x.indexOf(top) === label);
  });
  return { gradient: Float32Array.from(gradient), loss, correct };
}

describe.each(ENGINE_KINDS)("%s", (kind) => {
  test.each([1, 2, 3, 4, 5, 7, 10, 13, 17, 33, 257])("agrees with float64 for %i classes", (classes) => {
    const rows = 9;
    const logits = randomFloats(rows * classes, FRESH_SEED, 8);
    const labels = Array.from({ length: rows }, (_, row) => (row === 4 ? -1 : (row * 5) % classes));
    const actual = run(kind, logits, labels, 1 / rows);
    const expected = exact(logits, labels, 1 / rows);
    const context = `seed ${FRESH_SEED}`;
    expect(Math.abs(actual.loss - expected.loss), context).toBeLessThan(1e-6 * rows);
    expect(actual.correct, context).toBe(expected.correct);
    // Near one, 1 - p keeps the absolute error of p: some units of 2^-24, times the scale.
    actual.gradient.forEach((value, index) => {
      expect(Math.abs(value - expected.gradient[index]!), context).toBeLessThan(3e-7 / rows);
    });
  });

  test("exp is within 2 ulp from 0 down to where it underflows, and the softmax within 4", () => {
    // Two classes, the second the larger by x: e^-x / (1 + e^-x).
    const count = 20_000;
    const logits = Float32Array.from({ length: 2 * count }, (_, index) =>
      index % 2 === 0 ? (-110 * index) / 2 / count : 0,
    );
    const { gradient } = run(
      kind,
      logits,
      Array.from({ length: count }, () => 1),
      1,
    );
    const p = gradient.filter((_, index) => index % 2 === 0);
    const exactP = (index: number): number => 1 / (1 + Math.exp(-logits[2 * index]!));
    expect(worstUlp(p, exactP)).toBeLessThanOrEqual(4);
    // Beyond 20, 1 + e^-x is 1 to float32: what remains is exp itself.
    const tail = p.subarray(4_000);
    expect(worstUlp(tail, (index) => Math.exp(logits[2 * (index + 4_000)]!))).toBeLessThanOrEqual(2);
    expect(p[count - 1]).toBe(0);
  });

  test("the logarithm is a float64 one", () => {
    // Equal logits: the sum is the number of classes exactly, and the loss its logarithm.
    for (let classes = 1; classes < 3_000; classes += 7) {
      const { loss } = run(kind, new Float32Array(classes).fill(2.5), [classes - 1], 1);
      expect(Math.abs(loss - Math.log(classes))).toBeLessThanOrEqual(2 ** -52 * Math.max(Math.log(classes), 1));
    }
  });

  test("the lowest of equal classes wins", () => {
    const logits = [1, 3, 3, 0, 3, 1];
    expect([0, 1, 2, 3, 4, 5].map((label) => run(kind, logits, [label], 1).correct)).toEqual([0, 1, 0, 0, 0, 0]);
  });

  test("a row without a label counts for nothing", () => {
    const { gradient, loss, correct } = run(kind, [5, 1, 2, 3], [-1, -7], 1);
    expect([...gradient, loss, correct]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test("a label beyond the classes makes the loss NaN and writes nowhere else", () => {
    const { gradient, loss } = run(kind, [5, 1, 2, 3], [2, 0], 1);
    expect(loss).toBeNaN();
    expect([...gradient.subarray(0, 2)]).toEqual([0, 0]);
  });

  test("huge logits are no trouble; NaN and +infinity give NaN, never a number", () => {
    const large = run(kind, [1e30, -1e30, 3e38, -3e38], [0, 1], 1);
    expect(large.loss).toBeCloseTo(6e38, -32);
    expect([...large.gradient]).toEqual([0, 0, 1, -1]);
    expect(run(kind, [1, -Infinity], [0], 1).loss).toBe(0);
    for (const bad of [NaN, Infinity]) {
      for (const place of [0, 1, 2, 3, 4]) {
        const logits = [1, 2, 3, 4, 5].map((value, index) => (index === place ? bad : value));
        const { loss, gradient } = run(kind, logits, [1], 1);
        expect([loss, gradient[1]]).toEqual([NaN, NaN]);
      }
    }
  });

  test("a row's gradient has the same bits among other rows", () => {
    const logits = randomFloats(6 * 11, FRESH_SEED, 5);
    const whole = run(kind, logits, [0, 1, 2, 3, 4, 5], 0.25).gradient;
    const part = run(kind, logits.subarray(33, 55), [3, 4], 0.25).gradient;
    expect(bits(part), `seed ${FRESH_SEED}`).toEqual(bits(whole.subarray(33, 55)));
  });
});
