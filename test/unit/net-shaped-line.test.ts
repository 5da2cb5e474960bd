/** @file The line that streams to one peer share: order, priority, times, against a line that sends slice by slice. */
import { describe, expect, test } from "vitest";
import { RandomStream } from "../../src/types/random.ts";
import { BULK, line } from "../helpers/shaped-line.ts";

const KIB = 1024;
const MIB = KIB * KIB;
const PART_BYTES = 128 * KIB;
const SLICE_BYTES = 16 * KIB;
const FRESH = Date.now() >>> 0;

interface LineWrite {
  readonly stream: number;
  readonly priority: number;
  readonly atMs: number;
  readonly sizeBytes: number;
  readonly fill: number;
}

interface Slice {
  readonly stream: number;
  /** Bytes of the stream up to the end of this slice, and when that end has been sent. */
  readonly endBytes: number;
  readonly endMs: number;
  readonly fill: number;
}

/** The same by the simplest means: before each slice, look again who comes first. An idle line begins at once. */
function sliceBySlice(writes: readonly LineWrite[], rateBytesPerMs: number): readonly Slice[] {
  const waiting = writes.map((write) => ({ ...write, missingBytes: write.sizeBytes }));
  const sent = new Map<number, number>();
  const slices: Slice[] = [];
  for (let nowMs = 0; ;) {
    const left = waiting.filter(({ missingBytes }) => missingBytes > 0);
    const first = left[0];
    if (first === undefined) return slices;
    const isIdle = first.atMs > nowMs;
    if (isIdle) nowMs = first.atMs;
    const come = isIdle ? [first] : left.filter(({ atMs }) => atMs <= nowMs);
    const next = come.find(({ priority }) => priority === 0) ?? first;
    const sizeBytes = Math.min(SLICE_BYTES, next.missingBytes);
    next.missingBytes -= sizeBytes;
    nowMs += sizeBytes / rateBytesPerMs;
    const endBytes = (sent.get(next.stream) ?? 0) + sizeBytes;
    sent.set(next.stream, endBytes);
    slices.push({ stream: next.stream, endBytes, endMs: nowMs, fill: next.fill });
  }
}

describe("a shared line sends", () => {
  test("data before bulk, which gives way at the end of its slice and goes on afterwards", async () => {
    const { clock, open } = line({ rateBytesPerMs: 1024, latencyMs: 5 });
    const [[data, belowData], [bulk, belowBulk]] = [await open(), await open(BULK)];
    bulk.write(new Uint8Array(MIB), "lent");
    clock.moveTo(1020);
    data.write(new Uint8Array(10 * 1024), "given");
    data.write(new Uint8Array(1024), "given");
    clock.moveTo(5000);
    expect(belowData.arrived.map(({ atMs }) => atMs)).toEqual([1047, 1048]);
    const sizes = belowBulk.arrived.map(({ bytes }) => bytes.byteLength / 1024);
    expect(sizes).toEqual([32, 96, ...Array.from({ length: 7 }, () => 128)]);
    expect([belowBulk.arrived[0]?.atMs, belowBulk.arrived.at(-1)?.atMs]).toEqual([1037, 1000 + 1024 + 11 + 5]);
  });

  test("not at all, where their stream has ended, and the others go on", async () => {
    const { clock, open } = line({ rateBytesPerMs: 100, latencyMs: 0 });
    const [[first], [second, below], [third, belowThird]] = [await open(), await open(), await open(BULK)];
    first.write(new Uint8Array(200_000), "given");
    third.write(new Uint8Array(100), "given");
    second.write(new Uint8Array(100), "given");
    first.abort(new Error("test"));
    second.write(new Uint8Array(100), "given");
    clock.moveTo(10_000);
    const freeMs = 1000 + PART_BYTES / 100;
    expect(below.arrived.map(({ atMs }) => atMs)).toEqual([freeMs + 1, freeMs + 2]);
    expect(belowThird.arrived.map(({ atMs }) => atMs)).toEqual([freeMs + 3]);
  });

  test.each([11, FRESH])(
    "as from a line that sends slice by slice, the first protocol's first (seed %i)",
    async (seed) => {
      const random = new RandomStream(seed, 1);
      const chance = () => random.nextFloat();
      for (let round = 0; round < 30; round += 1) {
        const [rateBytesPerMs, latencyMs] = [500 + chance() * 50_000, chance() < 0.3 ? 0 : chance() * 20];
        const isLate = chance() < 0.5;
        const { clock, open, transport } = line({ rateBytesPerMs, latencyMs });
        const ends = [await open(), await open(BULK), await open(), await open(BULK)];
        const writes: LineWrite[] = [];
        for (let count = 0; count < 30; count += 1) {
          clock.moveTo(clock.ms + (chance() < 0.4 ? 0 : chance() * 30), isLate ? chance() * 3 : 0);
          const stream = Math.floor(chance() * ends.length);
          const bytes = new Uint8Array(1 + Math.floor(chance() * (stream % 2 === 1 ? 400_000 : 40_000))).fill(count);
          ends[stream]![0].write(bytes, chance() < 0.5 ? "given" : "lent");
          writes.push({ stream, priority: stream % 2, atMs: clock.ms, sizeBytes: bytes.byteLength, fill: count });
        }
        clock.moveTo(clock.ms + 1e6);
        const slices = sliceBySlice(writes, rateBytesPerMs);
        for (const [stream, [, below]] of ends.entries()) {
          const own = slices.filter((slice) => slice.stream === stream);
          let sentBytes = 0;
          for (const { atMs, bytes } of below.arrived) {
            expect(bytes.byteLength).toBeLessThanOrEqual(PART_BYTES);
            sentBytes += bytes.byteLength;
            const last = own.find(({ endBytes }) => endBytes >= sentBytes);
            expect([last?.endBytes, bytes.every((byte) => byte === last?.fill)]).toEqual([sentBytes, true]);
            const onTimeMs = (last?.endMs ?? Number.NaN) + latencyMs;
            if (isLate) expect(atMs).toBeGreaterThan(onTimeMs - 1e-6);
            else expect(atMs).toBeCloseTo(onTimeMs, 6);
          }
          expect(sentBytes).toBe(own.at(-1)?.endBytes ?? 0);
        }
        expect(transport.lateness.sent).toBe(ends.reduce((sum, [, { arrived }]) => sum + arrived.length, 0));
      }
    },
  );
});
