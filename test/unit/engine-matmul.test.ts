/** @file The three products of every engine against float64 sums, and the bits that exact runs rest on. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS, type EngineKind } from "../../src/engine/contract.ts";
import { bits, randomFloats, Workbench } from "./engine-support.ts";

const PRODUCTS = ["matmul", "matmulTransposedB", "matmulTransposedAAdd"] as const;
type Product = (typeof PRODUCTS)[number];
interface Sizes {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}
const PINNED_SEED = 20_261_121;
const FRESH_SEED = Date.now() % 2 ** 31;

/** a and b as the product wants them, from a[m,k] and b[k,n]. */
function operands(
  product: Product,
  a: Float32Array,
  b: Float32Array,
  { m, n, k }: Sizes,
): [Float32Array, Float32Array] {
  if (product === "matmulTransposedB") return [a, transpose(b, k, n)];
  if (product === "matmulTransposedAAdd") return [transpose(a, m, k), b];
  return [a, b];
}

function transpose(source: Float32Array, rows: number, columns: number): Float32Array {
  return source.map((_, index) => source[(index % rows) * columns + Math.floor(index / rows)]!);
}

/** Runs a product on a[m,k], b[k,n]; `c` is what c holds before (for the one that adds). Checks the guards. */
function run(
  kind: EngineKind,
  product: Product,
  a: Float32Array,
  b: Float32Array,
  sizes: Sizes,
  c?: Float32Array,
  shift = 0,
): Float32Array {
  const { m, n, k } = sizes;
  const bench = new Workbench(kind);
  const [left, right] = operands(product, a, b, sizes);
  const first = bench.place(left, shift);
  const second = bench.place(right, shift);
  const start = c ?? new Float32Array(m * n).fill(product === "matmulTransposedAAdd" ? 0 : NaN);
  const target = bench.place(start, shift);
  const scratch = bench.room(bench.kernels.matmulScratchBytes(m, n, k) / 4, shift);
  bench.kernels[product](first.address, second.address, target.address, m, n, k, scratch.address);
  bench.checkGuards();
  return target.values;
}

/** The chain that every element is: float32 sums over k of float32 products, on from `start`. */
function chain(a: Float32Array, b: Float32Array, { m, n, k }: Sizes, start?: Float32Array): Float32Array {
  return Float32Array.from({ length: m * n }, (_, index) => {
    let sum = start?.[index] ?? 0;
    for (let step = 0; step < k; step += 1) {
      const x = a[Math.floor(index / n) * k + step]!;
      sum = Math.fround(sum + Math.fround(x * b[step * n + (index % n)]!));
    }
    return sum;
  });
}

/** Largest error against float64, as a multiple of the bound k·2⁻²⁴·Σ|a||b| of a float32 sum in any order. */
function errorOverBound(actual: Float32Array, a: Float32Array, b: Float32Array, { n, k }: Sizes): number {
  let worst = 0;
  actual.forEach((value, index) => {
    let sum = 0;
    let size = 0;
    for (let step = 0; step < k; step += 1) {
      const term = a[Math.floor(index / n) * k + step]! * b[step * n + (index % n)]!;
      sum += term;
      size += Math.abs(term);
    }
    const ratio = Math.abs(value - sum) / (k * 2 ** -24 * size);
    worst = Number.isNaN(ratio) ? Infinity : Math.max(worst, ratio);
  });
  return worst;
}

const ODD = [1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 33];
const SIZES: Sizes[] = [
  ...ODD.flatMap((m) => ODD.flatMap((n) => [1, 2, 3, 4, 5, 13, 33].map((k) => ({ m, n, k })))),
  // Round the edges of the blocks of 64 columns and 128 rows.
  ...[63, 64, 65, 129].map((n) => ({ m: 5, n, k: 9 })),
  ...[127, 128, 129, 257].map((m) => ({ m, n: 9, k: 7 })),
  { m: 129, n: 65, k: 3 },
  { m: 16, n: 70, k: 300 },
];

