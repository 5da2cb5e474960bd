/**
 * @file A client of all servers of keys: `push`, `pull`, `wait` (after ps-lite), for any range of keys or for single ones. A request becomes one
 * message for each server that has keys of it. Requests run beside each other; one that must wait for others names them.
 */
import { GOODBYE_LIMIT_MS, Link, type Receiver } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { NodeLostError, ProtocolError, UsageError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, FrameKind, type FrameHeader, TENSOR_BYTES_MAX } from "../../src/wire/header.ts";
import { type KeyMap, piecesOf, placesOf } from "../core/key-map.ts";
import type { KeyRange } from "../core/ranges.ts";
import { Requests, type RequestsInput } from "../core/requests.ts";
import { trafficOf } from "./account.ts";
import { keysProtocol, requestFields } from "./key-frames.ts";

/** Requests under way: their distance from the oldest travels in 16 bits. */
const OPEN_MAX = 4096;
/** Finished pulls of which the version is known. */
const KNOWN_VERSIONS = 4096;

export interface KeyClientInit {
  readonly job: string;
  readonly client: number;
  readonly map: KeyMap;
  /** Addresses of each server. */
  readonly servers: readonly (readonly string[])[];
  readonly transport: Transport;
  readonly nowMs: () => number;
}

/** What may be said of a push or a pull. */
export interface Timing {
  /** Timestamps of requests that must be finished before it is sent. */
  readonly after?: readonly number[];
}

export interface PushOf extends Timing {
  readonly step: number;
  readonly share: number;
}

export interface PullFrom extends Timing {
  /** The answer waits for parameters of this version. */
  readonly leastVersion: number;
  /** 0, the default: the parameters; from 1 on: the states of the server function, in its order. */
  readonly part?: number;
}

/** One server's part of a request, and what becomes of its answer. */
interface Part {
  readonly fields: Partial<FrameHeader> & Pick<FrameHeader, "kind">;
  readonly payload: Uint8Array | undefined;
  /** Where parameters go. */
  readonly into: Float32Array | undefined;
}

interface Open {
  readonly parts: ReadonlyMap<number, Part>;
  readonly settled: PromiseWithResolvers<number>;
  /** Resolved when nothing is waited for any more, and all `sends` are there. */
  readonly issued: PromiseWithResolvers<void>;
  readonly sends: Promise<void>[];
  /** Least of the answers so far. */
  version: number;
}

interface Subscription {
  readonly into: Float32Array;
  readonly start: number;
  readonly told: (version: number) => void;
}

export class KeyClient {
  readonly #init: KeyClientInit;
  readonly #requests = new Requests({ resendMs: Infinity, openMax: OPEN_MAX });
  readonly #open = new Map<number, Open>();
  /** Versions of the newest finished pulls. */
  readonly #versions = new Map<number, number>();
  readonly #subscriptions: Subscription[] = [];
  #links: readonly Link[] = [];
  readonly #failed = Promise.withResolvers<never>();
  #failure: Error | undefined;

  private constructor(init: KeyClientInit) {
    this.#init = init;
    this.#failed.promise.catch(() => {});
  }

  /** Throws NetworkError where a server cannot be reached, or refuses. Close it in the end. */
  static async connect(init: KeyClientInit): Promise<KeyClient> {
    const client = new KeyClient(init);
    client.#links = await Promise.all(init.servers.map((addresses, server) => client.#dial(addresses, server)));
    return client;
  }

  /** Values that went over the network, of dense and single keys; headers and keys' names apart. */
  readonly values = { pushedBytes: 0, pulledBytes: 0 };

  get counters(): { readonly bytesSent: number; readonly bytesReceived: number; readonly messagesSent: number } {
    return trafficOf(this.#links, this.#init.transport.peerId);
  }

  /**
   * Gradients of a range, in key order.
   * @param values stay unchanged until `sent(timestamp)`
   * @returns its timestamp; it is finished when it is applied
   * @throws UsageError for a range out of the keys, or another number of values
   */
  push(range: KeyRange, values: Float32Array, { step, share, after }: PushOf): number {
    checkLength(range, values);
    const parts = piecesOf(this.#init.map, range).map(({ server, keys: [piece] }): [number, Part] => {
      const { start, end } = piece!;
      const part = values.subarray(start - range.start, end - range.start);
      const fields = { kind: FrameKind.push, value: start, dtype: DataType.float32, shape: [part.length] };
      return [server, { fields: { ...fields, step, microBatch: share }, payload: bytesOf(part), into: undefined }];
    });
    return this.#issue(parts, after);
  }

