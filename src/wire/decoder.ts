/**
 * @file Bytes to frames, incrementally, over chunks cut anywhere. The payload goes straight to the memory that the
 * receiver's plan names for it: one copy, which also repairs the alignment that received chunks do not have.
 */
import { crc32 } from "node:zlib";
import { assert } from "../types/assert.ts";
import { ProtocolError } from "../types/errors.ts";
import { HEADER_BYTES, malformed, readHeader } from "./header.ts";
import type { FrameHeader } from "./header.ts";

export interface Frame {
  readonly header: FrameHeader;
  /** The memory that `destination` gave, filled; empty where the header announces no payload. */
  readonly payload: Uint8Array;
}

/**
 * The receiver's plan: compares kind, shape and data type with what this edge expects **before** anything is allocated.
 * Not asked for a frame without payload.
 * @returns memory of exactly `header.payloadBytes`, untouched by others until the frame has been handled
 * @throws ProtocolError where the plan does not expect this frame
 */
export type Destination = (header: FrameHeader) => Uint8Array;

/** Bytes in several parts, such as a Uint8ArrayList. */
export type Chunks = Iterable<Uint8Array>;

const NO_BYTES = new Uint8Array(0);

export class FrameDecoder {
  readonly #destination: Destination;
  readonly #headerBytes = new Uint8Array(HEADER_BYTES);
  #header: FrameHeader | undefined;
  #payload: Uint8Array = NO_BYTES;
  #filledBytes = 0;
  /** Of the payload's bytes so far. */
  #checksum = 0;
  #sequence = 0;

  constructor(destination: Destination) {
    this.#destination = destination;
  }

  /** True between two frames: an end of the stream here tears nothing. */
  get atBoundary(): boolean {
    return this.#header === undefined && this.#filledBytes === 0;
  }

  /**
   * Yields the frames that these bytes complete. The caller handles a frame before it asks for the next, so `destination`
   * is called for a frame only when the one before has been handled. The chunks are read until the iteration ends.
   * @throws ProtocolError at the first byte that cannot be right; the decoder is then of no more use
   */
  *decode(chunks: Chunks): Generator<Frame, void, undefined> {
    for (const chunk of chunks) {
      let offset = 0;
      while (offset < chunk.byteLength) {
        offset += this.#take(chunk, offset);
        const frame = this.#completed();
        if (frame !== undefined) yield frame;
      }
    }
  }

  /** Copies what the current header or payload still lacks, and returns how many bytes it took. */
  #take(chunk: Uint8Array, offset: number): number {
    const target = this.#header === undefined ? this.#headerBytes : this.#payload;
    const count = Math.min(chunk.byteLength - offset, target.byteLength - this.#filledBytes);
    const part = chunk.subarray(offset, offset + count);
    target.set(part, this.#filledBytes);
    this.#filledBytes += count;
    // Part by part, while it is in the processor's cache.
    if (this.#header !== undefined) this.#checksum = crc32(part, this.#checksum);
    if (this.#header === undefined && this.#filledBytes === HEADER_BYTES) this.#begin(readHeader(this.#headerBytes));
    return count;
  }

  #begin(header: FrameHeader): void {
    if (header.sequence !== this.#sequence) {
      throw new ProtocolError(
        `frame ${header.sequence} came where frame ${this.#sequence} was due`,
        "open the stream again: frames were lost or repeated",
      );
    }
    // 2^32 frames are years of traffic, and the sender wraps the same way.
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#payload = header.payloadBytes === 0 ? NO_BYTES : this.#destination(header);
    assert(this.#payload.byteLength === header.payloadBytes, "the destination has another length than the payload");
    this.#header = header;
    this.#filledBytes = 0;
    this.#checksum = 0;
  }

  #completed(): Frame | undefined {
    const header = this.#header;
    if (header === undefined || this.#filledBytes < header.payloadBytes) return undefined;
    const payload = this.#payload;
    if (this.#checksum !== header.payloadChecksum) {
      throw malformed("the payload's checksum is wrong");
    }
    this.#header = undefined;
    this.#payload = NO_BYTES;
    this.#filledBytes = 0;
    return { header, payload };
  }
}
