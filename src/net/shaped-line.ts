/**
 * @file One direction of an emulated link to one peer: what its streams write takes turns on it, by the order of their
 * protocols, first come first served within one. What begins is not stopped but at the end of a slice, so that data waits
 * for one slice of bulk and no more. Times are those of the line, not of the calls: being called late shifts nothing.
 */
import type { LinkShape } from "../config/emulation.ts";
import { defined } from "../types/assert.ts";

/** What leaves at once: small enough for the other side to work on it while the next part is on the line. */
const PART_BYTES = 128 * 1024;
/** Where a part gives way to another one that goes first. */
const SLICE_BYTES = 16 * 1024;

export interface Part {
  /** Shortened where it gives way; its rest is another part. */
  bytes: Uint8Array;
  readonly startMs: number;
  /** When its last byte has been sent and the latency is over. Earlier where it gives way. */
  dueMs: number;
}

export interface LineUser {
  /** The line sends this part now. It leaves at its time. */
  readonly begin: (part: Part) => void;
}

interface Waiting {
  readonly user: LineUser;
  readonly bytes: Uint8Array;
}

interface Sending {
  readonly user: LineUser;
  readonly part: Part;
  readonly priority: number;
}

export class ShapedLine {
  readonly #shape: LinkShape;
  /** By priority, 0 first. */
  readonly #queues: Waiting[][];
  #sending: Sending | undefined;
  /** When the line has sent all that it has begun. */
  #freeMs = 0;

  constructor(shape: LinkShape, priorities: number) {
    this.#shape = shape;
    this.#queues = Array.from({ length: priorities }, () => []);
  }

  /** When the next part that has not begun leaves, if nothing comes before it; Infinity where there is none. */
  get dueMs(): number {
    const bytes = this.#queues.find((queue) => queue.length > 0)?.[0]?.bytes;
    if (bytes === undefined) return Infinity;
    return this.#freeMs + this.#sendMs(Math.min(bytes.byteLength, PART_BYTES)) + this.#shape.latencyMs;
  }

  /** The bytes stay as they are until their parts have left. */
  write(user: LineUser, priority: number, bytes: Uint8Array, nowMs: number): void {
    this.advance(nowMs);
    this.#freeMs = Math.max(this.#freeMs, nowMs);
    this.#giveWay(priority, nowMs);
    this.#queueOf(priority).push({ user, bytes });
    this.advance(nowMs);
  }

  /** Begins what the line has come to by now. */
  advance(nowMs: number): void {
    while (this.#freeMs <= nowMs) {
      const priority = this.#queues.findIndex((queue) => queue.length > 0);
      if (priority === -1) return;
      this.#begin(priority);
    }
  }

  /** What this user has written and the line has not begun will not be sent. */
  forget(user: LineUser): void {
    for (const [priority, queue] of this.#queues.entries()) {
      this.#queues[priority] = queue.filter((waiting) => waiting.user !== user);
    }
    if (this.#sending?.user === user) this.#sending = undefined;
  }

  #begin(priority: number): void {
    const queue = this.#queueOf(priority);
    const { user, bytes } = defined(queue.shift(), "the queue is not empty");
    if (bytes.byteLength > PART_BYTES) queue.unshift({ user, bytes: bytes.subarray(PART_BYTES) });
    const part: Part = { bytes: bytes.subarray(0, PART_BYTES), startMs: this.#freeMs, dueMs: 0 };
    this.#sending = { user, part, priority };
    this.#schedule(part);
    user.begin(part);
  }

  /** Cuts what is being sent at the end of its slice, when it is to come after `priority`. */
  #giveWay(priority: number, nowMs: number): void {
    const { rateBytesPerMs } = this.#shape;
    const sending = this.#sending;
    if (sending === undefined || sending.priority <= priority || this.#freeMs <= nowMs || rateBytesPerMs === null)
      return;
    const { part, user } = sending;
    const slices = Math.max(1, Math.ceil(((nowMs - part.startMs) * rateBytesPerMs) / SLICE_BYTES));
    const sentBytes = slices * SLICE_BYTES;
    if (sentBytes >= part.bytes.byteLength) return;
    this.#queueOf(sending.priority).unshift({ user, bytes: part.bytes.subarray(sentBytes) });
    part.bytes = part.bytes.subarray(0, sentBytes);
    this.#schedule(part);
  }

  #schedule(part: Part): void {
    this.#freeMs = part.startMs + this.#sendMs(part.bytes.byteLength);
    part.dueMs = this.#freeMs + this.#shape.latencyMs;
  }

  #sendMs(sizeBytes: number): number {
    const { rateBytesPerMs } = this.#shape;
    return rateBytesPerMs === null ? 0 : sizeBytes / rateBytesPerMs;
  }

  #queueOf(priority: number): Waiting[] {
    return defined(this.#queues[priority], "every protocol has its queue");
  }
}
