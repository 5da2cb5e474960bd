/** @file Activations, bias and the test for finite numbers of every engine against float64, and their bits. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS, type EngineKind } from "../../src/engine/contract.ts";
import { bits, randomFloats, Workbench, worstUlp } from "./engine-support.ts";

const FRESH_SEED = Date.now() % 2 ** 31;
const LENGTHS = [1, 2, 3, 4, 5, 7, 8, 13, 17, 33, 100];
const SLOPE = Math.sqrt(2 / Math.PI);

/** gelu in its form without cancellation: x/2·(1 + tanh u) = x / (1 + exp(-2u)). */
function exactGelu(x: number): number {
  return x / (1 + Math.exp(-2 * SLOPE * (x + 0.044715 * x ** 3)));
}

function exactGeluSlope(x: number): number {
  const u = SLOPE * (x + 0.044715 * x ** 3);
  const s = 1 / (1 + Math.exp(-2 * u));
  return s + (x * 2 * SLOPE * (1 + 3 * 0.044715 * x * x)) / ((1 + Math.exp(2 * u)) * (1 + Math.exp(-2 * u)));
}

type Forward = "relu" | "gelu" | "tanh";
type Backward = `${Forward}Backward`;

function forward(kind: EngineKind, name: Forward, values: ArrayLike<number>, shift = 0): Float32Array {
  const bench = new Workbench(kind);
  const x = bench.place(values, shift);
  const y = bench.room(values.length, shift);
  bench.kernels[name](x.address, y.address, values.length);
  bench.checkGuards();
  return y.values;
}

function backward(
  kind: EngineKind,
  name: Backward,
  values: ArrayLike<number>,
  dy: ArrayLike<number>,
  shift = 0,
): Float32Array {
  const bench = new Workbench(kind);
  const [value, above, dx] = [bench.place(values, shift), bench.place(dy, shift), bench.room(dy.length, shift)];
  bench.kernels[name](value.address, above.address, dx.address, dy.length);
  bench.checkGuards();
  return dx.values;
}

/** Floats from `low` to `high`, densely: 40,001 of them. */
function dense(low: number, high: number): Float32Array {
  return Float32Array.from({ length: 40_001 }, (_, index) => low + ((high - low) * index) / 40_000);
}

/** ± floats of every size, 2^-140 to 2^60. */
function everySize(): Float32Array {
  return Float32Array.from({ length: 8_000 }, (_, index) => (index % 2 === 0 ? 1 : -1) * 2 ** (index / 40 - 140));
}

