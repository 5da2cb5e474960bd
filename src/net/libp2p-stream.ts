/**
 * @file A libp2p stream as a ByteStream. What it works around (each held by a canary test): `onDrain()` never resets, so
 * one waits for events and looks again; `for await` queues without bound, so `message` events go to a bounded inbox;
 * `pause()` resets the stream, so it is not used; `send()` keeps references, so lent bytes come back only after they
 * passed the encryption.
 */
import { getDefaultHighWaterMark } from "node:stream";
import type { Stream } from "@libp2p/interface";
import { Inbox } from "./inbox.ts";
import type { Outlet } from "./libp2p-encrypter.ts";
import { streamEnded } from "./net-errors.ts";
import { StagingRing } from "./staging.ts";
import { QUEUED_BYTES_MARK, STAGED_BYTES_MAX, UNREAD_BYTES_MAX_DEFAULT } from "./transport.ts";
import type { ByteStream, Ownership } from "./transport.ts";

/** The socket may still refer to that many of the last bytes after it has accepted them: lent bytes end in a copy. */
const TAIL_BYTES = getDefaultHighWaterMark(false);

interface Waiter {
  readonly isDue: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

const DONE = Promise.resolve();

/**
 * What may still refer to staged memory when the queue is below its mark: the queue, and the socket, which takes one
 * more write when it is above its own mark.
 */
const STAGED_IN_USE_BYTES_MAX = QUEUED_BYTES_MARK + TAIL_BYTES + STAGED_BYTES_MAX;

export class Libp2pStream implements ByteStream {
  readonly remotePeer: string;
  queuedBytesMark = QUEUED_BYTES_MARK;
  readonly #stream: Stream;
  readonly #outlet: Outlet;
  readonly #inbox = new Inbox(UNREAD_BYTES_MAX_DEFAULT);
  readonly #staging = new StagingRing(STAGED_IN_USE_BYTES_MAX, STAGED_BYTES_MAX);
  readonly #forget: () => void;
  #waiters: Waiter[] = [];
  /** Where this stream's last bytes stand in the outlet's order; infinite until its own queue has become empty. */
  #position = 0;

  constructor(stream: Stream, remotePeer: string, outlet: Outlet) {
    this.remotePeer = remotePeer;
    this.#stream = stream;
    this.#outlet = outlet;
    this.#forget = outlet.onPass(() => this.#wake());
    stream.addEventListener("drain", () => this.#wake());
    stream.addEventListener("idle", () => this.#noteIdle());
    stream.addEventListener("remoteCloseWrite", () => this.#endWhenRead());
    stream.addEventListener("end", () => this.#inbox.end());
    stream.addEventListener("close", (event) => this.#ended(event.error));
    stream.addEventListener("message", (event) => {
      const reason = this.#inbox.push(event.data);
      if (reason !== undefined) this.abort(reason);
    });
    // The stream may have ended while its protocol was agreed.
    if (stream.status !== "open") this.#ended(undefined);
    else this.#endWhenRead();
  }

  get source(): Inbox {
    return this.#inbox;
  }

  get unreadBytesMax(): number {
    return this.#inbox.bytesMax;
  }

  set unreadBytesMax(bytes: number) {
    this.#inbox.bytesMax = bytes;
  }

  stage(sizeBytes: number): Uint8Array {
    return this.#staging.take(sizeBytes);
  }

  write(bytes: Uint8Array, ownership: Ownership): boolean {
    if (this.#stream.writeStatus !== "writable") throw streamEnded(this.remotePeer);
    const lentBytes = ownership === "lent" ? Math.max(0, bytes.byteLength - TAIL_BYTES) : bytes.byteLength;
    if (lentBytes > 0) this.#send(bytes.subarray(0, lentBytes));
    if (lentBytes < bytes.byteLength) this.#send(new Uint8Array(bytes.subarray(lentBytes)));
    return this.#isBelowMark();
  }

  ready(): Promise<void> {
    return this.#when(() => this.#isBelowMark());
  }

  flushed(): Promise<void> {
    return this.#when(() => this.#isFlushed());
  }

  async close(limitMs: number): Promise<void> {
    try {
      await this.#stream.close({ signal: AbortSignal.timeout(limitMs) });
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)));
    }
  }

  abort(reason: Error): void {
    this.#stream.abort(reason);
    this.#ended(reason);
  }

  #send(bytes: Uint8Array): void {
    this.#position = Number.POSITIVE_INFINITY;
    try {
      this.#stream.send(bytes);
    } catch (error) {
      throw streamEnded(this.remotePeer, error);
    }
  }

  #isBelowMark(): boolean {
    return this.#stream.writeBufferLength + this.#outlet.queuedBytes < this.queuedBytesMark;
  }

  #isFlushed(): boolean {
    return this.#outlet.passedBytes >= this.#position;
  }

  #noteIdle(): void {
    this.#position = this.#outlet.acceptedBytes;
    this.#wake();
  }

  #endWhenRead(): void {
    if (this.#stream.remoteWriteStatus === "closed" && this.#stream.readBufferLength === 0) this.#inbox.end();
  }

  #when(isDue: () => boolean): Promise<void> {
    if (this.#stream.writeStatus === "closed") return Promise.reject(streamEnded(this.remotePeer));
    if (isDue()) return DONE;
    return new Promise((resolve, reject) => this.#waiters.push({ isDue, resolve, reject }));
  }

  #wake(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (waiter.isDue()) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }

  #ended(cause: Error | undefined): void {
    this.#forget();
    this.#inbox.end();
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(streamEnded(this.remotePeer, cause));
  }
}
