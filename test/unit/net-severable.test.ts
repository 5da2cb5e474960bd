/** @file What a stream asks of the one below it while its way is severed: nothing. */
import { expect, test } from "vitest";
import { severable } from "../../src/net/severable.ts";
import type { Transport } from "../../src/net/transport.ts";
import { HandClock, Recorder } from "../helpers/shaped-line.ts";

/** Its memory may be in use when it is above its mark, which the writer cannot see then. */
class Guarded extends Recorder {
  isCut = false;

  override stage(sizeBytes: number): Uint8Array {
    expect(this.isCut, "memory of a stream that may be full").toBe(false);
    return super.stage(sizeBytes);
  }
}

test("staged memory is of no stream below, and lies unchanged until it leaves", async () => {
  const below = new Guarded(new HandClock());
  const inner: Transport = {
    peerId: "near",
    addresses: [],
    dial: () => Promise.resolve(below),
    handle: () => Promise.resolve(),
    disconnect: () => {},
    close: () => Promise.resolve(),
  };
  const transport = severable(inner);
  const stream = await transport.dial("/memory/far/p2p/far", "/any/1");
  const early = stream.stage(4);
  transport.sever("far");
  below.isCut = true;
  stream.write(early.fill(1), "given");
  stream.write(stream.stage(4).fill(2), "given");
  early.fill(9);
  expect(below.arrived).toEqual([]);
  below.isCut = false;
  transport.mend("far");
  stream.write(stream.stage(4).fill(3), "given");
  expect(below.arrived.map(({ bytes }) => [...bytes])).toEqual([1, 2, 3].map((byte) => [byte, byte, byte, byte]));
});
