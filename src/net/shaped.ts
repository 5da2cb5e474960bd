/**
 * @file An emulated link: a transport whose streams of some protocols carry what this side writes at a stated rate and with a
 * stated delay. Bytes queue for the rate and are then under way for the latency, as many at once as the queue's mark allows
 * (4 MiB: a faster pipe than that in one latency is not emulated). The streams to one peer share one line; opening one, and
 * what the other side does, is not shaped here: the other side shapes what it writes.
 */
import type { LinkShape } from "../config/emulation.ts";
import { ThreadAlarm, type Alarm } from "./alarm.ts";
import { ShapedLine } from "./shaped-line.ts";
import { ShapedStream } from "./shaped-stream.ts";
import type { ByteStream, DialOptions, StreamHandler, Transport } from "./transport.ts";

export interface Shape extends LinkShape {
  /** Those named first go first. Streams of the others pass as they are. */
  readonly protocols: readonly string[];
}

/** How well the shape was kept. A part is late when it left more than a tenth of the latency, or 1 ms, after its time. */
export interface Lateness {
  readonly sent: number;
  readonly late: number;
  readonly worstLateMs: number;
}

export interface ShapedTransport extends Transport {
  /** Parts that left so far. A result with late ones is not of the stated link. */
  readonly lateness: Lateness;
}

/** @param createAlarm tests bring a clock of their own */
export function shapedTransport(
  inner: Transport,
  shape: Shape,
  createAlarm: (ring: () => void) => Alarm = (ring) => new ThreadAlarm(ring),
): ShapedTransport {
  return new Shaper(inner, shape, createAlarm);
}

class Shaper implements ShapedTransport {
  readonly #inner: Transport;
  readonly #shape: Shape;
  readonly #alarm: Alarm;
  /** Each with its line, which ends with the last of them. */
  readonly #streams = new Map<ShapedStream, ShapedLine>();
  readonly #lateAboveMs: number;
  readonly lateness = { sent: 0, late: 0, worstLateMs: 0 };
  #alarmMs = Infinity;

  constructor(inner: Transport, shape: Shape, createAlarm: (ring: () => void) => Alarm) {
    this.#inner = inner;
    this.#shape = shape;
    this.#lateAboveMs = Math.max(1, shape.latencyMs / 10);
    this.#alarm = createAlarm(() => this.#depart());
  }

  get peerId(): string {
    return this.#inner.peerId;
  }

  get addresses(): readonly string[] {
    return this.#inner.addresses;
  }

  async dial(addresses: string | readonly string[], protocol: string, options?: DialOptions): Promise<ByteStream> {
    return this.#wrap(await this.#inner.dial(addresses, protocol, options), protocol);
  }

  handle(protocol: string, handler: StreamHandler): Promise<void> {
    return this.#inner.handle(protocol, (stream) => handler(this.#wrap(stream, protocol)));
  }

  disconnect(peerId: string): void {
    this.#inner.disconnect(peerId);
  }

  async close(): Promise<void> {
    await this.#inner.close();
    for (const stream of this.#streams.keys()) stream.noticeEnd();
    this.#alarm.close();
  }

  #wrap(inner: ByteStream, protocol: string): ByteStream {
    const { protocols } = this.#shape;
    const priority = protocols.indexOf(protocol);
    if (priority === -1) return inner;
    const shared = this.#streams.entries().find(([{ remotePeer }]) => remotePeer === inner.remotePeer);
    const line = shared?.[1] ?? new ShapedLine(this.#shape, protocols.length);
    const nowMs = (): number => this.#alarm.nowMs();
    const stream = new ShapedStream(inner, {
      nowMs,
      written: (bytes) => {
        line.write(stream, priority, bytes, nowMs());
        this.#setAlarm();
      },
      changed: () => this.#setAlarm(),
      left: (lateMs) => this.#count(lateMs),
      ended: () => {
        line.forget(stream);
        this.#streams.delete(stream);
      },
    });
    this.#streams.set(stream, line);
    return stream;
  }

  /** What is due together leaves together. */
  #depart(): void {
    this.#alarmMs = Infinity;
    const nowMs = this.#alarm.nowMs();
    for (const line of this.#streams.values()) line.advance(nowMs);
    for (const stream of this.#streams.keys()) stream.depart(nowMs);
    this.#setAlarm();
  }

  #setAlarm(): void {
    let dueMs = Infinity;
    for (const [stream, line] of this.#streams) dueMs = Math.min(dueMs, stream.dueMs, line.dueMs);
    if (dueMs === this.#alarmMs) return;
    this.#alarmMs = dueMs;
    this.#alarm.set(dueMs);
  }

  #count(lateMs: number): void {
    this.lateness.sent += 1;
    if (lateMs > this.#lateAboveMs) this.lateness.late += 1;
    this.lateness.worstLateMs = Math.max(this.lateness.worstLateMs, lateMs);
  }
}
