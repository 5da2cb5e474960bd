/** @file Philox4x32-10 against the published known answers and a BigInt oracle; the derived draws against statistics. */
import { describe, expect, it } from "vitest";
import { AssertionFailed } from "../../src/types/assert.ts";
import { philox4x32, RandomStream, shuffle } from "../../src/types/random.ts";

function block(counter: readonly number[], key: readonly [number, number]): string {
  const into = new Uint32Array(4);
  philox4x32(Uint32Array.from(counter), key[0], key[1], into);
  return Array.from(into, (word) => word.toString(16).padStart(8, "0")).join(" ");
}

/** The same function from its definition in the paper, slowly. */
function oracle(counter: readonly number[], key: readonly [number, number]): string {
  const mask = 0xffffffffn;
  let words = counter.map(BigInt);
  let [key0, key1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const [c0, c1, c2, c3] = words as [bigint, bigint, bigint, bigint];
    const productA = 0xd2511f53n * c0;
    const productB = 0xcd9e8d57n * c2;
    words = [(productB >> 32n) ^ c1 ^ key0, productB & mask, (productA >> 32n) ^ c3 ^ key1, productA & mask];
    key0 = (key0 + 0x9e3779b9n) & mask;
    key1 = (key1 + 0xbb67ae85n) & mask;
  }
  return words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
}

describe("philox4x32", () => {
  // kat_vectors of Random123, the paper's reference implementation.
  it.each([
    [[0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ] as const)("gives the published answer for counter %j", (counter, key, answer) => {
    expect(block(counter, key)).toBe(answer);
  });

  it("agrees with the definition on random blocks", () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const random = new RandomStream(seed, 99);
    for (let trial = 0; trial < 500; trial++) {
      const counter = [0, 0, 0, 0].map(() => random.nextUint32());
      const key = [random.nextUint32(), random.nextUint32()] as const;
      expect(block(counter, [...key]), `seed ${seed}`).toBe(oracle(counter, [...key]));
    }
  });
});

describe("RandomStream", () => {
  const first = (seed: number, purpose: number, a?: number, b?: number): number[] => {
    const random = new RandomStream(seed, purpose, a, b);
    return Array.from({ length: 6 }, () => random.nextUint32());
  };

  it("hands out the blocks of its key in order, both halves of the seed included", () => {
    const seed = 0x1234 * 2 ** 32 + 0x89abcdef;
    const words = [0, 1].flatMap((index) => oracle([index, 7, 8, 9], [0x89abcdef, 0x1234]).split(" "));
    expect(first(seed, 7, 8, 9)).toEqual(words.slice(0, 6).map((word) => Number.parseInt(word, 16)));
  });

  it("differs as soon as one part of the key differs", () => {
    const seedMax = Number.MAX_SAFE_INTEGER;
    const keys: [number, number, number, number][] = [
      [1, 0, 0, 0],
      [1 + 2 ** 32, 0, 0, 0],
      [seedMax, 0, 0, 0],
      [seedMax - 1, 0, 0, 0],
      [1, 1, 0, 0],
      [1, 0, 1, 0],
      [1, 0, 0, 1],
    ];
    expect(new Set(keys.map((key) => first(...key).join())).size).toBe(keys.length);
  });

  it("draws floats that are multiples of 2^-24 in [0, 1), evenly", () => {
    const random = new RandomStream(5, 1);
    const bins = new Float64Array(16);
    const draws = 160_000;
    let wrong = 0;
    for (let draw = 0; draw < draws; draw++) {
      const value = random.nextFloat();
      if (!(value >= 0 && value < 1 && Number.isInteger(value * 2 ** 24))) wrong++;
      bins[Math.floor(value * 16)]!++;
    }
    expect(wrong).toBe(0);
    // Chi-squared with 15 degrees of freedom: above 44.3 in one of 10,000 seeds; this seed is pinned.
    const expected = draws / 16;
    expect(bins.reduce((sum, bin) => sum + (bin - expected) ** 2 / expected, 0)).toBeLessThan(44.3);
  });

  it("draws integers below a bound without bias, where a plain remainder would show it", () => {
    const bound = 3 * 2 ** 30; // a remainder of a 32-bit word would hit the lowest third twice as often
    const random = new RandomStream(6, 1);
    let low = 0;
    for (let draw = 0; draw < 30_000; draw++) {
      const value = random.nextBelow(bound);
      expect(value).toBeLessThan(bound);
      if (value < 2 ** 30) low++;
    }
    expect(low / 30_000).toBeGreaterThan(0.32);
    expect(low / 30_000).toBeLessThan(0.347);
    expect(random.nextBelow(1)).toBe(0);
  });

  it("rejects seeds and bounds that it cannot honour", () => {
    for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => new RandomStream(seed, 1)).toThrow(AssertionFailed);
    expect(() => new RandomStream(1, 2 ** 32)).toThrow(AssertionFailed);
    for (const bound of [0, -1, 1.5, 2 ** 32]) {
      expect(() => new RandomStream(1, 1).nextBelow(bound)).toThrow(AssertionFailed);
    }
  });
});

describe("shuffle", () => {
  it("gives each order of three equally often", () => {
    const random = new RandomStream(7, 1);
    const orders = new Map<string, number>();
    for (let trial = 0; trial < 6_000; trial++) {
      const values = Int32Array.of(0, 1, 2);
      shuffle(values, random);
      orders.set(values.join(), (orders.get(values.join()) ?? 0) + 1);
    }
    expect(orders.size).toBe(6);
    for (const count of orders.values()) expect(Math.abs(count - 1_000)).toBeLessThan(150);
  });
});
