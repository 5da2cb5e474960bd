/**
 * @file A transport inside one process, for tests: the same port, with the memory bounds and endings of the real one. Bytes
 * are copied when they are written and arrive in a later microtask, in parts of at most `PART_BYTES`.
 */
import { assert } from "../types/assert.ts";
import { Inbox } from "./inbox.ts";
import {
  closedTransport,
  nobodyListens,
  notAnAddress,
  portInUse,
  streamEnded,
  unreachable,
  unspokenProtocol,
  wrongPeer,
} from "./net-errors.ts";
import { QUEUED_BYTES_MARK, UNREAD_BYTES_MAX_DEFAULT } from "./transport.ts";
import type { ByteStream, DialOptions, Ownership, StreamHandler, Transport } from "./transport.ts";

const PART_BYTES = 64 * 1024;
const DONE = Promise.resolve();

/** The wire that the transports of one test share. */
export class MemoryNetwork {
  readonly #members = new Map<string, MemoryTransport>();

  /** @throws NetworkError when the name is taken */
  join(peerId: string): Transport {
    if (this.#members.has(peerId)) throw portInUse(peerId);
    const member = new MemoryTransport(peerId, this.#members);
    this.#members.set(peerId, member);
    return member;
  }
}

class MemoryTransport implements Transport {
  readonly peerId: string;
  readonly #members: Map<string, MemoryTransport>;
  readonly #handlers = new Map<string, StreamHandler>();
  readonly #streams = new Set<MemoryStream>();
  #open = true;

  constructor(peerId: string, members: Map<string, MemoryTransport>) {
    this.peerId = peerId;
    this.#members = members;
  }

  get addresses(): readonly string[] {
    return [`/memory/${this.peerId}/p2p/${this.peerId}`];
  }

  async dial(addresses: string | readonly string[], protocol: string, options: DialOptions = {}): Promise<ByteStream> {
    const list = typeof addresses === "string" ? [addresses] : addresses;
    const named = list.map(parseAddress).map(({ place, peer }) => ({ member: this.#members.get(place), peer }));
    await DONE;
    if (!this.#open) throw closedTransport();
    if (options.signal?.aborted === true) throw unreachable(list.join(", "), "no answer in time");
    const found = named.find(({ member }) => member !== undefined);
    if (found?.member === undefined) throw nobodyListens(list.join(", "));
    if (found.member.peerId !== found.peer) throw wrongPeer(list.join(", "));
    const handler = found.member.#handlers.get(protocol);
    if (handler === undefined) throw unspokenProtocol(list.join(", "), protocol);
    const near = new MemoryStream(found.member.peerId, this.#streams);
    handler(near.connect(this.peerId, found.member.#streams));
    return near;
  }

  handle(protocol: string, handler: StreamHandler): Promise<void> {
    assert(!this.#handlers.has(protocol), `${protocol} has a handler`);
    this.#handlers.set(protocol, handler);
    return DONE;
  }

  disconnect(peerId: string): void {
    for (const stream of this.#streams) if (stream.remotePeer === peerId) stream.abort(streamEnded(peerId));
  }

  close(): Promise<void> {
    this.#open = false;
    if (this.#members.get(this.peerId) === this) this.#members.delete(this.peerId);
    for (const stream of this.#streams) stream.abort(closedTransport());
    return DONE;
  }
}

function parseAddress(address: string): { place: string; peer: string } {
  const [, place, peer] = /^\/memory\/([^/]+)\/p2p\/([^/]+)$/.exec(address) ?? [];
  if (place === undefined || peer === undefined) throw notAnAddress(address);
  return { place, peer };
}

class MemoryStream implements ByteStream {
  readonly remotePeer: string;
  queuedBytesMark = QUEUED_BYTES_MARK;
  readonly source = new Inbox(UNREAD_BYTES_MAX_DEFAULT);
  readonly #streams: Set<MemoryStream>;
  #other: MemoryStream = this;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #state: "open" | "closing" | "closed" = "open";
  #waiters: PromiseWithResolvers<void>[] = [];

  constructor(remotePeer: string, streams: Set<MemoryStream>) {
    this.remotePeer = remotePeer;
    this.#streams = streams;
    streams.add(this);
  }

  /** The other end, which belongs to another transport. */
  connect(peerId: string, streams: Set<MemoryStream>): MemoryStream {
    const other = new MemoryStream(peerId, streams);
    other.#other = this;
    this.#other = other;
    return other;
  }

  get unreadBytesMax(): number {
    return this.source.bytesMax;
  }

  set unreadBytesMax(bytes: number) {
    this.source.bytesMax = bytes;
  }

  /** `write` copies, so this is the caller's own. */
  stage(sizeBytes: number): Uint8Array {
    return new Uint8Array(sizeBytes);
  }

  write(bytes: Uint8Array, _ownership: Ownership): boolean {
    if (this.#state !== "open") throw streamEnded(this.remotePeer);
    if (this.#queue.length === 0) queueMicrotask(() => this.#deliver());
    for (let offset = 0; offset < bytes.byteLength; offset += PART_BYTES) {
      this.#queue.push(new Uint8Array(bytes.subarray(offset, offset + PART_BYTES)));
    }
    this.#queuedBytes += bytes.byteLength;
    return this.#queuedBytes < this.queuedBytesMark;
  }

  ready(): Promise<void> {
    if (this.#state === "closed") return Promise.reject(streamEnded(this.remotePeer));
    if (this.#queuedBytes < this.queuedBytesMark) return DONE;
    const waiter = Promise.withResolvers<void>();
    this.#waiters.push(waiter);
    return waiter.promise;
  }

  /** Everything written was copied. */
  flushed(): Promise<void> {
    return this.#state === "closed" ? Promise.reject(streamEnded(this.remotePeer)) : DONE;
  }

  close(_limitMs: number): Promise<void> {
    if (this.#state !== "open") return DONE;
    this.#state = "closing";
    this.#deliver();
    return DONE;
  }

  abort(reason: Error): void {
    this.#end(reason);
    this.#other.#end(reason);
  }

  #deliver(): void {
    for (const part of this.#queue.splice(0)) {
      const reason = this.#other.source.push(part);
      if (reason !== undefined) this.#other.abort(reason);
    }
    this.#queuedBytes = 0;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
    if (this.#state === "closing") this.#other.source.end();
    if (this.#state === "closing" && this.#other.#state === "closing") this.abort(streamEnded(this.remotePeer));
  }

  #end(reason: Error): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#streams.delete(this);
    this.#queue = [];
    this.source.end();
    for (const waiter of this.#waiters.splice(0)) waiter.reject(streamEnded(this.remotePeer, reason));
  }
}
