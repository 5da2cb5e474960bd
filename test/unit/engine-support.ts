/**
 * @file What the engine's tests share: arrays between guards of NaN, which show a write outside an array at once and turn a
 * read outside it into a wrong result.
 */
import { expect } from "vitest";
import type { EngineKind, Kernels } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";

const GUARD_LENGTH = 16;

export interface Placed {
  readonly address: number;
  /** The array in the engine's memory itself. */
  readonly values: Float32Array;
}

export class Workbench {
  readonly kernels: Kernels;
  readonly memory = new EngineMemory(0);
  #guards: Float32Array[] = [];

  constructor(kind: EngineKind) {
    this.kernels = loadKernels(kind, this.memory.memory);
  }

  /** Copies `values` to a new array `shift` elements after a multiple of 64 bytes. */
  place(values: ArrayLike<number>, shift = 0): Placed {
    const whole = this.memory
      .f32(this.memory.allocate([GUARD_LENGTH + shift + values.length + GUARD_LENGTH]))
      .fill(NaN);
    const start = GUARD_LENGTH + shift;
    const array = whole.subarray(start, start + values.length);
    array.set(values);
    this.#guards.push(whole.subarray(0, start), whole.subarray(start + values.length));
    return { address: array.byteOffset, values: array };
  }

  /** An array whose content does not matter: filled with NaN, so that nobody relies on zero. */
  room(length: number, shift = 0): Placed {
    return this.place(new Float32Array(length).fill(NaN), shift);
  }

  checkGuards(): void {
    expect(this.#guards.every((guard) => guard.every(Number.isNaN))).toBe(true);
  }
}

export function bits(values: Float32Array): Uint32Array {
  return new Uint32Array(values.slice().buffer);
}

/** One unit in the last place of the float32 next to `value`, at least the smallest subnormal. */
export function unitInLastPlace(value: number): number {
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  return 2 ** Math.max(Number.isFinite(exponent) ? exponent - 23 : -149, -149);
}

/** The largest distance between `actual[i]` and `exact(i)`, in units in the last place of the exact value. */
export function worstUlp(actual: Float32Array, exact: (index: number) => number): number {
  let worst = 0;
  actual.forEach((value, index) => {
    const expected = exact(index);
    const distance = Math.abs(value - expected) / unitInLastPlace(expected);
    worst = Number.isNaN(distance) ? Infinity : Math.max(worst, distance);
  });
  return worst;
}

/** Uniform float32 numbers in (-range, range), the same for the same seed (mulberry32). */
export function randomFloats(length: number, seed: number, range = 1): Float32Array {
  let state = seed | 0;
  return Float32Array.from({ length }, () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 31 - 1) * range;
  });
}