  /**
   * Gradients of single keys in ascending order; all other keys have none in this share. Every server is told, also one without such keys. As it
   * speaks of all keys, it is refused while any of them lacks more than tau steps: who has not pulled from every server names its own push of step
   * - tau - 1 in `after`.
   * @param keys which, like the values, are copied
   * @throws UsageError for keys that are not, or are not in order
   */
  pushSparse(keys: Uint32Array, values: Float32Array, { step, share, after }: PushOf): number {
    if (keys.length !== values.length) throw wrongLength(keys.length, values.length);
    const places = new Map(placesOf(this.#init.map, keys).map((place) => [place.server, place]));
    const parts = this.#links.map((_, server): [number, Part] => {
      const { from = 0, to = 0 } = places.get(server) ?? {};
      const payload = new Uint8Array(8 * (to - from));
      payload.set(bytesOf(keys.subarray(from, to)));
      payload.set(bytesOf(values.subarray(from, to)), 4 * (to - from));
      return [server, { fields: { kind: FrameKind.pushSparse, step, microBatch: share }, payload, into: undefined }];
    });
    return this.#issue(parts, after);
  }

  /** @param into written until it is finished, in key order */
  pull(range: KeyRange, into: Float32Array, { leastVersion, part = 0, after }: PullFrom): number {
    checkLength(range, into);
    const parts = piecesOf(this.#init.map, range).map(({ server, keys: [piece] }): [number, Part] => {
      const { start, end } = piece!;
      const length = end - start;
      const fields = { kind: FrameKind.pull, value: start, microBatch: length, step: leastVersion, credits: part };
      return [server, { fields, payload: undefined, into: into.subarray(start - range.start, end - range.start) }];
    });
    return this.#issue(parts, after);
  }

  /**
   * @param keys at least one, in ascending order; they stay unchanged until `sent(timestamp)`
   * @param into written until it is finished
   * @throws UsageError for keys that are not, or are not in order
   */
  pullSparse(keys: Uint32Array, into: Float32Array, { leastVersion, after }: PullFrom): number {
    if (keys.length !== into.length) throw wrongLength(keys.length, into.length);
    const places = placesOf(this.#init.map, keys);
    if (places.length === 0) throw new UsageError("a pull of no key", "name at least one");
    const parts = places.map(({ server, from, to }): [number, Part] => {
      const fields = { kind: FrameKind.pullSparse, step: leastVersion };
      return [server, { fields, payload: bytesOf(keys.subarray(from, to)), into: into.subarray(from, to) }];
    });
    return this.#issue(parts, after);
  }

  /**
   * Every version of the range from `leastVersion` on, as servers make it (server-initiated broadcast). Each server's part is written as it comes,
   * and then told of: the reader is to keep off meanwhile.
   * @param told with the server and the version of its part
   * @returns the servers that have a part
   */
  subscribe(
    range: KeyRange,
    into: Float32Array,
    leastVersion: number,
    told: (server: number, version: number) => void,
  ): readonly number[] {
    checkLength(range, into);
    return piecesOf(this.#init.map, range).map(({ server, keys: [piece] }) => {
      const { start, end } = piece!;
      const part = into.subarray(start - range.start, end - range.start);
      const view = this.#subscriptions.push({ into: part, start, told: (version) => told(server, version) }) - 1;
      const fields = { kind: FrameKind.subscribe, view, value: start, microBatch: end - start, step: leastVersion };
      this.#links[server]!.send(fields).catch(() => {});
      return server;
    });
  }

  /** Rejects when a server is gone. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /**
   * Resolves when the request is finished, with the least version of what was pulled; Infinity for a push, and for a pull with `KNOWN_VERSIONS`
   * finished after it. Rejects where a server is gone.
   */
  async wait(timestamp: number): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure;
    return this.#open.get(timestamp)?.settled.promise ?? this.#versions.get(timestamp) ?? Infinity;
  }

  /** Resolves when what the request sends has left, and its memory may be changed; rejects where a server is gone. */
  async sent(timestamp: number): Promise<void> {
    const open = this.#open.get(timestamp);
    if (open === undefined) return;
    if (this.#failure !== undefined) throw this.#failure;
    await open.issued.promise;
    await Promise.all(open.sends);
  }

  /** Says GOODBYE to every server, and waits for theirs. */
  async close(): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  async #dial(addresses: readonly string[], server: number): Promise<Link> {
    const { transport, job, client } = this.#init;
    const stream = await transport.dial(addresses, keysProtocol(job));
    const receiver: Receiver = {
      destination: (header) => this.#place(header, server),
      handle: ({ header }: Frame) => this.#hear(header, server),
    };
    const { link } = await Link.open(stream, { job, client }, receiver);
    void link.ended.then(({ kind }) => {
      if (kind !== "goodbye") this.#fail(server, kind);
    });
    return link;
  }

  #fail(server: number, how: string): void {
    this.#failure ??= new NodeLostError(`server ${server} is gone (${how})`, "see its log; start the run again");
    for (const { settled, issued } of this.#open.values()) {
      settled.reject(this.#failure);
      issued.reject(this.#failure);
    }
    this.#failed.reject(this.#failure);
  }

  #issue(parts: readonly (readonly [number, Part])[], after: readonly number[] = []): number {
    for (const [server, part] of parts) checkSize(server, part);
    const timestamp = this.#requests.next;
    const [settled, issued] = [Promise.withResolvers<number>(), Promise.withResolvers<void>()];
    // Told to whoever waits; nobody has to.
    for (const { promise } of [settled, issued]) promise.catch(() => {});
    this.#open.set(timestamp, { parts: new Map(parts), settled, issued, sends: [], version: Infinity });
    const servers = parts.map(([server]) => server);
    this.#drive({ kind: "issue", servers, after, nowMs: this.#init.nowMs() });
    return timestamp;
  }

  #drive(input: RequestsInput): void {
    for (const output of this.#requests.handle(input)) {
      const open = defined(this.#open.get(output.timestamp), "the request is open");
      if (output.kind === "finished") {
        this.#finish(output.timestamp, open);
        continue;
      }
      const { fields, payload } = defined(open.parts.get(output.server), "a part for each server");
      const request = requestFields(fields.kind, output.timestamp, output.oldest);
      const link = this.#links[output.server]!;
      if (PUSHES.includes(fields.kind) && this.#isOuter(link))
        this.values.pushedBytes += valueBytes(fields.kind, payload);
      const sent = link.send({ ...fields, ...request }, payload);
      sent.catch(() => {});
      open.sends.push(sent);
      open.issued.resolve();
    }
  }

  #finish(timestamp: number, { version, settled }: Open): void {
    this.#open.delete(timestamp);
    if (version < Infinity) this.#versions.set(timestamp, version);
    if (this.#versions.size > KNOWN_VERSIONS) this.#versions.delete(this.#versions.keys().next().value!);
    settled.resolve(version);
  }

  /** Where parameters go that a server sends. */
  #place(header: FrameHeader, server: number): Uint8Array {
    const { kind, view, shape, value } = header;
    const isAnswer = kind === FrameKind.pulled;
    if (!isAnswer && kind !== FrameKind.announced) throw unasked(server);
    const subscription = this.#subscriptions[view];
    const into = isAnswer ? this.#open.get(view)?.parts.get(server)?.into : subscription?.into;
    const isRight = header.dtype === DataType.float32 && shape.length === 1 && shape[0] === into?.length;
    if (into === undefined || !isRight || (!isAnswer && value !== subscription?.start)) throw unasked(server);
    return bytesOf(into);
  }

  /** What a process says to itself is no traffic. */
  #isOuter({ remotePeer }: Link): boolean {
    return remotePeer !== this.#init.transport.peerId;
  }

  #hear({ kind, view, step, payloadBytes }: FrameHeader, server: number): void {
    const isValues = kind === FrameKind.announced || kind === FrameKind.pulled;
    if (isValues && this.#isOuter(this.#links[server]!)) this.values.pulledBytes += payloadBytes;
    if (kind === FrameKind.announced) {
      this.#subscriptions[view]!.told(step);
      return;
    }
    const open = this.#open.get(view);
    const part = open?.parts.get(server);
    const isPull = part?.into !== undefined;
    if (open === undefined || part === undefined || isPull !== (kind === FrameKind.pulled)) throw unasked(server);
    if (isPull) open.version = Math.min(open.version, step);
    this.#drive({ kind: "reply", timestamp: view, server, nowMs: this.#init.nowMs() });
  }
}

