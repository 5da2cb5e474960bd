/** @file The engine's memory that all shards of a server share: arrays of a shard's length, places for what is pushed. What is given back is used again. */
import type { EngineKind, Kernels } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { PushMemory } from "./push-memory.ts";

export class KeyMemory {
  readonly kernels: Kernels;
  readonly #memory = new EngineMemory(0);
  readonly #pushes = new PushMemory(this.#memory);
  /** All zero, by length. */
  readonly #free = new Map<number, Float32Array[]>();

  constructor(engine: EngineKind) {
    this.kernels = loadKernels(engine, this.#memory.memory);
  }

  /** The caller's until it frees it. */
  zeros(length: number): Float32Array {
    return this.#free.get(length)?.pop() ?? this.#memory.f32(this.#memory.allocate([length]));
  }

  /** @param array from `zeros`, and zero again */
  free(array: Float32Array): void {
    const free = this.#free.get(array.length) ?? [];
    this.#free.set(array.length, free);
    free.push(array);
  }

  /** For what a push brings, until it is given back; not zero. */
  place(sizeBytes: number): Uint8Array {
    return this.#pushes.take(sizeBytes);
  }

  giveBack(place: ArrayBufferView): void {
    this.#pushes.giveBack(place);
  }

  isFinite(values: Float32Array, isHere: boolean): boolean {
    if (isHere) return this.kernels.firstNotFinite(values.byteOffset, values.length) < 0;
    return values.every((value) => Number.isFinite(value));
  }
}
