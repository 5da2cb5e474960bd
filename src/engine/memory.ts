/**
 * @file The engine's memory: one shared WebAssembly memory, handed out from the bottom and never freed. The same calls in
 * the same order give the same addresses, so a layout can be computed again on another thread that attaches to it.
 */
import { assert } from "../types/assert.ts";
import { UsageError } from "../types/errors.ts";
import type { View } from "./contract.ts";

const PAGE_BYTES = 65_536;
const PAGES_MAX = 65_536;
const LINE_BYTES = 64;
/** One line short of 4 GiB: the address after the last byte must still be a 32-bit number. */
const SIZE_BYTES_MAX = PAGES_MAX * PAGE_BYTES - LINE_BYTES;

export class EngineMemory {
  readonly memory: WebAssembly.Memory;
  /** Address 0 stays free, so that no array's address looks like "none". */
  #nextBytes = LINE_BYTES;

  /**
   * @param sizeBytes what is reserved at once; the memory grows when more is allocated.
   * @param memory shared memory of another thread to attach to, instead of a new one.
   */
  constructor(sizeBytes: number, memory?: WebAssembly.Memory) {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0, `memory size ${sizeBytes} is not a count of bytes`);
    this.memory = memory ?? new WebAssembly.Memory({ initial: 1, maximum: PAGES_MAX, shared: true });
    this.#reserve(LINE_BYTES + sizeBytes);
  }

  /** A new float32 (or int32) array, aligned to 64 bytes; zero, since no address is handed out twice. */
  allocate(shape: readonly number[]): View {
    assert(
      shape.every((size) => Number.isSafeInteger(size) && size >= 0),
      `shape [${shape}] is not made of counts`,
    );
    const length = shape.reduce((product, size) => product * size, 1);
    return { offsetBytes: this.allocateBytes(length * 4), shape: [...shape], length };
  }

  /** The address of `sizeBytes` new bytes, aligned to 64. Throws UsageError where 4 GiB do not hold them. */
  allocateBytes(sizeBytes: number): number {
    assert(sizeBytes >= 0, `allocation of ${sizeBytes} bytes`);
    const offsetBytes = this.#nextBytes;
    const endBytes = offsetBytes + Math.ceil(sizeBytes / LINE_BYTES) * LINE_BYTES;
    this.#reserve(endBytes);
    this.#nextBytes = endBytes;
    return offsetBytes;
  }

  /** The array itself, not a copy; valid for good, since memory neither moves nor shrinks. */
  f32(view: View): Float32Array<SharedArrayBuffer> {
    return new Float32Array(this.memory.buffer, view.offsetBytes, view.length);
  }

  i32(view: View): Int32Array<SharedArrayBuffer> {
    return new Int32Array(this.memory.buffer, view.offsetBytes, view.length);
  }

  bytes(view: View): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.memory.buffer, view.offsetBytes, view.length * 4);
  }

  #reserve(endBytes: number): void {
    if (endBytes > SIZE_BYTES_MAX) throw outOfMemory(endBytes);
    const missingBytes = endBytes - this.memory.buffer.byteLength;
    if (missingBytes <= 0) return;
    try {
      this.memory.grow(Math.ceil(missingBytes / PAGE_BYTES));
    } catch (cause) {
      throw outOfMemory(endBytes, cause);
    }
  }
}

function outOfMemory(endBytes: number, cause?: unknown): UsageError {
  const mebibytes = (sizeBytes: number): string => `${Math.ceil(sizeBytes / 2 ** 20)} MiB`;
  return new UsageError(
    `the engine needs ${mebibytes(endBytes)} on this node, and has ${mebibytes(SIZE_BYTES_MAX)} at most` +
      (cause === undefined ? "" : ", or less: the system gave no more memory"),
    "use more nodes, a smaller model, or more micro-batches",
    { cause },
  );
}
