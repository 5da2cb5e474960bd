/**
 * @file Memory for frames that are copied before they are sent, used in turn. Fresh memory for each frame costs more than the
 * copy: page faults, and garbage collections that external memory forces (measured: a third of a 256 KiB frame's cost).
 */
import { assert } from "../types/assert.ts";

export class StagingRing {
  readonly #sizeBytes: number;
  #memory: Uint8Array | undefined;
  #next = 0;

  /**
   * @param inUseBytesMax what may still be in use when a part is taken: the ring is so much larger that the part never
   * overlaps it, wherever the ring's end falls
   * @param partBytesMax the largest part
   */
  constructor(inUseBytesMax: number, partBytesMax: number) {
    this.#sizeBytes = inUseBytesMax + 2 * partBytesMax;
  }

  /** Memory that was used longest ago. The system gives pages to it when they are first written. */
  take(sizeBytes: number): Uint8Array {
    this.#memory ??= new Uint8Array(this.#sizeBytes);
    if (this.#next + sizeBytes > this.#sizeBytes) this.#next = 0;
    assert(this.#next + sizeBytes <= this.#sizeBytes, "a part fits the ring");
    this.#next += sizeBytes;
    return this.#memory.subarray(this.#next - sizeBytes, this.#next);
  }
}
