/** @file A link behind a hostile peer: nothing is thrown, memory is bounded; and the attack itself finds handlers that do otherwise. */
import { expect, test } from "vitest";
import { Link, type Decision, type Receiver } from "../../src/net/link.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { DataType, FrameKind } from "../../src/wire/header.ts";
import { attack, type Attack } from "../helpers/hostile-protocol.ts";
import { fresh } from "./ends.ts";

const MIB = 1024 * 1024;
const WINDOW_BYTES = 256 * 1024;
const FRESH = Date.now() >>> 0;

const frames: Attack["frames"] = [
  { fields: { kind: FrameKind.replica, step: 3, microBatch: 1, value: 0 }, payload: new Uint8Array(5_000) },
  { fields: { kind: FrameKind.control }, payload: Buffer.from('{"say":"prepare","ballot":[1,2]}') },
  { fields: { kind: FrameKind.gradient, dtype: DataType.float32, shape: [4, 5] }, payload: new Uint8Array(80) },
  { fields: { kind: FrameKind.frontier, step: 7, microBatch: 2 }, payload: new Uint8Array(0) },
];

/** It answers what it gets, but for gradients, which it never has handled. */
function serve(stream: ByteStream): void {
  const receiver: Receiver = {
    destination: planned,
    windowBytes: WINDOW_BYTES,
    handle: ({ header }, link) =>
      header.kind === FrameKind.gradient ? new Promise(() => {}) : link.send({ kind: FrameKind.applied }),
  };
  const decide = (hello: object): Decision =>
    "job" in hello ? { kind: "accept", answer: {}, receiver } : { kind: "refuse", reason: "no job" };
  Link.accept(stream, decide, 50).catch(() => {});
}

/** As a plan does: what a frame may bring is known before it comes. */
const planned: Receiver["destination"] = (header) => {
  if (header.payloadBytes > WINDOW_BYTES) throw new ProtocolError("more than this edge expects", "none");
  return fresh(header);
};

test.each([5, FRESH])(
  "throws nothing out of its handler, and holds what it granted (seed %i)",
  { timeout: 60_000 },
  async (seed) => {
    const plan = { seed, rounds: 50, hello: { job: "7" }, frames };
    const damage = await attack({ ...plan, serve });
    console.info(`seed ${seed}: at most ${damage.peakBytes} bytes were held, ${damage.leftBytes} are left`);
    expect(damage.uncaught).toEqual([]);
    // The window, one frame, and what lies about.
    expect(damage.peakBytes).toBeLessThan(MIB);
    expect(damage.leftBytes).toBeLessThan(MIB / 4);
  },
);

test("an attack shows a handler that throws, and one that hoards", { timeout: 60_000 }, async () => {
  const plan = { seed: 5, rounds: 30, hello: {}, frames };
  const throwing = await attack({
    ...plan,
    serve: () => {
      throw new Error("bug");
    },
  });
  expect([throwing.uncaught.length, throwing.uncaught[0]]).toEqual([30, "seed 5, round 0: Error: bug"]);
  const hoard: Uint8Array[] = [];
  const hoarding = await attack({
    ...plan,
    serve: (stream) => {
      void (async () => {
        for await (const bytes of stream.source) hoard.push(bytes.slice());
      })().catch(() => {});
    },
  });
  expect(hoarding.leftBytes).toBeGreaterThan(MIB / 2);
});
