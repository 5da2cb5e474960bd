/** @file The sending half of a link: pieces, and how far it writes ahead. */
import { expect, test } from "vitest";
import { streamEnded } from "../../src/net/net-errors.ts";
import { Outgoing } from "../../src/net/outgoing.ts";
import { SendWindow } from "../../src/net/window.ts";
import { FrameKind, frameFields, HEADER_BYTES } from "../../src/wire/header.ts";
import { HandClock, Recorder } from "../helpers/shaped-line.ts";

const MIB = 1024 * 1024;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test.each([
  [4 * MIB, 512 * 1024],
  [256 * 1024, 256 * 1024],
  [64 * 1024, 64 * 1024],
])("with a mark of %i bytes no piece is above %i, and none follows a full queue", async (markBytes, pieceBytesMax) => {
  const stream = new Recorder(new HandClock());
  stream.queuedBytesMark = markBytes;
  stream.isFull = true;
  const outgoing = new Outgoing(() => 0);
  outgoing.window = new SendWindow(8 * MIB);
  const done = outgoing.writeTo(stream, outgoing.encode(outgoing, stream));
  const sizes = [10, pieceBytesMax - HEADER_BYTES, pieceBytesMax, MIB];
  for (const size of sizes) void outgoing.push(frameFields({ kind: FrameKind.token }), new Uint8Array(size), true);
  let writes = 0;
  for (let count = 0; outgoing.sent.messages < sizes.length || stream.arrived.length > writes; count += 1) {
    await turn();
    expect(stream.arrived.length - writes, "one piece a room").toBeLessThanOrEqual(1);
    writes = stream.arrived.length;
    const room = stream.emptied;
    stream.emptied = Promise.withResolvers();
    room.resolve();
    await turn();
    expect(count, "it comes to an end").toBeLessThan(1_000);
  }
  const pieces = stream.arrived.map(({ bytes }) => bytes.byteLength);
  expect(Math.max(...pieces)).toBe(pieceBytesMax);
  expect(pieces.reduce((sum, bytes) => sum + bytes)).toBe(sizes.reduce((sum, size) => sum + size + HEADER_BYTES, 0));
  outgoing.end(streamEnded("far"));
  await done;
});
