/**
 * @file Random numbers as a pure function of a key and a position: Philox4x32-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"). Equal keys give equal numbers on every machine, whatever else was drawn. A stream holds
 * 2^34 numbers and then starts again. Not for secrets.
 */
import { assert } from "./assert.ts";

const MULTIPLIER_A = 0xd2511f53 | 0;
const MULTIPLIER_B = 0xcd9e8d57 | 0;
const KEY_STEP_0 = 0x9e3779b9 | 0;
const KEY_STEP_1 = 0xbb67ae85 | 0;
const ROUNDS = 10;
const TWO_TO_32 = 4294967296;

/** What a stream is drawn for: the first word of its key, so that no two uses ever share numbers. */
export const RandomPurpose = {
  initialWeights: 1,
  epochOrder: 2,
  csvSplit: 3,
  digitShape: 4,
  syntheticCentre: 5,
  syntheticSample: 6,
  chaos: 7,
  sparseSample: 8,
  sparseWeight: 9,
  augmentation: 10,
  matrixColumn: 11,
  matrixFactor: 12,
  initialFactor: 13,
} as const;

/**
 * One Philox4x32-10 block. `counter` and `into` are four 32-bit words and may be the same array; nothing is allocated.
 */
export function philox4x32(counter: Uint32Array, key0: number, key1: number, into: Uint32Array): void {
  let word0 = counter[0]! | 0;
  let word1 = counter[1]! | 0;
  let word2 = counter[2]! | 0;
  let word3 = counter[3]! | 0;
  let roundKey0 = key0 | 0;
  let roundKey1 = key1 | 0;
  for (let round = 0; round < ROUNDS; round++) {
    const highA = multiplyHigh(MULTIPLIER_A, word0);
    const lowA = Math.imul(MULTIPLIER_A, word0);
    const highB = multiplyHigh(MULTIPLIER_B, word2);
    const lowB = Math.imul(MULTIPLIER_B, word2);
    word0 = highB ^ word1 ^ roundKey0;
    word1 = lowB;
    word2 = highA ^ word3 ^ roundKey1;
    word3 = lowA;
    roundKey0 = (roundKey0 + KEY_STEP_0) | 0;
    roundKey1 = (roundKey1 + KEY_STEP_1) | 0;
  }
  into[0] = word0;
  into[1] = word1;
  into[2] = word2;
  into[3] = word3;
}

/** The upper 32 bits of the unsigned product, from 16-bit pieces: no intermediate sum leaves 32 bits. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const carry = (Math.imul(aLow, bHigh) + (middle & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** An endless sequence of numbers that depends on `(seed, purpose, a, b)` alone. */
export class RandomStream {
  readonly #key0: number;
  readonly #key1: number;
  readonly #counter: Uint32Array;
  readonly #block = new Uint32Array(4);
  /** Words of `#block` already handed out. */
  #used = 4;

  /**
   * @param seed a safe integer, at least 0: all its 53 bits count
   * @param purpose what the numbers are for; `purpose`, `a` and `b` are unsigned 32-bit words
   */
  constructor(seed: number, purpose: number, a = 0, b = 0) {
    assert(Number.isSafeInteger(seed) && seed >= 0, `a seed is a safe integer of at least 0, not ${seed}`);
    for (const word of [purpose, a, b])
      assert(word >>> 0 === word, `a key word is an unsigned 32-bit integer, not ${word}`);
    this.#key0 = seed % TWO_TO_32;
    this.#key1 = Math.floor(seed / TWO_TO_32);
    this.#counter = Uint32Array.of(0, purpose, a, b);
  }

  /** An integer in [0, 2^32), uniform. */
  nextUint32(): number {
    if (this.#used === 4) {
      philox4x32(this.#counter, this.#key0, this.#key1, this.#block);
      this.#counter[0]!++;
      this.#used = 0;
    }
    return this.#block[this.#used++]!;
  }

  /** A multiple of 2^-24 in [0, 1), uniform: exact as float32. */
  nextFloat(): number {
    return (this.nextUint32() >>> 8) / 16777216;
  }

  /** An integer in [0, bound), uniform without bias: numbers of an incomplete last range are drawn again. */
  nextBelow(bound: number): number {
    assert(bound >= 1 && bound >>> 0 === bound, `a bound is an integer in [1, 2^32), not ${bound}`);
    const limit = TWO_TO_32 - (TWO_TO_32 % bound);
    let value = this.nextUint32();
    while (value >= limit) value = this.nextUint32();
    return value % bound;
  }
}

/** Puts `values` into a random order, in place (Fisher and Yates): every order is equally likely. */
export function shuffle(values: Int32Array, random: RandomStream): void {
  for (let last = values.length - 1; last > 0; last--) {
    const other = random.nextBelow(last + 1);
    const value = values[last]!;
    values[last] = values[other]!;
    values[other] = value;
  }
}
