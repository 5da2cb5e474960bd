/** @file What a link must do over every transport, and what it must refuse. */
import { describe, expect, test } from "vitest";
import { NetworkError, ProtocolError } from "../../src/types/errors.ts";
import { Link, type Receiver } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { DataType, FrameKind, HEADER_BYTES } from "../../src/wire/header.ts";
import {
  compliance,
  drain,
  echoOf,
  frameBytes,
  fresh,
  ignore,
  LIMIT_MS,
  NONE,
  pattern,
  PROTOCOL,
  soon,
  write,
  type TransportFactory,
} from "./ends.ts";

export function linkCompliance(factory: TransportFactory): void {
  compliance(factory, ({ create, open, links, hostile }) => {
    describe("links", () => {
      test("echo 64 B to 8 MiB unchanged, in order, and count them", async () => {
        const sizes = [64, 0, 16_384, 65_536, 65_537, 1_048_576, 3, 8 * 1_048_576];
        const echoed: Uint8Array[] = [];
        const all = Promise.withResolvers<void>();
        const [near, far] = await links(
          {
            destination: fresh,
            handle: ({ payload }) => {
              if (echoed.push(payload) === sizes.length) all.resolve();
            },
          },
          { destination: fresh, handle: ({ header, payload }, link) => link.send(header, payload) },
        );
        const sent = sizes.map((size, seed) => pattern(size, seed));
        for (const payload of sent) {
          const shape =
            payload.byteLength % 4 === 0 ? { dtype: DataType.float32, shape: [payload.byteLength / 4] } : {};
          void near.send({ kind: FrameKind.activation, step: 3, ...shape }, payload);
        }
        await soon(all.promise, "the echo");
        echoed.forEach((payload, index) => expect(Buffer.compare(payload, sent[index] ?? NONE)).toBe(0));
        expect(await soon(near.close())).toEqual({ kind: "goodbye" });
        expect(await soon(far.ended)).toEqual({ kind: "goodbye" });
        expect([near.sent.messages, near.received.messages]).toEqual([sizes.length, sizes.length]);
        expect(near.sent.bytes).toBeGreaterThan(sizes.reduce((sum, size) => sum + size, 0));
        expect([far.received.bytes, far.sent.bytes]).toEqual([near.sent.bytes, near.received.bytes]);
      });

      test("the payload's memory may be reused when send resolves", async () => {
        const count = 12;
        const received: Uint8Array[] = [];
        const [near] = await links(ignore, {
          destination: fresh,
          handle: ({ payload }) => void received.push(payload),
        });
        const memory = new Uint8Array(new SharedArrayBuffer(1_000_000));
        for (let seed = 0; seed < count; seed++) {
          memory.set(pattern(1_000_000, seed));
          await soon(near.send({ kind: FrameKind.activation }, memory));
        }
        await soon(near.close());
        expect(received.length).toBe(count);
        received.forEach((bytes, seed) => expect(Buffer.compare(bytes, pattern(1_000_000, seed))).toBe(0));
      });

      test("carry frames of the side that accepted, unasked, while the other side sends too", async () => {
        const [count, heard] = [200, { near: [] as number[], far: [] as number[] }];
        const hear = (steps: number[]): Receiver => ({
          destination: fresh,
          windowBytes: 64 * 1024,
          handle: ({ header }) => void steps.push(header.step),
        });
        const [near, far] = await links(hear(heard.near), hear(heard.far));
        for (let step = 0; step < count; step++) {
          void far.send({ kind: FrameKind.applied, step }, new Uint8Array(1_000));
          void near.send({ kind: FrameKind.replica, step, value: 7 }, new Uint8Array(10_000));
        }
        expect(await soon(Promise.all([near.close(), far.close()]))).toEqual([
          { kind: "goodbye" },
          { kind: "goodbye" },
        ]);
        const steps = Array.from({ length: count }, (_, step) => step);
        expect(heard).toEqual({ near: steps, far: steps });
      });

      test("many streams between two peers do not mix", async () => {
        const [dialler, listener] = [await create(), await create()];
        const count = 20;
        const received = new Map<number, number[]>();
        await listener.handle(PROTOCOL, (stream) => {
          void Link.accept(stream, (hello) => {
            const id = Number(hello["id"]);
            received.set(id, []);
            return {
              kind: "accept",
              answer: {},
              receiver: {
                destination: fresh,
                handle: ({ header, payload }) => {
                  expect(payload[77]).toBe(pattern(100, id)[77]);
                  received.get(id)?.push(header.step);
                },
              },
            };
          });
        });
        const opened = await soon(
          Promise.all(
            Array.from({ length: count }, async (_, id) => {
              const stream = await dialler.dial(listener.addresses, PROTOCOL);
              return (await Link.open(stream, { id }, ignore)).link;
            }),
          ),
        );
        for (let step = 0; step < 30; step++) {
          for (const [id, link] of opened.entries())
            void link.send({ kind: FrameKind.token, step }, pattern(5_000 + id * 10_000, id));
        }
        const ends = await soon(Promise.all(opened.map((link) => link.close(LIMIT_MS))));
        expect(ends).toEqual(opened.map(() => ({ kind: "goodbye" })));
        for (const steps of received.values()) expect(steps).toEqual(Array.from({ length: 30 }, (_, step) => step));
        expect(received.size).toBe(count);
      });

      test("a slow handler holds the sender back at the window", async () => {
        const windowBytes = 256 * 1024;
        const release: (() => void)[] = [];
        const first = Promise.withResolvers<void>();
        let handled = 0;
        const [near, far] = await links(ignore, {
          destination: fresh,
          windowBytes,
          handle: () => {
            handled++;
            first.resolve();
            return new Promise<void>((resolve) => release.push(resolve));
          },
        });
        const payload = new Uint8Array(32 * 1024);
        const sends = Array.from({ length: 64 }, () => near.send({ kind: FrameKind.token }, payload));
        await soon(sends[5] ?? Promise.reject(new Error("no sixth")), "what fits into the window");
        // The first echo would carry a grant; by the second, what it allows would have been sent.
        await echoOf(far, near);
        await echoOf(far, near);
        await soon(first.promise, "the first frame, which a slow link may deliver after the echoes");
        expect(near.sent.bytes).toBeLessThan(windowBytes + 4096);
        expect(near.sent.messages).toBe(Math.floor(windowBytes / (payload.byteLength + HEADER_BYTES)));
        expect(handled).toBe(1);
        const everything = Promise.all(sends);
        let isDone = false;
        void everything.then(() => (isDone = true));
        while (!isDone) {
          release.splice(0).forEach((resolve) => resolve());
          await new Promise((resolve) => setImmediate(resolve));
        }
        await soon(everything);
        const closed = near.close(LIMIT_MS);
        while (handled < 64 || release.length > 0) {
          release.splice(0).forEach((resolve) => resolve());
          await new Promise((resolve) => setImmediate(resolve));
        }
        expect(await soon(closed)).toEqual({ kind: "goodbye" });
      });

      test("while its gate is shut no frame is handled and no place asked for, then all are, in order", async () => {
        const seen: string[] = [];
        let shut: PromiseWithResolvers<void> | undefined = Promise.withResolvers();
        const [near, far] = await links(ignore, {
          gate: () => shut?.promise,
          destination: (header) => (seen.push(`place ${header.step}`), fresh(header)),
          handle: ({ header }) => void seen.push(`handle ${header.step}`),
        });
        const send = (step: number): Promise<void> => near.send({ kind: FrameKind.token, step }, new Uint8Array(1_000));
        await soon(Promise.all([0, 1, 2].map(send)), "all are on their way");
        while (far.received.bytes < 1_000) await new Promise((resolve) => setImmediate(resolve));
        await echoOf(far, near);
        expect(seen).toEqual(["place 0"]);
        shut.resolve();
        shut = undefined;
        expect(await soon(near.close(LIMIT_MS))).toEqual({ kind: "goodbye" });
        expect(seen).toEqual([0, 1, 2].flatMap((step) => [`place ${step}`, `handle ${step}`]));
      });

      test("grants pass a handler that waits for its own replies", async () => {
        const count = 300;
        const replied = Promise.withResolvers<void>();
        const windowBytes = 128 * 1024;
        const [near] = await links(
          {
            destination: fresh,
            windowBytes,
            handle: (_frame, link) => (link.received.messages === count ? replied.resolve() : undefined),
          },
          {
            destination: fresh,
            windowBytes,
            handle: (_frame, link) => link.send({ kind: FrameKind.token }, new Uint8Array(60_000)),
          },
        );
        for (let index = 0; index < count; index++) void near.send({ kind: FrameKind.token }, new Uint8Array(20_000));
        await soon(replied.promise, "all replies");
        expect(await soon(near.close())).toEqual({ kind: "goodbye" });
      });

      test("a frame larger than the window passes", async () => {
        const [near, far] = await links(ignore, { ...ignore, windowBytes: 64 * 1024 });
        for (let count = 0; count < 4; count++)
          void near.send({ kind: FrameKind.activation }, new Uint8Array(1_000_000));
        expect(await soon(near.close(LIMIT_MS))).toEqual({ kind: "goodbye" });
        expect(far.received.messages).toBe(4);
      });

      test("a stream that closes without GOODBYE is lost", async () => {
        const { stream, link } = await hostile(ignore);
        write(stream, FrameKind.token, 1, new Uint8Array(9));
        await stream.close(LIMIT_MS);
        expect(await soon(link.ended)).toEqual({ kind: "lost" });
        await expect(link.send({ kind: FrameKind.token })).rejects.toBeInstanceOf(NetworkError);
      });

      test("a transport that goes away is lost to the other side, and sends fail", async () => {
        const [near, far] = await links(ignore, { ...ignore, handle: () => new Promise(() => {}) });
        const sends = Array.from({ length: 20 }, () =>
          near.send({ kind: FrameKind.activation }, new Uint8Array(1 << 20)),
        );
        await open[1]?.close();
        expect(await soon(near.ended)).toEqual({ kind: "lost" });
        await soon(far.ended);
        await expect(soon(Promise.all(sends))).rejects.toBeInstanceOf(NetworkError);
      });

      test("abort reaches the peer with its reason", async () => {
        const [near, far] = await links(ignore, ignore);
        near.abort("evicted from view 2");
        expect(await soon(near.ended)).toEqual({ kind: "refused", by: "us", reason: "evicted from view 2" });
        expect(await soon(far.ended)).toEqual({ kind: "refused", by: "peer", reason: "evicted from view 2" });
      });

      test("a peer that never says GOODBYE is lost after the limit", async () => {
        const { link } = await hostile(ignore);
        expect(await soon(link.close(50))).toEqual({ kind: "lost" });
      });

      test("sends after close fail", async () => {
        const [near] = await links(ignore, ignore);
        const closed = near.close();
        await expect(near.send({ kind: FrameKind.token })).rejects.toBeInstanceOf(NetworkError);
        expect(await soon(closed)).toEqual({ kind: "goodbye" });
      });

      test.each([
        [
          "throws",
          () => {
            throw new Error("bug");
          },
        ],
        ["rejects", () => Promise.reject(new Error("bug"))],
      ])("a handler that %s ends the link, not the process", async (_name, handle: () => void | Promise<void>) => {
        const [near, far] = await links(ignore, { destination: fresh, handle });
        void near.send({ kind: FrameKind.token }, new Uint8Array(10));
        expect(await soon(far.ended)).toMatchObject({ kind: "failed", error: { message: "bug" } });
        expect(await soon(near.ended)).toEqual({ kind: "refused", by: "peer", reason: "the receiver failed" });
      });

      test("the receiver's plan refuses a frame before any memory is taken", async () => {
        const [near, far] = await links(ignore, {
          ...ignore,
          destination: (header) => {
            throw new ProtocolError(`this edge expects [8, 10], not [${header.shape.join(", ")}]`, "none");
          },
        });
        void near.send({ kind: FrameKind.activation, dtype: DataType.float32, shape: [2, 2] }, new Uint8Array(16));
        expect(await soon(far.ended)).toMatchObject({ kind: "refused", by: "us" });
        expect(await soon(near.ended)).toEqual({
          kind: "refused",
          by: "peer",
          reason: "this edge expects [8, 10], not [2, 2]",
        });
      });
    });

    describe("a hostile peer is refused, and the next one is served", () => {
      const token = (sequence: number): Buffer => frameBytes(FrameKind.token, sequence, new Uint8Array(100).fill(5));
      const flip = (bytes: Buffer, offset: number): Buffer => {
        bytes[offset] = (bytes[offset] ?? 0) ^ 0x10;
        return bytes;
      };
      test.each<[string, () => Uint8Array, string]>([
        ["a corrupt header", () => flip(token(1), 20), "checksum"],
        ["a corrupt payload", () => flip(token(1), 120), "checksum"],
        ["garbage", () => pattern(5_000, 1), "magic"],
        ["a wrong sequence", () => token(2), "frame 2 came where frame 1 was due"],
        ["a repeated frame", () => Buffer.concat([token(1), token(1)]), "frame 1 came where frame 2 was due"],
        ["a second hello", () => frameBytes(FrameKind.hello, 1, Buffer.from("{}")), "came where it cannot"],
        ["a grant for nothing", () => frameBytes(FrameKind.grant, 1, NONE, 1), "outstanding"],
        [
          "a frame after GOODBYE",
          () => Buffer.concat([token(1), frameBytes(FrameKind.goodbye, 2, NONE), token(3)]),
          "came where it cannot",
        ],
      ])("%s", async (_name, bytes, reason) => {
        const { stream, link, next } = await hostile({ ...ignore, handle: () => new Promise(() => {}) });
        stream.write(bytes(), "given");
        expect(await soon(link.ended)).toMatchObject({
          kind: "refused",
          by: "us",
          reason: expect.stringContaining(reason),
        });
        expect(Buffer.from(await next()).toString()).toContain(reason);
        await soon(drain(stream), "the end of the stream");
        await serves(open[1]);
      });

      test("more than was granted", async () => {
        const { stream, link } = await hostile({
          ...ignore,
          windowBytes: 64 * 1024,
          handle: () => new Promise(() => {}),
        });
        for (let sequence = 1; sequence < 5; sequence++)
          write(stream, FrameKind.token, sequence, new Uint8Array(30_000));
        expect(await soon(link.ended)).toMatchObject({
          kind: "refused",
          by: "us",
          reason: expect.stringContaining("exceeds the window"),
        });
        await soon(drain(stream), "the end of the stream");
        await serves(open[1]);
      });

      /** A peer of good will is served by the same transport. */
      const serves = async (listener: Transport | undefined): Promise<void> => {
        if (listener === undefined) throw new Error("no listener");
        await listener.handle("/ringtmp/after/1", (stream) => {
          void Link.accept(stream, () => ({ kind: "accept", answer: {}, receiver: ignore }));
        });
        const stream = await soon((await create()).dial(listener.addresses, "/ringtmp/after/1"));
        const { link } = await soon(Link.open(stream, {}, ignore));
        await soon(link.send({ kind: FrameKind.token }, new Uint8Array(100_000)));
        expect(await soon(link.close())).toEqual({ kind: "goodbye" });
      };
    });
  });
}