const PUSHES: readonly FrameKind[] = [FrameKind.push, FrameKind.pushSparse];

/** Single keys travel with their values, four bytes each. */
function valueBytes(kind: FrameKind, payload: Uint8Array | undefined): number {
  return (payload?.byteLength ?? 0) / (kind === FrameKind.pushSparse ? 2 : 1);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function checkLength({ start, end }: KeyRange, values: Float32Array): void {
  if (values.length !== end - start) throw wrongLength(end - start, values.length);
}

/** A message that is too long would end the link, and blame the server. */
function checkSize(server: number, { payload, into }: Part): void {
  const bytes = Math.max(payload?.byteLength ?? 0, into?.byteLength ?? 0);
  if (bytes <= TENSOR_BYTES_MAX) return;
  throw new UsageError(
    `${bytes} bytes in one message with server ${server}, which has at most ${TENSOR_BYTES_MAX}`,
    "use more servers, or name fewer keys at once",
  );
}

function wrongLength(keys: number, values: number): UsageError {
  return new UsageError(`${values} values for ${keys} keys`, "give one value for each key");
}

function unasked(server: number): ProtocolError {
  return new ProtocolError(`server ${server} sent what was not asked for`, "run the same build on every node");
}

assert(OPEN_MAX < 0x1_0000, "the distance from the oldest request fits its field");
