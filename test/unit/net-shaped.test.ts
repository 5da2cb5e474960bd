/** @file Emulated links: when bytes leave, who may touch them until then, what is told of lateness, and the alarm itself. */
import { describe, expect, test } from "vitest";
import { ThreadAlarm } from "../../src/net/alarm.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { shapedTransport } from "../../src/net/shaped.ts";
import { QUEUED_BYTES_MARK, STAGED_BYTES_MAX, type ByteStream } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { NetworkError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { line, SHAPED } from "../helpers/shaped-line.ts";

const LIMIT_MS = 10_000;
const MIB = 1024 * 1024;
const PART_BYTES = 128 * 1024;

const soon = <T>(promise: Promise<T>): Promise<T> =>
  within(promise, LIMIT_MS, () => {
    throw new Error(`it took more than ${LIMIT_MS} ms`);
  });

/** Settled by now, without waiting for anything but what is due already. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(
    () => (settled = true),
    () => (settled = true),
  );
  await new Promise((resolve) => setImmediate(resolve));
  return settled;
}

describe("bytes leave", () => {
  const FRESH = Date.now() >>> 0;
  test.each([7, FRESH])("at the time that a line of single bytes gives, in order (seed %i)", async (seed) => {
    const random = new RandomStream(seed, 1);
    const chance = () => random.nextFloat();
    for (let round = 0; round < 30; round += 1) {
      const rateBytesPerMs = chance() < 0.2 ? null : 10 + Math.floor(chance() * 500);
      const latencyMs = chance() < 0.2 ? 0 : chance() * 20;
      const { clock, open, transport } = line({ rateBytesPerMs, latencyMs });
      const [stream, below] = await open();
      const expected: { atMs: number; bytes: Uint8Array }[] = [];
      let lineFreeMs = 0;
      for (let count = 0; count < 40; count += 1) {
        clock.moveTo(clock.ms + (chance() < 0.5 ? 0 : chance() * 10));
        const bytes = new Uint8Array(1 + Math.floor(chance() * 2000)).fill(count);
        stream.write(bytes, chance() < 0.5 ? "given" : "lent");
        if (lineFreeMs < clock.ms) lineFreeMs = clock.ms;
        for (const _byte of bytes) lineFreeMs += rateBytesPerMs === null ? 0 : 1 / rateBytesPerMs;
        expected.push({ atMs: lineFreeMs + latencyMs, bytes });
      }
      clock.moveTo(clock.ms + 100_000);
      expect(below.arrived.map(({ bytes }) => bytes)).toEqual(expected.map(({ bytes }) => bytes));
      below.arrived.forEach(({ atMs }, index) => expect(atMs).toBeCloseTo(expected[index]?.atMs ?? Number.NaN, 6));
      expect(transport.lateness).toMatchObject({ sent: 40, late: 0 });
    }
  });

  test("in parts, the last of which is the whole's time", async () => {
    const { clock, open } = line({ rateBytesPerMs: 12_500, latencyMs: 5 });
    const [stream, below] = await open();
    stream.write(new Uint8Array(MIB), "lent");
    clock.moveTo(clock.ms + 1000);
    expect(below.arrived.map(({ bytes }) => bytes.byteLength)).toEqual(Array.from({ length: 8 }, () => PART_BYTES));
    expect(below.arrived[0]?.atMs).toBeCloseTo(1000 + PART_BYTES / 12_500 + 5, 6);
    expect(below.arrived[7]?.atMs).toBeCloseTo(1000 + MIB / 12_500 + 5, 6);
  });

  test("together, where they are due together, on every stream", async () => {
    const { clock, open } = line({ rateBytesPerMs: null, latencyMs: 5 });
    const ends = [await open(), await open(), await open()];
    for (const [stream] of ends) for (let count = 0; count < 3; count += 1) stream.write(new Uint8Array(9), "given");
    expect(clock.dueMs).toBe(1005);
    clock.moveTo(1005);
    expect(ends.map(([, below]) => below.arrived.length)).toEqual([3, 3, 3]);
    expect(clock.dueMs).toBe(Infinity);
  });

  test("one after the other on the streams to one peer, and at a rate of its own to another", async () => {
    const { clock, open } = line({ rateBytesPerMs: 100, latencyMs: 0 });
    const ends = [await open(), await open(), await open(SHAPED, "other")];
    for (const [index, [stream]] of ends.entries()) stream.write(new Uint8Array([5000, 1000, 2000][index]!), "given");
    clock.moveTo(2000);
    expect(ends.map(([, below]) => below.arrived[0]?.atMs)).toEqual([1050, 1060, 1020]);
  });

  test("at once, on streams of other protocols", async () => {
    const { open } = line({ rateBytesPerMs: 1, latencyMs: 1000 });
    const [stream, below] = await open("/control/1");
    expect(stream).toBe(below);
  });

  test("after the stream below has room again, and then they are late", async () => {
    const { clock, open, transport } = line({ rateBytesPerMs: null, latencyMs: 5 });
    const [stream, below] = await open();
    below.isFull = true;
    for (let count = 0; count < 3; count += 1) stream.write(new Uint8Array(9), "given");
    clock.moveTo(1050);
    expect(below.arrived.length).toBe(1);
    expect(await isSettled(stream.flushed())).toBe(false);
    below.isFull = false;
    below.emptied.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    clock.moveTo(1051);
    expect(below.arrived.length).toBe(3);
    expect(transport.lateness).toEqual({ sent: 3, late: 2, worstLateMs: 45 });
  });
});

describe("memory", () => {
  test("that is lent comes back when it has left, not before", async () => {
    const { clock, open } = line({ rateBytesPerMs: 100, latencyMs: 5 });
    const [stream, below] = await open();
    const first = new Uint8Array(1000).fill(1);
    stream.write(first, "lent");
    const flushed = stream.flushed();
    stream.write(new Uint8Array(1000).fill(2), "lent");
    clock.moveTo(1014.9);
    expect([await isSettled(flushed), below.arrived.length]).toEqual([false, 0]);
    clock.moveTo(1015.1);
    expect([await isSettled(flushed), below.arrived.length]).toEqual([true, 1]);
    first.fill(9);
    expect(await isSettled(stream.flushed())).toBe(false);
    clock.moveTo(2000);
    await soon(stream.flushed());
    expect(below.arrived.map(({ bytes }) => bytes[500])).toEqual([1, 2]);
  });

  test("that was staged is not used again while it is held", async () => {
    const { clock, open } = line({ rateBytesPerMs: null, latencyMs: 5 });
    const [stream, below] = await open();
    let [wrote, index] = [0, 0];
    for (let turn = 0; turn < 4; turn += 1) {
      for (let hasRoom = true; hasRoom; index += 1) {
        const memory = stream.stage(index % 3 === 0 ? STAGED_BYTES_MAX : 99_000);
        wrote += memory.byteLength;
        hasRoom = stream.write(memory.fill(index % 251), "given");
      }
      clock.moveTo(clock.ms + 10);
    }
    const arrived = Buffer.concat(below.arrived.map(({ bytes }) => bytes));
    expect(arrived.byteLength).toBe(wrote);
    for (let frame = 0, start = 0; frame < index; frame += 1) {
      const end = start + (frame % 3 === 0 ? STAGED_BYTES_MAX : 99_000);
      expect(arrived.subarray(start, end).every((byte) => byte === frame % 251)).toBe(true);
      start = end;
    }
  });

  test("is bounded: above its mark the queue asks to wait, whether bytes queue or are under way", async () => {
    const { clock, open } = line({ rateBytesPerMs: null, latencyMs: 5 });
    const [stream] = await open();
    expect(stream.write(new Uint8Array(QUEUED_BYTES_MARK - 1), "given")).toBe(true);
    await soon(stream.ready());
    expect(stream.write(new Uint8Array(1), "given")).toBe(false);
    const ready = stream.ready();
    expect(await isSettled(ready)).toBe(false);
    clock.moveTo(1005);
    await soon(ready);
  });
});

describe("lateness", () => {
  test.each([
    [5, 0.9, 0],
    [5, 1.1, 1],
    [50, 4.9, 0],
    [50, 5.1, 1],
  ])("at a latency of %d ms, %d ms late counts %i", async (latencyMs, lateMs, late) => {
    const { clock, open, transport } = line({ rateBytesPerMs: null, latencyMs });
    const [stream] = await open();
    stream.write(new Uint8Array(10), "given");
    clock.moveTo(2000, lateMs);
    expect(transport.lateness).toMatchObject({ sent: 1, late });
    expect(transport.lateness.worstLateMs).toBeCloseTo(lateMs, 6);
  });

  test("does not add up: the line's times are those of the writes", async () => {
    const { clock, open } = line({ rateBytesPerMs: 100, latencyMs: 0 });
    const [stream, below] = await open();
    for (let count = 0; count < 100; count += 1) stream.write(new Uint8Array(100), "given");
    clock.moveTo(3000, 0.7);
    expect(below.arrived.at(-1)?.atMs).toBeCloseTo(1100.7, 6);
  });
});

describe("the end of a stream", () => {
  const shape = { rateBytesPerMs: 100, latencyMs: 5 };

  test("close lets what is under way leave, in what remains of its time", async () => {
    const { clock, open } = line(shape);
    const [stream, below] = await open();
    stream.write(new Uint8Array(1000), "given");
    const closed = stream.close(5000);
    expect(() => stream.write(new Uint8Array(1), "given")).toThrow(NetworkError);
    expect([await isSettled(closed), below.closedWithinMs]).toEqual([false, undefined]);
    clock.moveTo(1015);
    await soon(closed);
    expect([below.arrived.length, below.closedWithinMs, below.isAborted]).toEqual([1, 4985, false]);
  });

  test("close that takes too long aborts", async () => {
    const { clock, open } = line(shape);
    const [stream, below] = await open();
    stream.write(new Uint8Array(1000), "given");
    await soon(stream.close(10));
    clock.moveTo(3000);
    expect([below.arrived.length, below.isAborted]).toEqual([0, true]);
  });

  test("abort drops what is held, and whoever waits hears of it", async () => {
    const { clock, open } = line(shape);
    const [stream, below] = await open();
    stream.write(new Uint8Array(QUEUED_BYTES_MARK), "given");
    const waits = [stream.ready(), stream.flushed()];
    stream.abort(new Error("test"));
    for (const wait of waits) await expect(soon(wait)).rejects.toBeInstanceOf(NetworkError);
    clock.moveTo(1_000_000);
    expect([below.arrived.length, below.isAborted, clock.dueMs]).toEqual([0, true, Infinity]);
  });

  test.each([
    ["the reader sees it", async (stream: ByteStream) => void (await stream.source[Symbol.asyncIterator]().next())],
    [
      "a writer sees it",
      async (stream: ByteStream) => expect(() => stream.write(new Uint8Array(1), "given")).toThrow(NetworkError),
    ],
    ["a waiter sees it", async (stream: ByteStream) => expect(stream.ready()).rejects.toBeInstanceOf(NetworkError)],
  ])("below: %s, and all that waits fails", async (_name, look) => {
    const { open } = line(shape);
    const [stream, below] = await open();
    stream.write(new Uint8Array(QUEUED_BYTES_MARK), "given");
    const waits = [stream.ready(), stream.flushed()];
    for (const wait of waits) wait.catch(() => {});
    below.abort();
    await soon(look(stream));
    for (const wait of waits) await expect(soon(wait)).rejects.toBeInstanceOf(NetworkError);
  });

  test("below, which shows when the next part should leave: none counts as sent", async () => {
    const { clock, open, transport } = line(shape);
    const [stream, below] = await open();
    for (let count = 0; count < 3; count += 1) stream.write(new Uint8Array(10), "given");
    const flushed = stream.flushed();
    flushed.catch(() => {});
    below.abort();
    clock.moveTo(2000);
    await expect(soon(flushed)).rejects.toBeInstanceOf(NetworkError);
    expect(transport.lateness.sent).toBe(0);
  });

  test("comes with that of the transport, and no alarm is left", async () => {
    const { clock, open, transport } = line(shape);
    const [stream] = await open();
    stream.write(new Uint8Array(1000), "given");
    const flushed = stream.flushed();
    flushed.catch(() => {});
    await transport.close();
    await expect(soon(flushed)).rejects.toBeInstanceOf(NetworkError);
    expect(clock.isClosed).toBe(true);
  });
});

describe("in real time", () => {
  /** Two ends of a shaped stream inside this process. */
  async function pair(latencyMs: number, rateBytesPerMs: number | null) {
    const network = new MemoryNetwork();
    const shape = { rateBytesPerMs, latencyMs, protocols: [SHAPED] };
    const [near, far] = [shapedTransport(network.join("near"), shape), shapedTransport(network.join("far"), shape)];
    const arrived = Promise.withResolvers<ByteStream>();
    await far.handle(SHAPED, arrived.resolve);
    const stream = await near.dial(far.addresses, SHAPED);
    return { near, far, stream, other: await arrived.promise };
  }

  async function receive(stream: ByteStream, sizeBytes: number): Promise<void> {
    stream.unreadBytesMax = 2 * sizeBytes;
    let missingBytes = sizeBytes;
    for await (const chunk of stream.source) if ((missingBytes -= chunk.byteLength) <= 0) return;
  }

  test("twenty messages, one every twentieth of the latency, take two latencies, not twenty", async () => {
    const [latencyMs, count] = [60, 20];
    const { near, far, stream, other } = await pair(latencyMs, null);
    const received = receive(other, count * 100);
    const startedMs = performance.now();
    for (let index = 0; index < count; index += 1) {
      stream.write(new Uint8Array(100), "given");
      while (performance.now() < startedMs + ((index + 1) * latencyMs) / count) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    await soon(received);
    const tookMs = performance.now() - startedMs;
    expect(tookMs).toBeGreaterThan(1.9 * latencyMs);
    expect(tookMs).toBeLessThan(6 * latencyMs);
    expect(near.lateness.sent).toBe(count);
    await Promise.all([near.close(), far.close()]);
  });

  test("twice the bytes take twice the time", async () => {
    const { near, far, stream, other } = await pair(0, 10_000);
    other.unreadBytesMax = 4 * MIB;
    const took: number[] = [];
    for (const sizeBytes of [MIB, 2 * MIB]) {
      const startedMs = performance.now();
      stream.write(new Uint8Array(sizeBytes), "given");
      await soon(stream.flushed());
      took.push((performance.now() - startedMs) / (sizeBytes / 10_000));
    }
    expect(Math.min(...took)).toBeGreaterThan(0.999);
    expect(Math.max(...took)).toBeLessThan(1.5);
    other.abort(new Error("test"));
    await Promise.all([near.close(), far.close()]);
  });

  test("the alarm rings once for each time, never before it, and not after it is closed", async () => {
    const lateMs: number[] = [];
    let [rings, dueMs] = [0, 0];
    let rung = Promise.withResolvers<void>();
    const alarm = new ThreadAlarm(() => {
      rings += 1;
      lateMs.push(alarm.nowMs() - dueMs);
      rung.resolve();
    });
    for (const inMs of [60, 0, 0.05, 0.2, 1, 1.5, 3, 7]) {
      rung = Promise.withResolvers();
      alarm.set(alarm.nowMs() + 1000);
      dueMs = alarm.nowMs() + inMs;
      alarm.set(dueMs);
      await soon(rung.promise);
    }
    expect(rings).toBe(8);
    expect(Math.min(...lateMs)).toBeGreaterThanOrEqual(0);
    const later = Promise.withResolvers<void>();
    const witness = new ThreadAlarm(later.resolve);
    alarm.set(alarm.nowMs() + 1);
    witness.set(witness.nowMs() + 20);
    alarm.close();
    await soon(later.promise);
    witness.close();
    expect(rings).toBe(8);
  });
});
