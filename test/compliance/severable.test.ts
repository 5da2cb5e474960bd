/** @file The compliance suite over transports that can be severed and are not, and what being severed means for each of them. */
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { severable, type SeverableTransport } from "../../src/net/severable.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { NetworkError } from "../../src/types/errors.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { compliance, drain, fresh, ignore, pattern, PROTOCOL, soon, type TransportFactory } from "./ends.ts";
import { linkCompliance } from "./links.ts";
import { transportCompliance } from "./transport.ts";

const NOBODY = "12D3KooWAeGRx2ZnSjQeSe55s514kargZLFVG637pP4JegntDDs8";
/** Long enough for anything that is not severed to arrive on loopback, and to be missed if it does. */
const SILENCE_MS = 100;

const network = new MemoryNetwork();
let memberCount = 0;

const factories: readonly TransportFactory[] = [
  {
    name: "memory, severable",
    create: async () => severable(network.join(`peer${memberCount++}`)),
    nowhere: "/memory/nobody/p2p/nobody",
  },
  {
    name: "libp2p, severable",
    create: async () => severable(await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption: "tls" })),
    nowhere: `/ip4/127.0.0.1/tcp/1/p2p/${NOBODY}`,
  },
];

/** Whether it settles although the way is severed. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const quiet = (): boolean => true;
  return Promise.race([promise.then(quiet, quiet), delay(SILENCE_MS).then(() => false)]);
}

async function receive(stream: ByteStream, sizeBytes: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (let missing = sizeBytes; missing > 0; missing -= parts.at(-1)!.byteLength) {
    const { value, done } = await stream.source[Symbol.asyncIterator]().next();
    if (done === true) break;
    parts.push(value.slice());
  }
  return Buffer.concat(parts);
}

function severed(factory: TransportFactory): void {
  compliance(factory, ({ create, open, streams, links }) => {
    const ends = async (): Promise<{
      near: ByteStream;
      far: ByteStream;
      nearEnd: SeverableTransport;
      farEnd: SeverableTransport;
    }> => {
      const [near, far] = await streams();
      const [nearEnd, farEnd] = open as readonly SeverableTransport[];
      return { near, far, nearEnd: nearEnd!, farEnd: farEnd! };
    };

    describe("severed", () => {
      test.each([
        ["the sender's end", true, false],
        ["the receiver's end", false, true],
        ["both ends", true, true],
      ])("at %s, bytes wait and come in order when it is mended", async (_name, atNear, atFar) => {
        const { near, far, nearEnd, farEnd } = await ends();
        near.write(pattern(1_000, 0), "given");
        expect((await soon(receive(far, 1_000))).byteLength).toBe(1_000);
        if (atNear) nearEnd.sever(farEnd.peerId);
        if (atFar) farEnd.sever(nearEnd.peerId);
        for (let seed = 1; seed < 6; seed++) {
          const memory = pattern(50_000, seed);
          expect(near.write(memory, seed % 2 === 0 ? "given" : "lent")).toBe(true);
          if (atNear) memory.fill(0xee);
        }
        const received = receive(far, 300_000);
        expect(await isSettled(received)).toBe(false);
        nearEnd.mend(farEnd.peerId);
        near.write(pattern(50_000, 6), "given");
        if (atFar) expect(await isSettled(received)).toBe(false);
        farEnd.mend(nearEnd.peerId);
        const expected = Buffer.concat([1, 2, 3, 4, 5, 6].map((seed) => pattern(50_000, seed)));
        expect((await soon(received)).equals(expected)).toBe(true);
        await soon(near.flushed());
      });

      test("what is held is bounded: above the mark the writer waits", async () => {
        const { near, far, nearEnd, farEnd } = await ends();
        far.unreadBytesMax = 1 << 24;
        nearEnd.sever(farEnd.peerId);
        near.queuedBytesMark = 100_000;
        expect(near.write(near.stage(99_999).fill(1), "given")).toBe(true);
        await soon(near.ready());
        expect(near.write(new Uint8Array(1), "lent")).toBe(false);
        const waits = Promise.all([near.ready(), near.flushed()]);
        expect(await isSettled(waits)).toBe(false);
        nearEnd.mend(farEnd.peerId);
        await soon(waits);
        expect((await soon(receive(far, 100_000))).byteLength).toBe(100_000);
      });

      test("other peers are served, and links speak on when it is mended", async () => {
        const got: number[] = [];
        const [near, far] = await links(ignore, {
          destination: fresh,
          handle: ({ header }) => void got.push(header.step),
        });
        const [nearEnd, farEnd] = open as readonly SeverableTransport[];
        for (const [end, peer] of [
          [nearEnd, farEnd],
          [farEnd, nearEnd],
        ] as const) {
          end!.sever(peer!.peerId);
          end!.sever(peer!.peerId);
        }
        for (let step = 0; step < 20; step++) void near.send({ kind: FrameKind.token, step }, new Uint8Array(100_000));
        const third = await create();
        await third.handle(PROTOCOL, () => {});
        expect((await soon(nearEnd!.dial(third.addresses, PROTOCOL))).remotePeer).toBe(third.peerId);
        expect(await isSettled(Promise.race([near.ended, far.ended]))).toBe(false);
        expect(got).toEqual([]);
        farEnd!.mend(nearEnd!.peerId);
        nearEnd!.mend(farEnd!.peerId);
        expect(await soon(near.close())).toEqual({ kind: "goodbye" });
        expect(got).toEqual(Array.from({ length: 20 }, (_, step) => step));
      });

      test("an end, or an abort, of either side is heard of when it is mended", async () => {
        for (const atFar of [false, true]) {
          const { near, far, nearEnd, farEnd } = await ends();
          nearEnd.sever(farEnd.peerId);
          (atFar ? far : near).abort(new Error("test"));
          const ended = drain(atFar ? near : far);
          expect(await isSettled(ended)).toBe(false);
          if (!atFar) expect(() => near.write(new Uint8Array(1), "given")).toThrow(NetworkError);
          nearEnd.mend(farEnd.peerId);
          await soon(ended, "the end of the source");
          await Promise.all([nearEnd.close(), farEnd.close()]);
          (open as SeverableTransport[]).length = 0;
        }
      });

      test("whoever aborts waits no longer", async () => {
        const { near, nearEnd, farEnd } = await ends();
        nearEnd.sever(farEnd.peerId);
        near.queuedBytesMark = 10;
        near.write(new Uint8Array(10), "given");
        const waits = [near.ready(), near.flushed()];
        for (const wait of waits) wait.catch(() => {});
        const drained = drain(near);
        expect(await soon(near.close(20))).toBeUndefined();
        for (const wait of waits) await expect(soon(wait)).rejects.toBeInstanceOf(NetworkError);
        await soon(drained, "the end of the source");
      });

      test("dials wait: to the end of their time, or for the way to be mended", async () => {
        const { nearEnd, farEnd } = await ends();
        nearEnd.sever(farEnd.peerId);
        const limited = nearEnd.dial(farEnd.addresses, PROTOCOL, { signal: AbortSignal.timeout(SILENCE_MS / 2) });
        await expect(soon(limited)).rejects.toMatchObject({
          name: "NetworkError",
          message: expect.stringMatching(/no answer in time/),
        });
        const patient = nearEnd.dial(farEnd.addresses, PROTOCOL);
        expect(await isSettled(patient)).toBe(false);
        nearEnd.mend(farEnd.peerId);
        expect((await soon(patient)).remotePeer).toBe(farEnd.peerId);
      });

      test("a hello from beyond the cut is not answered", async () => {
        const { nearEnd, farEnd } = await ends();
        await farEnd.handle("/hello/1", (stream) => {
          Link.accept(stream, () => ({ kind: "accept", answer: {}, receiver: ignore })).catch(() => {});
        });
        farEnd.sever(nearEnd.peerId);
        const stream = await soon(nearEnd.dial(farEnd.addresses, "/hello/1"));
        await expect(soon(Link.open(stream, {}, ignore, SILENCE_MS))).rejects.toBeInstanceOf(NetworkError);
      });

      test("a transport that closes leaves nobody waiting", async () => {
        const { near, nearEnd, farEnd } = await ends();
        nearEnd.sever(farEnd.peerId);
        near.write(new Uint8Array(10), "given");
        const waits: Promise<unknown>[] = [nearEnd.dial(farEnd.addresses, PROTOCOL), near.flushed()];
        for (const wait of waits) wait.catch(() => {});
        const drained = drain(near);
        await soon(nearEnd.close());
        await soon(drained, "the end of the source");
        for (const wait of waits) await expect(soon(wait)).rejects.toBeInstanceOf(NetworkError);
      });
    });
  });
}

describe("ways that can be severed", () => {
  for (const factory of factories) {
    transportCompliance(factory);
    linkCompliance(factory);
    severed(factory);
  }
});
