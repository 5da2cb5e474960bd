/** @file A shaped transport on a clock that moves by hand, over a stream that writes down what reaches it and when. */
import type { Alarm } from "../../src/net/alarm.ts";
import { Inbox } from "../../src/net/inbox.ts";
import { streamEnded } from "../../src/net/net-errors.ts";
import { shapedTransport, type Shape, type ShapedTransport } from "../../src/net/shaped.ts";
import { QUEUED_BYTES_MARK, type ByteStream, type Transport } from "../../src/net/transport.ts";
import { assert } from "../../src/types/assert.ts";

/** More than any test has parts. */
const RINGS_MAX = 10_000;

export const SHAPED = "/shaped/1";
/** Shaped too, and goes after the other. */
export const BULK = "/bulk/1";

/** A clock for one transport. It stands still until it is moved. */
export class HandClock {
  ms = 1000;
  dueMs = Infinity;
  isClosed = false;
  #ring: () => void = () => {};

  readonly create = (ring: () => void): Alarm => {
    this.#ring = ring;
    return {
      nowMs: () => this.ms,
      set: (dueMs) => (this.dueMs = dueMs),
      close: () => (this.isClosed = true),
    };
  };

  /** Moves on and rings at every time that was set, each `lateMs` after it. */
  moveTo(ms: number, lateMs = 0): void {
    for (let rings = 0; this.dueMs + lateMs <= ms; rings += 1) {
      assert(rings < RINGS_MAX, "what was due has left");
      this.ms = Math.max(this.ms, this.dueMs + lateMs);
      this.dueMs = Infinity;
      this.#ring();
    }
    this.ms = ms;
  }
}

/** The stream below. What it was given is copied, since its staged memory is its own. */
export class Recorder implements ByteStream {
  readonly remotePeer: string;
  unreadBytesMax = 0;
  queuedBytesMark = QUEUED_BYTES_MARK;
  readonly arrived: { readonly atMs: number; readonly bytes: Uint8Array }[] = [];
  readonly source = new Inbox(1);
  readonly #clock: HandClock;
  closedWithinMs: number | undefined;
  isAborted = false;
  isFull = false;
  emptied = Promise.withResolvers<void>();

  constructor(clock: HandClock, remotePeer = "far") {
    this.remotePeer = remotePeer;
    this.#clock = clock;
  }

  stage(sizeBytes: number): Uint8Array {
    return new Uint8Array(sizeBytes);
  }

  write(bytes: Uint8Array): boolean {
    if (this.isAborted || this.closedWithinMs !== undefined) throw streamEnded(this.remotePeer);
    if (bytes.byteLength > 0) this.arrived.push({ atMs: this.#clock.ms, bytes: bytes.slice() });
    return !this.isFull;
  }

  ready(): Promise<void> {
    return this.emptied.promise;
  }

  flushed(): Promise<void> {
    return Promise.resolve();
  }

  close(limitMs: number): Promise<void> {
    this.closedWithinMs = limitMs;
    return Promise.resolve();
  }

  abort(): void {
    this.isAborted = true;
    this.source.end();
  }
}

export interface Line {
  readonly clock: HandClock;
  readonly transport: ShapedTransport;
  /** Another stream, and what is below it. */
  readonly open: (protocol?: string, peer?: string) => Promise<readonly [shaped: ByteStream, below: Recorder]>;
}

export function line(shape: Omit<Shape, "protocols">): Line {
  const clock = new HandClock();
  const opened: Recorder[] = [];
  const inner: Transport = {
    peerId: "near",
    addresses: ["/memory/near"],
    dial: (address) => {
      const below = new Recorder(clock, String(address));
      opened.push(below);
      return Promise.resolve(below);
    },
    handle: () => Promise.resolve(),
    disconnect: () => {},
    close: () => {
      for (const below of opened) below.abort();
      return Promise.resolve();
    },
  };
  const transport = shapedTransport(inner, { ...shape, protocols: [SHAPED, BULK] }, clock.create);
  const open = async (protocol = SHAPED, peer = "far"): Promise<readonly [ByteStream, Recorder]> => {
    const shaped = await transport.dial(peer, protocol);
    return [shaped, opened.at(-1) as Recorder];
  };
  return { clock, transport, open };
}