describe.each(ENGINE_KINDS)("%s", (kind) => {
  describe.each(PRODUCTS)("%s", (product) => {
    test("agrees with float64 sums at every odd size, and keeps inside its arrays", () => {
      for (const sizes of SIZES) {
        const a = randomFloats(sizes.m * sizes.k, PINNED_SEED);
        const b = randomFloats(sizes.k * sizes.n, PINNED_SEED + 1);
        const error = errorOverBound(run(kind, product, a, b, sizes), a, b, sizes);
        expect(error, `m ${sizes.m} n ${sizes.n} k ${sizes.k}`).toBeLessThanOrEqual(1);
      }
    });

    test("gives some rows the same bits alone as among others, wherever the arrays lie", () => {
      const size = fc.integer({ min: 1, max: 150 });
      const property = fc.property(size, size, size, fc.nat(3), fc.nat(1000), (m, n, k, shift, seed) => {
        const a = randomFloats(m * k, seed);
        const b = randomFloats(k * n, seed + 1);
        const whole = run(kind, product, a, b, { m, n, k });
        const first = seed % m;
        const rows = 1 + (seed % (m - first));
        const part = run(kind, product, a.slice(first * k, (first + rows) * k), b, { m: rows, n, k }, undefined, shift);
        expect(bits(part)).toEqual(bits(whole.subarray(first * n, (first + rows) * n)));
      });
      fc.assert(property, { seed: FRESH_SEED, numRuns: 40 });
    });

    test("has the same bits as the plain product, whichever transposition", () => {
      const sizes = { m: 21, n: 75, k: 130 };
      const a = randomFloats(sizes.m * sizes.k, FRESH_SEED);
      const b = randomFloats(sizes.k * sizes.n, FRESH_SEED + 1);
      expect(bits(run(kind, product, a, b, sizes)), `seed ${FRESH_SEED}`).toEqual(
        bits(run(kind, "matmul", a, b, sizes)),
      );
    });
  });

  test("the adding product is the product from zero, then one addition, to the bit", () => {
    for (const sizes of [
      { m: 13, n: 19, k: 40 },
      { m: 130, n: 66, k: 17 },
      { m: 8, n: 16, k: 1 },
    ]) {
      const a = randomFloats(sizes.m * sizes.k, PINNED_SEED);
      const b = randomFloats(sizes.k * sizes.n, PINNED_SEED + 1);
      const before = randomFloats(sizes.m * sizes.n, PINNED_SEED + 2);
      const product = run(kind, "matmul", a, b, sizes);
      const expected = before.map((value, index) => value + product[index]!);
      const actual = run(kind, "matmulTransposedAAdd", a, b, sizes, before);
      expect(bits(actual)).toEqual(bits(expected));
      const goneOn = chain(a, b, sizes, before);
      const others = actual.filter((value, index) => value !== goneOn[index]).length;
      if (sizes.k > 1) expect(others / actual.length).toBeGreaterThan(0.5);
    }
  });

  test.each(PRODUCTS)("%s reads nothing beyond its factors, even at the end of the memory", (product) => {
    for (const { m, n, k } of SIZES.filter((sizes) => sizes.m * sizes.n * sizes.k < 2_000)) {
      const bench = new Workbench(kind);
      const [small, c] = [bench.place(new Float32Array(Math.max(m, n) * k)), bench.room(m * n)];
      const scratch = bench.room(bench.kernels.matmulScratchBytes(m, n, k) / 4);
      const endBytes = bench.memory.memory.buffer.byteLength;
      // A read beyond the end is a trap.
      bench.kernels[product](endBytes - m * k * 4, small.address, c.address, m, n, k, scratch.address);
      bench.kernels[product](small.address, endBytes - n * k * 4, c.address, m, n, k, scratch.address);
    }
  });

  test("NaN and infinity reach exactly the elements that they belong to", () => {
    const sizes = { m: 6, n: 11, k: 5 };
    const a = randomFloats(30, PINNED_SEED);
    a[3 * 5 + 2] = NaN;
    const b = randomFloats(55, PINNED_SEED + 1);
    for (const product of PRODUCTS) {
      const c = run(kind, product, a, b, sizes);
      expect([...c].map(Number.isNaN)).toEqual([...c].map((_, index) => Math.floor(index / 11) === 3));
    }
  });
});

test("wasm-exact is one float32 chain over k, to the bit", () => {
  for (const sizes of [
    { m: 16, n: 70, k: 131 },
    { m: 3, n: 5, k: 64 },
  ]) {
    const a = randomFloats(sizes.m * sizes.k, FRESH_SEED);
    const b = randomFloats(sizes.k * sizes.n, FRESH_SEED + 1);
    const expected = bits(chain(a, b, sizes));
    for (const product of PRODUCTS) {
      expect(bits(run("wasm-exact", product, a, b, sizes)), `seed ${FRESH_SEED}`).toEqual(expected);
    }
  }
});
