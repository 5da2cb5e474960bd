/** @file Hands out the places of arrays in a memory that is not there yet, one after the other, each aligned to 64 bytes. */
import type { View } from "../engine/contract.ts";

export const ALIGNMENT_BYTES = 64;
/** Where an `EngineMemory` begins to allocate. */
export const START_BYTES = 64;

export class Planner {
  /** Where shared places begin, by name. */
  readonly #shared = new Map<string, number>();
  #endBytes: number;

  constructor(startBytes = START_BYTES) {
    this.#endBytes = startBytes;
  }

  get endBytes(): number {
    return this.#endBytes;
  }

  /** 4-byte elements. */
  array(...shape: number[]): View {
    const length = shape.reduce((product, size) => product * size, 1);
    return { offsetBytes: this.bytes(4 * length), shape, length };
  }

  bytes(sizeBytes: number): number {
    const offsetBytes = this.#endBytes;
    this.#endBytes += Math.ceil(sizeBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    return offsetBytes;
  }

  /** One place for all that ask by this name; they agree on its size. */
  shared(name: string, sizeBytes: number): number {
    const offsetBytes = this.#shared.get(name) ?? this.bytes(sizeBytes);
    this.#shared.set(name, offsetBytes);
    return offsetBytes;
  }
}
