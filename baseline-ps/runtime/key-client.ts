/**
 * @file A client of all servers of keys: `push`, `pull`, `wait` (after ps-lite), for any range of keys or for single ones. A request becomes one
 * message for each server that has keys of it. Requests run beside each other; one that must wait for others names them.
 */
import { GOODBYE_LIMIT_MS, Link, type Receiver } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { NodeLostError, ProtocolError, UsageError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { type KeyMap, piecesOf } from "../core/key-map.ts";
import type { KeyRange } from "../core/ranges.ts";
import { Requests, type RequestsInput } from "../core/requests.ts";
import { trafficOf } from "./account.ts";
import { keysProtocol, requestFields } from "./key-frames.ts";
import {
  bytesOf,
  checkSizes,
  type Cut,
  type Parts,
  rangePull,
  rangePush,
  scatter,
  singlePull,
  singlePush,
} from "./key-parts.ts";

/** Requests under way: their distance from the oldest travels in 16 bits. */
const OPEN_MAX = 4096;
/** Finished pulls of which the version is known. */
const KNOWN_VERSIONS = 4096;

export interface KeyClientInit {
  readonly job: string;
  readonly client: number;
  readonly map: KeyMap;
  /** Of the view that `map` is of; 0, the first one, where it is absent. */
  readonly view?: number;
  /** Addresses of each server; none of one that has no keys. */
  readonly servers: readonly (readonly string[])[];
  readonly transport: Transport;
  readonly nowMs: () => number;
  /** Absent: a server that is gone ends it. */
  readonly survival?: Survival;
}

/** What becomes of requests when a server is gone. */
export interface Survival {
  /** How long a view without the server is waited for. */
  readonly limitMs: number;
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

interface Open {
  /** Divides it by who has which keys. */
  readonly cut: Cut;
  parts: Parts;
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
  #view: { readonly number: number; readonly map: KeyMap };
  readonly #requests = new Requests({ resendMs: Infinity, openMax: OPEN_MAX });
  readonly #open = new Map<number, Open>();
  /** Versions of the newest finished pulls. */
  readonly #versions = new Map<number, number>();
  readonly #subscriptions: Subscription[] = [];
  /** By server. */
  readonly #links = new Map<number, Link>();
  /** Those that are over too. */
  readonly #allLinks: Link[] = [];
  /** By server that is gone: the end of the wait for the next view. */
  readonly #awaitedView = new Map<number, NodeJS.Timeout>();
  readonly #failed = Promise.withResolvers<never>();
  #failure: Error | undefined;

  private constructor(init: KeyClientInit) {
    this.#init = init;
    this.#view = { number: init.view ?? 0, map: init.map };
    this.#failed.promise.catch(() => {});
  }

  /** Throws NetworkError where a server cannot be reached, or refuses. Close it in the end. */
  static async connect(init: KeyClientInit): Promise<KeyClient> {
    const client = new KeyClient(init);
    const there = [...init.servers.entries()].filter(([, addresses]) => addresses.length > 0);
    await Promise.all(there.map(([server, addresses]) => client.#dial(addresses, server)));
    return client;
  }

  /** Values that went over the network, of dense and single keys; headers and keys' names apart. */
  readonly values = { pushedBytes: 0, pulledBytes: 0 };

  get counters(): { readonly bytesSent: number; readonly bytesReceived: number; readonly messagesSent: number } {
    return trafficOf(this.#allLinks, this.#init.transport.peerId);
  }

  /**
   * Gradients of a range, in key order.
   * @param values stay unchanged until `sent(timestamp)`
   * @returns its timestamp; it is finished when it is applied
   * @throws UsageError for a range out of the keys, or another number of values
   */
  push(range: KeyRange, values: Float32Array, { step, share, after }: PushOf): number {
    checkLength(range, values);
    const kept = this.#init.survival === undefined ? values : values.slice();
    return this.#issue(rangePush(range, kept, { step, share }), after);
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
    return this.#issue(singlePush(keys.slice(), values.slice(), { step, share }), after);
  }

  /** @param into written until it is finished, in key order */
  pull(range: KeyRange, into: Float32Array, { leastVersion, part = 0, after }: PullFrom): number {
    checkLength(range, into);
    return this.#issue(rangePull(range, into, leastVersion, part), after);
  }

  /**
   * @param keys at least one, in ascending order; they stay unchanged until `sent(timestamp)`
   * @param into written until it is finished
   * @throws UsageError for keys that are not, or are not in order
   */
  pullSparse(keys: Uint32Array, into: Float32Array, { leastVersion, after }: PullFrom): number {
    if (keys.length !== into.length) throw wrongLength(keys.length, into.length);
    if (keys.length === 0) throw new UsageError("a pull of no key", "name at least one");
    const kept = this.#init.survival === undefined ? keys : keys.slice();
    return this.#issue(singlePull(kept, into, leastVersion), after);
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
      const number = this.#subscriptions.push({ into: part, start, told: (version) => told(server, version) }) - 1;
      const fields = { job: BigInt(number), value: start, microBatch: end - start, step: leastVersion };
      this.#links
        .get(server)
        ?.send({ kind: FrameKind.subscribe, ...fields })
        .catch(() => {});
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
    // What may have to leave once more is copied.
    if (open === undefined || this.#init.survival !== undefined) return;
    if (this.#failure !== undefined) throw this.#failure;
    await open.issued.promise;
    await Promise.all(open.sends);
  }

  /** A pull that nobody wants any more; what it was to write to is not written to. */
  abandon(timestamp: number): void {
    if (this.#requests.isFinished(timestamp)) return;
    const { settled } = defined(this.#open.get(timestamp), "the request is open");
    this.#drive({ kind: "abandon", timestamp });
    this.#open.delete(timestamp);
    settled.reject(new Error("nobody wants it any more"));
  }

  /** Says GOODBYE to every server, and waits for theirs. */
  async close(): Promise<void> {
    await Promise.all([...this.#links.values()].map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  /**
   * From now on other servers have keys: every open request goes to those that have its own now. Those who were asked before may answer still, which
   * is not heard. Where a server cannot be reached, another view is to come.
   */
  async adopt(number: number, map: KeyMap, addressesOf: (server: number) => readonly string[]): Promise<void> {
    const missing = [...new Set(map.heads)].filter((server) => !this.#links.has(server));
    await Promise.all(missing.map((server) => this.#dial(addressesOf(server), server).catch(() => {})));
    if (number <= this.#view.number) return;
    this.#view = { number, map };
    for (const server of [...this.#awaitedView.keys()].filter((gone) => !map.heads.includes(gone))) {
      clearTimeout(this.#awaitedView.get(server));
      this.#awaitedView.delete(server);
    }
    for (const [timestamp, open] of this.#open) {
      open.parts = open.cut(map);
      open.version = Infinity;
      this.#drive({ kind: "cut", timestamp, servers: [...open.parts.keys()], nowMs: this.#init.nowMs() });
    }
  }

  async #dial(addresses: readonly string[], server: number): Promise<void> {
    const { transport, job, client } = this.#init;
    const stream = await transport.dial(addresses, keysProtocol(job));
    const receiver: Receiver = {
      destination: (header) => this.#place(header, server),
      handle: (frame: Frame) => this.#hear(frame, server),
    };
    const { link } = await Link.open(stream, { job, client }, receiver);
    this.#links.set(server, link);
    this.#allLinks.push(link);
    void link.ended.then(({ kind }) => {
      if (this.#init.survival !== undefined) this.#links.delete(server);
      if (kind !== "goodbye") this.#lost(server, kind);
    });
  }

  #lost(server: number, how: string): void {
    const { survival } = this.#init;
    if (survival === undefined) return this.#fail(server, how);
    this.#awaitedView.set(server, setTimeout(() => this.#fail(server, how), survival.limitMs).unref());
  }

  #fail(server: number, how: string): void {
    this.#failure ??= new NodeLostError(`server ${server} is gone (${how})`, "see its log; start the run again");
    for (const { settled, issued } of this.#open.values()) {
      settled.reject(this.#failure);
      issued.reject(this.#failure);
    }
    this.#failed.reject(this.#failure);
  }

  #issue(cut: Cut, after: readonly number[] = []): number {
    const parts = cut(this.#view.map);
    checkSizes(parts);
    const timestamp = this.#requests.next;
    const [settled, issued] = [Promise.withResolvers<number>(), Promise.withResolvers<void>()];
    // Told to whoever waits; nobody has to.
    for (const { promise } of [settled, issued]) promise.catch(() => {});
    this.#open.set(timestamp, { cut, parts, settled, issued, sends: [], version: Infinity });
    this.#drive({ kind: "issue", servers: [...parts.keys()], after, nowMs: this.#init.nowMs() });
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
      const { timestamp, oldest } = output;
      const request = requestFields(fields.kind, { timestamp, oldest, view: this.#view.number });
      open.issued.resolve();
      const link = this.#links.get(output.server);
      // The next view says who has its keys.
      if (link === undefined) continue;
      if (PUSHES.includes(fields.kind) && this.#isOuter(link))
        this.values.pushedBytes += valueBytes(fields.kind, payload);
      const sent = link.send({ ...fields, ...request }, payload);
      sent.catch(() => {});
      open.sends.push(sent);
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
    const { kind, job, shape, value } = header;
    const isValues = header.dtype === DataType.float32 && shape.length === 1;
    if (kind === FrameKind.announced) {
      const { into, start } = this.#subscriptions[Number(job)] ?? {};
      if (!isValues || into === undefined || value !== start || shape[0] !== into.length) throw unasked(server);
      return bytesOf(into);
    }
    if (kind !== FrameKind.pulled || !isValues) throw unasked(server);
    if (this.#isOver(header)) return new Uint8Array(header.payloadBytes);
    const into = this.#open.get(Number(job))?.parts.get(server)?.into ?? [];
    if (shape[0] !== into.reduce((sum, { length }) => sum + length, 0)) throw unasked(server);
    return this.#isDirect(into) ? bytesOf(into[0]!) : new Uint8Array(header.payloadBytes);
  }

  /** Where a request may be given up, or its keys be another's, an answer that is on its way goes to memory of its own. */
  #isDirect(into: readonly Float32Array[]): boolean {
    return into.length === 1 && this.#init.survival === undefined;
  }

  /** An answer to what was asked of the servers of another view, or has been answered since. */
  #isOver({ view, job }: FrameHeader): boolean {
    const timestamp = Number(job);
    const isKnown = timestamp < this.#requests.next && !this.#open.has(timestamp);
    return view < this.#view.number || (isKnown && this.#init.survival !== undefined);
  }

  /** What a process says to itself is no traffic. */
  #isOuter({ remotePeer }: Link): boolean {
    return remotePeer !== this.#init.transport.peerId;
  }

  #hear({ header, payload }: Frame, server: number): void {
    const { kind, job, step, payloadBytes } = header;
    const timestamp = Number(job);
    const isValues = kind === FrameKind.announced || kind === FrameKind.pulled;
    const link = this.#links.get(server);
    if (isValues && link !== undefined && this.#isOuter(link)) this.values.pulledBytes += payloadBytes;
    if (kind === FrameKind.announced) {
      this.#subscriptions[timestamp]!.told(step);
      return;
    }
    if (this.#isOver(header)) return;
    const open = this.#open.get(timestamp);
    const part = open?.parts.get(server);
    const isPull = (part?.into.length ?? 0) > 0;
    if (open === undefined || part === undefined || isPull !== (kind === FrameKind.pulled)) throw unasked(server);
    if (isPull) {
      open.version = Math.min(open.version, step);
      if (!this.#isDirect(part.into)) scatter(payload, part.into);
    }
    this.#drive({ kind: "reply", timestamp, server, nowMs: this.#init.nowMs() });
  }
}

const PUSHES: readonly FrameKind[] = [FrameKind.push, FrameKind.pushSparse];

/** Single keys travel with their values, four bytes each. */
function valueBytes(kind: FrameKind, payload: Uint8Array | undefined): number {
  return (payload?.byteLength ?? 0) / (kind === FrameKind.pushSparse ? 2 : 1);
}

function checkLength({ start, end }: KeyRange, values: Float32Array): void {
  if (values.length !== end - start) throw wrongLength(end - start, values.length);
}

function wrongLength(keys: number, values: number): UsageError {
  return new UsageError(`${values} values for ${keys} keys`, "give one value for each key");
}

function unasked(server: number): ProtocolError {
  return new ProtocolError(`server ${server} sent what was not asked for`, "run the same build on every node");
}

assert(OPEN_MAX < 0x1_0000, "the distance from the oldest request fits its field");
