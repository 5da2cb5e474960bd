/**
 * @file The sending half of a link: frames wait here for their credits, become bytes, and go to the stream in pieces.
 * Frames up to half a MiB are copied into one piece, which costs less than two; larger payloads are sent from where they
 * lie.
 */
import { assert, defined } from "../types/assert.ts";
import type { NetworkError } from "../types/errors.ts";
import { writeFrameHeader } from "../wire/encode.ts";
import type { LinkFields } from "../wire/encode.ts";
import { HEADER_BYTES } from "../wire/header.ts";
import type { FrameFields } from "../wire/header.ts";
import { STAGED_BYTES_MAX } from "./transport.ts";
import type { ByteStream, Ownership } from "./transport.ts";
import type { SendWindow } from "./window.ts";

/** Large enough for the cipher to run at speed, small enough for other streams of the connection to come between. */
const PIECE_BYTES = 512 * 1024;
/** Frames that wait for credits. A caller that sends more without waiting has a bug. */
const QUEUED_FRAMES_MAX = 4096;

interface Entry {
  readonly fields: FrameFields;
  readonly payload: Uint8Array;
  /** Counts against the window; the link's own frames do not. */
  readonly isCredited: boolean;
  readonly reusable: PromiseWithResolvers<void>;
}

interface Piece {
  readonly bytes: Uint8Array;
  readonly ownership: Ownership;
  /** The entry whose last piece this is. */
  readonly completes: Entry | undefined;
}

export interface SentCounters {
  bytes: number;
  messages: number;
}

export class Outgoing implements AsyncIterableIterator<Entry> {
  /** Frames that the caller sent, and all bytes that left for the stream. */
  readonly sent: SentCounters = { bytes: 0, messages: 0 };
  /** Known once the other side has said hello; until then only the link's own frames go. */
  window: SendWindow | undefined;
  readonly #takeGrant: () => number;
  readonly #urgent: Entry[] = [];
  readonly #queue: Entry[] = [];
  /** Entries that wait or are on their way: all of them fail with the link. */
  readonly #unsettled = new Set<Entry>();
  #failure: NetworkError | undefined;
  #isOver = false;
  #waiting: ((result: IteratorResult<Entry>) => void) | undefined;
  #sequence = 0;

  /** @param takeGrant the bytes that the next frame grants to the other side */
  constructor(takeGrant: () => number) {
    this.#takeGrant = takeGrant;
  }

  /** A rejection that nobody needs to handle. */
  static refused(failure: NetworkError): Promise<void> {
    const promise = Promise.reject<void>(failure);
    promise.catch(noop);
    return promise;
  }

  /**
   * Queues a frame behind those before it.
   * @returns a promise that resolves when the payload's memory may be reused. Its rejection (NetworkError) need not be
   * handled: the end of the link tells the same.
   */
  push(fields: FrameFields, payload: Uint8Array, isCredited: boolean): Promise<void> {
    if (this.#failure !== undefined) return Outgoing.refused(this.#failure);
    assert(this.#queue.length < QUEUED_FRAMES_MAX, "too many frames sent without waiting for them");
    return this.#add(this.#queue, { fields, payload, isCredited });
  }

  /** Sends one of the link's own frames before all that waits. */
  pushUrgent(fields: FrameFields, payload: Uint8Array): Promise<void> {
    if (this.#isOver) return Outgoing.refused(defined(this.#failure, "an end has a reason"));
    return this.#add(this.#urgent, { fields, payload, isCredited: false });
  }

  /** Credits have come. */
  resume(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    const entry = this.#take();
    if (entry === undefined) return;
    this.#waiting = undefined;
    waiting({ done: false, value: entry });
  }

  /** Rejects what waits and what is sent from now on; urgent frames still go. */
  fail(failure: NetworkError): void {
    this.#failure ??= failure;
    this.#queue.length = 0;
    for (const entry of this.#unsettled) entry.reusable.reject(failure);
    this.#unsettled.clear();
  }

  /** No more frames of any kind. */
  end(failure: NetworkError): void {
    this.fail(failure);
    this.#isOver = true;
    this.#urgent.length = 0;
    this.#waiting?.({ done: true, value: undefined });
    this.#waiting = undefined;
  }

  next(): Promise<IteratorResult<Entry>> {
    if (this.#isOver) return Promise.resolve({ done: true, value: undefined });
    const entry = this.#take();
    if (entry !== undefined) return Promise.resolve({ done: false, value: entry });
    return new Promise((resolve) => (this.#waiting = resolve));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Entries to pieces: a stage of the pipeline. */
  async *encode(entries: AsyncIterable<Entry>, stream: ByteStream): AsyncGenerator<Piece> {
    for await (const entry of entries) {
      const { payload } = entry;
      const pieceBytes = Math.min(PIECE_BYTES, stream.queuedBytesMark);
      const isCopied = HEADER_BYTES + payload.byteLength <= Math.min(STAGED_BYTES_MAX, pieceBytes);
      const first = stream.stage(HEADER_BYTES + (isCopied ? payload.byteLength : 0));
      if (isCopied) first.set(payload, HEADER_BYTES);
      // The checksum is taken of the copy, which is in the processor's cache.
      const sent = isCopied ? first.subarray(HEADER_BYTES) : payload;
      writeFrameHeader(entry.fields, this.#linkFields(), sent, first);
      if (entry.isCredited) this.sent.messages++;
      yield { bytes: first, ownership: "given", completes: isCopied ? entry : undefined };
      if (isCopied) continue;
      for (let start = 0; start < payload.byteLength; start += pieceBytes) {
        const end = Math.min(start + pieceBytes, payload.byteLength);
        const completes = end === payload.byteLength ? entry : undefined;
        yield { bytes: payload.subarray(start, end), ownership: "lent", completes };
      }
    }
  }

  /** The end of the pipeline: writes the pieces, no faster than the stream takes them. */
  async writeTo(stream: ByteStream, pieces: AsyncIterable<Piece>): Promise<void> {
    for await (const { bytes, ownership, completes } of pieces) {
      const hasRoom = stream.write(bytes, ownership);
      this.sent.bytes += bytes.byteLength;
      if (completes !== undefined) {
        if (ownership === "given") this.#settle(completes);
        else void stream.flushed().then(() => this.#settle(completes), noop);
      }
      if (!hasRoom) await stream.ready();
    }
  }

  #settle(entry: Entry): void {
    if (this.#unsettled.delete(entry)) entry.reusable.resolve();
  }

  #add(queue: Entry[], frame: Omit<Entry, "reusable">): Promise<void> {
    const reusable = Promise.withResolvers<void>();
    reusable.promise.catch(noop);
    const entry = { ...frame, reusable };
    this.#unsettled.add(entry);
    queue.push(entry);
    this.resume();
    return reusable.promise;
  }

  #linkFields(): LinkFields {
    const sequence = this.#sequence;
    this.#sequence = (this.#sequence + 1) >>> 0;
    return { sequence, grantedBytes: this.#takeGrant() };
  }

  #take(): Entry | undefined {
    const urgent = this.#urgent.shift();
    if (urgent !== undefined) return urgent;
    const entry = this.#queue[0];
    if (entry === undefined) return undefined;
    if (entry.isCredited) {
      const bytes = HEADER_BYTES + entry.payload.byteLength;
      if (this.window?.allows(bytes) !== true) return undefined;
      this.window.take(bytes);
    }
    this.#queue.shift();
    return entry;
  }
}

/** For a rejection that tells what the end of the link tells too. */
function noop(): void {}