describe.each(ENGINE_KINDS)("%s", (kind) => {
  test.each([dense(-1, 1), dense(-12, 12), everySize()])("tanh is within 2 ulp", (x) => {
    expect(worstUlp(forward(kind, "tanh", x), (index) => Math.tanh(x[index]!))).toBeLessThanOrEqual(2);
  });

  // The exponent's rounding error grows with the exponent: 2u of size 16 has its own ulp of 2^-20.
  test.each([
    [dense(-1, 1), 4],
    [dense(-5, 12), 64],
    [everySize().filter((x) => x > -5), 64],
  ])("gelu is accurate", (x, tolerance) => {
    expect(worstUlp(forward(kind, "gelu", x), (index) => exactGelu(x[index]!))).toBeLessThanOrEqual(tolerance);
  });

  test("gelu's derivative is accurate to 1e-6 of itself or of 1", () => {
    for (const x of [dense(-1, 1), dense(-12, 12), everySize()]) {
      const dx = backward(kind, "geluBackward", x, new Float32Array(x.length).fill(1));
      dx.forEach((value, index) => {
        const expected = Math.abs(x[index]!) > 40 ? Number(x[index]! > 0) : exactGeluSlope(x[index]!);
        expect(Math.abs(value - expected), `at ${x[index]}`).toBeLessThan(1e-6);
      });
    }
  });

  test("gelu's derivative is the slope of gelu", () => {
    const x = dense(-6, 6).filter((_, index) => index % 100 === 0);
    const dx = backward(kind, "geluBackward", x, new Float32Array(x.length).fill(3));
    // Central differences of the float64 function: their own error is about 1e-9.
    x.forEach((at, index) => {
      const slope = (exactGelu(at + 1e-5) - exactGelu(at - 1e-5)) / 2e-5;
      expect(Math.abs(dx[index]! - 3 * slope)).toBeLessThan(3e-6);
    });
  });

  test("relu, and the derivatives of relu and tanh, are float32 formulas to the bit", () => {
    for (const length of LENGTHS) {
      const [x, dy] = [randomFloats(length, FRESH_SEED), randomFloats(length, FRESH_SEED + 1)];
      const context = `seed ${FRESH_SEED}, length ${length}`;
      expect(forward(kind, "relu", x), context).toEqual(x.map((value) => (value < 0 ? 0 : value)));
      expect(backward(kind, "reluBackward", x, dy), context).toEqual(dy.map((slope, i) => (x[i]! > 0 ? slope : 0)));
      const slopes = x.map((y) => Math.fround(1 - Math.fround(y * y)));
      expect(backward(kind, "tanhBackward", x, dy), context).toEqual(dy.map((slope, i) => slope * slopes[i]!));
    }
  });

  test("special values go through sensibly", () => {
    const x = [NaN, Infinity, -Infinity, 0, 3e38, -3e38];
    expect([...forward(kind, "tanh", x)]).toEqual([NaN, 1, -1, 0, 1, -1]);
    expect([...forward(kind, "relu", x)]).toEqual([NaN, Infinity, 0, 0, Math.fround(3e38), 0]);
    expect([...forward(kind, "gelu", x)].map((y) => y + 0)).toEqual([NaN, Infinity, NaN, 0, Math.fround(3e38), 0]);
    const slopes = backward(kind, "geluBackward", x, [1, 1, 1, 1, 1, 1]);
    expect(slopes[0]).toBeNaN();
    [1, 0, 0.5, 1, 0].forEach((slope, index) => expect(slopes[index + 1]).toBeCloseTo(slope, 6));
  });

  test("an element's bits do not depend on its place, and y may be x", () => {
    const property = fc.property(fc.constantFrom("relu", "gelu", "tanh"), fc.nat(3), fc.nat(40), fc.nat(1e6), check);
    function check(name: Forward, shift: number, skipped: number, seed: number): void {
      const [x, dy] = [randomFloats(64, seed, 4), randomFloats(64, seed + 1)];
      const y = forward(kind, name, x);
      expect(bits(forward(kind, name, x.subarray(skipped), shift))).toEqual(bits(y.subarray(skipped)));
      const slopes = backward(kind, `${name}Backward`, x, dy);
      const part = backward(kind, `${name}Backward`, x.subarray(skipped), dy.subarray(skipped), shift);
      expect(bits(part)).toEqual(bits(slopes.subarray(skipped)));
      const bench = new Workbench(kind);
      const [inPlace, slopeInPlace, value] = [bench.place(x), bench.place(dy), bench.place(x)];
      bench.kernels[name](inPlace.address, inPlace.address, 64);
      bench.kernels[`${name}Backward`](value.address, slopeInPlace.address, slopeInPlace.address, 64);
      expect(bits(inPlace.values)).toEqual(bits(y));
      expect(bits(slopeInPlace.values)).toEqual(bits(slopes));
    }
    fc.assert(property, { seed: FRESH_SEED, numRuns: 60 });
  });

  test("addBias adds the bias to every row", () => {
    for (const columns of LENGTHS) {
      const bench = new Workbench(kind);
      const before = randomFloats(5 * columns, FRESH_SEED);
      const [y, bias] = [bench.place(before), bench.place(randomFloats(columns, FRESH_SEED + 1))];
      bench.kernels.addBias(y.address, bias.address, 5, columns);
      bench.checkGuards();
      expect(y.values, `seed ${FRESH_SEED}`).toEqual(before.map((value, i) => value + bias.values[i % columns]!));
    }
  });

  test("sumRowsAdd completes each column from zero in row order, then adds once", () => {
    for (const columns of LENGTHS) {
      const bench = new Workbench(kind);
      const [dy, before] = [randomFloats(7 * columns, FRESH_SEED), randomFloats(columns, FRESH_SEED + 1)];
      const [above, gradient] = [bench.place(dy), bench.place(before)];
      bench.kernels.sumRowsAdd(above.address, gradient.address, 7, columns, bench.room(columns).address);
      bench.checkGuards();
      const expected = before.map((value, column) => {
        let sum = 0;
        for (let row = 0; row < 7; row += 1) sum = Math.fround(sum + dy[row * columns + column]!);
        return value + sum;
      });
      expect(gradient.values, `seed ${FRESH_SEED}`).toEqual(expected);
    }
  });

  test("firstNotFinite names the first NaN or infinity at every place, and nothing else", () => {
    for (const length of LENGTHS) {
      const bench = new Workbench(kind);
      const x = bench.place(new Float32Array(length).fill(-3.4e38));
      expect(bench.kernels.firstNotFinite(x.address, length)).toBe(-1);
      for (let index = length - 1; index >= 0; index -= 1) {
        x.values[index] = [NaN, Infinity, -Infinity][index % 3]!;
        expect(bench.kernels.firstNotFinite(x.address, length)).toBe(index);
      }
    }
    expect(new Workbench(kind).kernels.firstNotFinite(64, 0)).toBe(-1);
  });
});

test.each(ENGINE_KINDS)("%s copies all elements, bit for bit, and nothing beside", (kind) => {
  for (const [shift, length] of LENGTHS.entries()) {
    const bench = new Workbench(kind);
    const x = bench.place(randomFloats(length, FRESH_SEED), shift);
    const y = bench.room(length, (shift * 3) % 5);
    bench.kernels.copy(x.address, y.address, length);
    expect(bits(y.values), `seed ${FRESH_SEED}`).toEqual(bits(x.values));
    bench.checkGuards();
  }
});
