/**
 * @file Memory for what pushes carry, in the engine's own, so that kernels check and add it where it arrived. Places are used again; each is a power of
 * two long, since ranges of many lengths may come and the engine's memory is never given back.
 */
import type { EngineMemory } from "../../src/engine/memory.ts";

const LEAST_BYTES = 64;

export class PushMemory {
  readonly #memory: EngineMemory;
  /** By length. */
  readonly #free = new Map<number, Uint8Array[]>();

  constructor(memory: EngineMemory) {
    this.#memory = memory;
  }

  /** Not zero; the caller's until it is given back. */
  take(sizeBytes: number): Uint8Array {
    const classBytes = classOf(sizeBytes);
    const place = this.#free.get(classBytes)?.pop() ?? this.#allocate(classBytes);
    return place.subarray(0, sizeBytes);
  }

  giveBack({ byteOffset, byteLength }: ArrayBufferView): void {
    const classBytes = classOf(byteLength);
    const free = this.#free.get(classBytes) ?? [];
    this.#free.set(classBytes, free);
    free.push(new Uint8Array(this.#memory.memory.buffer, byteOffset, classBytes));
  }

  #allocate(sizeBytes: number): Uint8Array {
    const offsetBytes = this.#memory.allocateBytes(sizeBytes);
    return new Uint8Array(this.#memory.memory.buffer, offsetBytes, sizeBytes);
  }
}

function classOf(sizeBytes: number): number {
  return Math.max(LEAST_BYTES, 2 ** Math.ceil(Math.log2(sizeBytes)));
}
