/**
 * @file A stream that holds what is written until its time has come. Bytes are lent or given to this stream until then; they
 * leave in a copy, so that nothing of the stream below needs to be waited for.
 */
import type { Uint8ArrayList } from "uint8arraylist";
import { streamEnded } from "./net-errors.ts";
import type { LineUser, Part } from "./shaped-line.ts";
import { StagingRing } from "./staging.ts";
import { QUEUED_BYTES_MARK, STAGED_BYTES_MAX } from "./transport.ts";
import type { ByteStream, Ownership } from "./transport.ts";
import { within } from "./wait.ts";

const NO_BYTES = new Uint8Array(0);
const DONE = Promise.resolve();

interface Waiter {
  readonly isDue: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export interface ShapedStreamEvents {
  readonly nowMs: () => number;
  /** Bytes for the line. */
  readonly written: (bytes: Uint8Array) => void;
  /** `dueMs` may have changed. */
  readonly changed: () => void;
  /** A part has left, so long after its time. */
  readonly left: (lateMs: number) => void;
  readonly ended: () => void;
}

export class ShapedStream implements ByteStream, LineUser {
  readonly remotePeer: string;
  queuedBytesMark = QUEUED_BYTES_MARK;
  readonly source: AsyncIterable<Uint8ArrayList>;
  readonly #inner: ByteStream;
  readonly #events: ShapedStreamEvents;
  readonly #staging = new StagingRing(QUEUED_BYTES_MARK, STAGED_BYTES_MAX);
  /** On the line or behind it, in the order of their times. */
  readonly #parts: Part[] = [];
  #waiters: Waiter[] = [];
  #state: "open" | "closing" | "ended" = "open";
  /** The stream below is above its mark. */
  #isBlocked = false;
  #writtenBytes = 0;
  #leftBytes = 0;

  constructor(inner: ByteStream, events: ShapedStreamEvents) {
    this.remotePeer = inner.remotePeer;
    this.#inner = inner;
    this.#events = events;
    this.source = this.#watch(inner.source);
  }

  begin(part: Part): void {
    this.#parts.push(part);
  }

  /** When the next part leaves; Infinity where none waits for its time. */
  get dueMs(): number {
    return this.#isBlocked ? Infinity : (this.#parts[0]?.dueMs ?? Infinity);
  }

  get unreadBytesMax(): number {
    return this.#inner.unreadBytesMax;
  }

  set unreadBytesMax(bytes: number) {
    this.#inner.unreadBytesMax = bytes;
  }

  stage(sizeBytes: number): Uint8Array {
    return this.#staging.take(sizeBytes);
  }

  write(bytes: Uint8Array, _ownership: Ownership): boolean {
    this.noticeEnd();
    if (this.#state !== "open") throw streamEnded(this.remotePeer);
    this.#writtenBytes += bytes.byteLength;
    if (bytes.byteLength > 0) this.#events.written(bytes);
    return this.#isBelowMark();
  }

  ready(): Promise<void> {
    return this.#when(() => this.#isBelowMark());
  }

  flushed(): Promise<void> {
    const end = this.#writtenBytes;
    return this.#when(() => this.#leftBytes >= end);
  }

  async close(limitMs: number): Promise<void> {
    if (this.#state !== "open") return;
    const startedMs = this.#events.nowMs();
    const flushed = this.flushed().then(
      () => true,
      () => false,
    );
    this.#state = "closing";
    const hasLeft = await within(flushed, limitMs, () => false);
    if (hasLeft) await this.#inner.close(Math.max(0, Math.ceil(limitMs - (this.#events.nowMs() - startedMs))));
    else this.abort(streamEnded(this.remotePeer));
  }

  abort(reason: Error): void {
    this.#end(reason);
    this.#inner.abort(reason);
  }

  /** Lets go of the parts whose time has come. */
  depart(nowMs: number): void {
    for (let part = this.#parts[0]; part !== undefined && !this.#isBlocked; part = this.#parts[0]) {
      if (part.dueMs > nowMs) break;
      this.#parts.shift();
      this.#leave(part.bytes);
      if (this.#state === "ended") return;
      this.#events.left(nowMs - part.dueMs);
    }
    this.#wake();
  }

  /** Ends with the stream below: only asking it tells. */
  noticeEnd(): void {
    if (this.#state !== "ended") this.#tell(NO_BYTES);
  }

  #leave(bytes: Uint8Array): void {
    const copy = this.#inner.stage(bytes.byteLength);
    copy.set(bytes);
    this.#leftBytes += bytes.byteLength;
    if (this.#tell(copy)) return;
    this.#isBlocked = true;
    this.#inner.ready().then(
      () => {
        this.#isBlocked = false;
        this.#events.changed();
      },
      (error: Error) => this.#end(error),
    );
  }

  /** @returns false when the stream below is above its mark */
  #tell(bytes: Uint8Array): boolean {
    try {
      return this.#inner.write(bytes, "given");
    } catch (error) {
      this.#end(error);
      return true;
    }
  }

  async *#watch(source: AsyncIterable<Uint8ArrayList>): AsyncGenerator<Uint8ArrayList> {
    try {
      yield* source;
    } finally {
      this.noticeEnd();
    }
  }

  #isBelowMark(): boolean {
    return this.#writtenBytes - this.#leftBytes < this.queuedBytesMark;
  }

  #when(isDue: () => boolean): Promise<void> {
    this.noticeEnd();
    if (this.#state === "ended") return Promise.reject(streamEnded(this.remotePeer));
    if (isDue()) return DONE;
    return new Promise((resolve, reject) => this.#waiters.push({ isDue, resolve, reject }));
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (waiter.isDue()) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }

  #end(cause: unknown): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#parts.length = 0;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(streamEnded(this.remotePeer, cause));
    this.#events.ended();
  }
}
