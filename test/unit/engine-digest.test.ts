/** @file The digest kernels of every engine against the same arithmetic byte by byte; what changes it, and what must not. */
import { describe, expect, test } from "vitest";
import { ACCUMULATORS_BYTES, DIGEST_BYTES, DIGEST_CHUNK, ENGINE_KINDS } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { bits, randomFloats, Workbench } from "./engine-support.ts";

const FRESH_SEED = Date.now() % 2 ** 31;
const FACTORS = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f];
/** Around lanes, rounds of 16 elements and chunks of 256. */
const LENGTHS = [0, 1, 3, 4, 5, 15, 16, 17, 255, 256, 257, 511, 512, 1000, 1040];

/** 16 bytes as four words, the lowest byte first. */
type Vector = readonly number[];

const rotated = (vector: Vector): Vector => {
  const bytes = new Uint8Array(Uint32Array.from(vector).buffer);
  return [...new Uint32Array(Uint8Array.from(bytes, (_, i) => bytes[(i + 5) % 16]!).buffer)];
};
const mixed = (vector: Vector): Vector =>
  vector.map((word, lane) => {
    const product = Math.imul(word, FACTORS[lane]!) >>> 0;
    return (product ^ (product >>> 15)) >>> 0;
  });
const plus = (a: Vector, b: Vector): Vector => a.map((word, lane) => (word + b[lane]!) >>> 0);

function accumulatorsOf(words: Uint32Array): Vector[] {
  const accumulators = [1, 2, 3, 4].map((j) => mixed(Array<number>(4).fill((4 * words.length + j) >>> 0)));
  const chunks = Math.floor(words.length / DIGEST_CHUNK);
  for (let chunk = 0; chunk < chunks; chunk++) {
    for (let vector = 0; vector < DIGEST_CHUNK / 4; vector++) {
      const start = chunk * DIGEST_CHUNK + 4 * vector;
      accumulators[vector % 4] = plus(rotated(accumulators[vector % 4]!), [...words.subarray(start, start + 4)]);
    }
    accumulators.forEach((value, j) => (accumulators[j] = mixed(value)));
  }
  words.subarray(chunks * DIGEST_CHUNK).forEach((word, i) => {
    accumulators[i % 4] = mixed(plus(rotated(accumulators[i % 4]!), [word, 0, 0, 0]));
  });
  return accumulators;
}

/** In hexadecimal, of several arrays. */
function oracle(arrays: readonly Float32Array[]): string {
  let result: Vector = [0, 0, 0, 0];
  for (const accumulator of arrays.flatMap((array) => accumulatorsOf(bits(array)))) {
    result = result.map((word, lane) => (word ^ accumulator[lane]!) >>> 0);
    for (let round = 0; round < 4; round++) result = rotated(mixed(result));
  }
  return Buffer.from(Uint32Array.from(result).buffer).toString("hex");
}

describe.each(ENGINE_KINDS)("%s", (kind) => {
  /** Of arrays that lie `shift` elements after a multiple of 64 bytes and are added in parts that end at `cuts`. */
  function digest(arrays: readonly Float32Array[], shift = 0, cuts: readonly number[] = []): string {
    const bench = new Workbench(kind);
    const [accumulators, result] = [
      bench.room(ACCUMULATORS_BYTES / 4),
      bench.place(new Float32Array(DIGEST_BYTES / 4)),
    ];
    for (const array of arrays) {
      const { address } = bench.place(array, shift);
      bench.kernels.digestBegin(accumulators.address, array.length);
      const bounds = [0, ...cuts, array.length];
      bounds.slice(1).forEach((end, i) => {
        bench.kernels.digestAdd(accumulators.address, address + 4 * bounds[i]!, end - bounds[i]!);
      });
      bench.kernels.digestEnd(accumulators.address, result.address);
    }
    bench.checkGuards();
    return Buffer.from(result.values.slice().buffer).toString("hex");
  }

  test("has the oracle's bits, wherever arrays lie", () => {
    for (const [i, length] of LENGTHS.entries()) {
      const arrays = [0, 1, 2].map((array) => randomFloats(length, FRESH_SEED + array));
      for (const count of [1, 3]) {
        const some = arrays.slice(0, count);
        expect(digest(some, i % 5), `seed ${FRESH_SEED}, length ${length}`).toBe(oracle(some));
      }
    }
  });

  test("parts of whole chunks give what the array gives at once", () => {
    const array = randomFloats(1040, FRESH_SEED);
    for (const cuts of [[256], [512, 768], [256, 256, 1024]]) expect(digest([array], 0, cuts)).toBe(digest([array]));
  });

  test("no change of one word, no order of words and no length goes unseen", () => {
    const memory = new EngineMemory(0);
    const kernels = loadKernels(kind, memory.memory);
    const array = memory.allocate([301]);
    const [words, floats] = [memory.i32(array), memory.f32(array)];
    const accumulators = memory.allocateBytes(ACCUMULATORS_BYTES);
    const result = memory.allocate([DIGEST_BYTES / 4]);
    const look = (length = array.length): string => {
      memory.f32(result).fill(0);
      kernels.digestBegin(accumulators, length);
      kernels.digestAdd(accumulators, array.offsetBytes, length);
      kernels.digestEnd(accumulators, result.offsetBytes);
      return memory.i32(result).join();
    };
    for (const start of [randomFloats(array.length, FRESH_SEED), new Float32Array(array.length)]) {
      floats.set(start);
      const before = look();
      for (let bit = 0; bit < array.length * 32; bit++) {
        words[bit >> 5]! ^= 1 << (bit & 31);
        if (look() === before) expect.fail(`seed ${FRESH_SEED}: bit ${bit} goes unseen`);
        words[bit >> 5]! ^= 1 << (bit & 31);
      }
      expect(look()).toBe(before);
      expect(new Set(Array.from({ length: array.length }, (_, length) => look(length))).size).toBe(array.length);
    }
    floats.set(randomFloats(array.length, FRESH_SEED));
    const before = look();
    // The periods of the lanes, the accumulators, the rotations and the chunks.
    for (const distance of [1, 4, 16, 64, 256]) {
      for (let i = 0; i + distance < array.length; i++) {
        const swap = (): void => void ([words[i], words[i + distance]] = [words[i + distance]!, words[i]!]);
        const negate = (): void => [i, i + distance].forEach((place) => (floats[place] = -floats[place]!));
        for (const change of [swap, negate]) {
          change();
          expect(look(), `seed ${FRESH_SEED}, elements ${i} and ${i + distance}`).not.toBe(before);
          change();
        }
      }
    }
  });
});
