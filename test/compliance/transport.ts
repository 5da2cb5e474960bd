/** @file What every transport and the link over it must do. One suite, run for each transport. */
import { afterEach, describe, expect, test } from "vitest";
import { NetworkError, ProtocolError, UsageError } from "../../src/types/errors.ts";
import type { Hello } from "../../src/net/hello.ts";
import { Link } from "../../src/net/link.ts";
import type { Decision, Receiver } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import { DataType, FrameKind, frameFields } from "../../src/wire/header.ts";
import type { FrameKind as Kind } from "../../src/wire/header.ts";

export interface TransportFactory {
  readonly name: string;
  /** A fresh transport that the others of this factory reach. */
  create(): Promise<Transport>;
  /** An address of the right form where nobody listens. */
  readonly nowhere: string;
}

const PROTOCOL = "/ringtmp/test/1";
const LIMIT_MS = 10_000;

/** Fails the test, rather than hanging it. */
const soon = <T>(promise: Promise<T>, what = "a promise"): Promise<T> =>
  within(promise, LIMIT_MS, () => {
    throw new Error(`${what} took more than ${LIMIT_MS} ms`);
  });

/** Bytes that differ by place and by frame. */
const pattern = (length: number, seed: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = (index * 31 + (index >> 8) * 7 + seed * 101) & 0xff;
  return bytes;
};

const fresh: Receiver["destination"] = (header) => new Uint8Array(header.payloadBytes);
const ignore: Receiver = { destination: fresh, handle: () => {} };

export function transportCompliance(factory: TransportFactory): void {
  describe(factory.name, () => {
    const open: Transport[] = [];
    const create = async (): Promise<Transport> => {
      const transport = await factory.create();
      open.push(transport);
      return transport;
    };
    afterEach(async () => {
      await soon(Promise.all(open.splice(0).map((transport) => transport.close())), "closing the transports");
    });

    /** Two ends of a raw stream. */
    const streams = async (): Promise<[near: ByteStream, far: ByteStream]> => {
      const [dialler, listener] = [await create(), await create()];
      const arrived = Promise.withResolvers<ByteStream>();
      await listener.handle(PROTOCOL, arrived.resolve);
      const near = await soon(dialler.dial(listener.addresses, PROTOCOL), "dial");
      return [near, await soon(arrived.promise, "the stream's arrival")];
    };

    /** Two ends of a link. */
    const links = async (near: Receiver, far: Receiver): Promise<[near: Link, far: Link]> => {
      const [dialled, arrived] = await streams();
      const accepted = Link.accept(arrived, () => ({ kind: "accept", answer: {}, receiver: far }));
      const { link } = await soon(Link.open(dialled, {}, near), "open");
      const other = await soon(accepted, "accept");
      if (other === undefined) throw new Error("refused");
      return [link, other];
    };

    /** A link at the far end, and a raw stream at the near end that has said a valid hello. */
    const hostile = async (
      receiver: Receiver,
    ): Promise<{ stream: ByteStream; link: Link; next: () => Promise<Uint8Array> }> => {
      const [stream, arrived] = await streams();
      const accepted = Link.accept(arrived, () => ({ kind: "accept", answer: {}, receiver }));
      write(stream, FrameKind.hello, 0, Buffer.from("{}"), 1 << 23);
      const link = await soon(accepted, "accept");
      if (link === undefined) throw new Error("refused");
      const next = async (): Promise<Uint8Array> => {
        const result = await soon(stream.source[Symbol.asyncIterator]().next(), "an answer");
        return result.done === true ? new Uint8Array() : result.value.subarray();
      };
      await next();
      return { stream, link, next };
    };

    describe("streams", () => {
      test("carry bytes in order, both ways, and give lent memory back only when it has left", async () => {
        const [near, far] = await streams();
        const sizes = [1, 100, 65_536, 65_537, 300_000, 2_000_000, 5, 1_000_000];
        const send = async (stream: ByteStream): Promise<void> => {
          for (const [seed, size] of sizes.entries()) {
            const memory = pattern(size, seed);
            stream.write(memory, "lent");
            await stream.flushed();
            memory.fill(0xee);
          }
          await stream.close(LIMIT_MS);
        };
        const receive = async (stream: ByteStream): Promise<Buffer> => {
          const parts: Uint8Array[] = [];
          stream.unreadBytesMax = 1 << 26;
          for await (const chunk of stream.source) parts.push(chunk.slice());
          return Buffer.concat(parts);
        };
        const expected = Buffer.concat(sizes.map((size, seed) => pattern(size, seed)));
        const results = await soon(Promise.all([receive(near), receive(far), send(near), send(far)]));
        expect(results[0].equals(expected)).toBe(true);
        expect(results[1].equals(expected)).toBe(true);
      });

      test("know their peers", async () => {
        const [dialler, listener] = [await create(), await create()];
        const arrived = Promise.withResolvers<ByteStream>();
        await listener.handle(PROTOCOL, arrived.resolve);
        const near = await dialler.dial(listener.addresses, PROTOCOL);
        expect(near.remotePeer).toBe(listener.peerId);
        expect((await soon(arrived.promise)).remotePeer).toBe(dialler.peerId);
        expect(listener.addresses.every((address) => address.endsWith(`/p2p/${listener.peerId}`))).toBe(true);
      });

      test("end when the other side aborts: waiters fail, the source ends", async () => {
        const [near, far] = await streams();
        near.write(pattern(10, 0), "given");
        far.abort(new Error("test"));
        await soon(drain(near), "the end of the source");
        await expect(soon(near.flushed())).rejects.toBeInstanceOf(NetworkError);
        expect(() => near.write(new Uint8Array(1), "given")).toThrow(NetworkError);
      });

      test("abort a sender who ignores the reader's bound", async () => {
        const [near, far] = await streams();
        far.unreadBytesMax = 100_000;
        for (let count = 0; count < 10; count++) near.write(new Uint8Array(50_000), "given");
        await expect(soon(near.ready().then(() => drain(near)))).resolves.toBeUndefined();
        await expect(soon(drain(far))).rejects.toBeInstanceOf(ProtocolError);
      });
    });

    describe("dialling", () => {
      test("an address where nobody listens says so", async () => {
        const dialler = await create();
        const failure = dialler.dial(factory.nowhere, PROTOCOL, { signal: AbortSignal.timeout(5_000) });
        await expect(soon(failure)).rejects.toMatchObject({
          name: "NetworkError",
          message: expect.stringMatching(/cannot reach/),
        });
      });

      test("another peer at that address says so", async () => {
        const [dialler, listener, third] = [await create(), await create(), await create()];
        await listener.handle(PROTOCOL, () => {});
        const address = listener.addresses[0]?.replace(`/p2p/${listener.peerId}`, `/p2p/${third.peerId}`) ?? "";
        await expect(soon(dialler.dial(address, PROTOCOL))).rejects.toThrow("another peer answers");
      });

      test("a protocol that the peer does not speak says so", async () => {
        const [dialler, listener] = [await create(), await create()];
        await expect(soon(dialler.dial(listener.addresses, "/other/1"))).rejects.toThrow("does not speak /other/1");
      });

      test("what is no address is a usage error", async () => {
        await expect((await create()).dial("hello", PROTOCOL)).rejects.toBeInstanceOf(UsageError);
      });

      test("after closing, it fails", async () => {
        const [dialler, listener] = [await create(), await create()];
        await dialler.close();
        await expect(soon(dialler.dial(listener.addresses, PROTOCOL))).rejects.toThrow("has left the network");
      });
    });

    describe("hello", () => {
      test("both sides learn what the other said", async () => {
        const [near, far] = await streams();
        let heard: Hello = {};
        const accepted = Link.accept(far, (hello): Decision => {
          heard = hello;
          return { kind: "accept", answer: { role: "successor" }, receiver: ignore };
        });
        const { answer } = await soon(Link.open(near, { job: "7", edge: 3 }, ignore));
        await soon(accepted);
        expect(heard).toEqual({ job: "7", edge: 3 });
        expect(answer).toEqual({ role: "successor" });
      });

      test("a refusal reaches the dialler with its reason", async () => {
        const [near, far] = await streams();
        const accepted = Link.accept(far, async () => ({ kind: "refuse", reason: "view 3 is over" }));
        await expect(soon(Link.open(near, {}, ignore))).rejects.toThrow("refuses: view 3 is over");
        expect(await soon(accepted)).toBeUndefined();
      });

      test("no hello in time ends the stream", async () => {
        const [near, far] = await streams();
        await expect(soon(Link.accept(far, () => ({ kind: "refuse", reason: "" }), 30))).rejects.toThrow(
          "does not say hello",
        );
        await soon(drain(near), "the end of the stream");
      });

      test("no answer in time ends the stream", async () => {
        const [near, far] = await streams();
        await expect(soon(Link.open(near, {}, ignore, 30))).rejects.toBeInstanceOf(NetworkError);
        await soon(drain(far), "the end of the stream");
      });

      test("what is no hello is refused", async () => {
        const [near, far] = await streams();
        const accepted = Link.accept(far, () => ({ kind: "refuse", reason: "" }));
        write(near, FrameKind.hello, 0, Buffer.from("[1"), 1 << 23);
        await expect(soon(accepted)).rejects.toThrow("malformed hello");
        await soon(drain(near), "the end of the stream");
      });

      test("a frame before the hello is refused", async () => {
        const [near, far] = await streams();
        const accepted = Link.accept(far, () => ({ kind: "refuse", reason: "" }));
        write(near, FrameKind.token, 0, new Uint8Array(5));
        await expect(soon(accepted)).rejects.toThrow("before the hello");
      });

      test("a receiver that cannot decide fails the accept, and the dialler hears of it", async () => {
        const [near, far] = await streams();
        const accepted = Link.accept(far, () => {
          throw new Error("bug");
        });
        accepted.catch(() => {});
        await expect(soon(Link.open(near, {}, ignore))).rejects.toBeInstanceOf(NetworkError);
        await expect(soon(accepted)).rejects.toThrow("bug");
      });
    });

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
        let handled = 0;
        const [near, far] = await links(ignore, {
          destination: fresh,
          windowBytes,
          handle: () => (handled++, new Promise<void>((resolve) => release.push(resolve))),
        });
        const payload = new Uint8Array(32 * 1024);
        const sends = Array.from({ length: 64 }, () => near.send({ kind: FrameKind.token }, payload));
        await soon(sends[5] ?? Promise.reject(new Error("no sixth")), "what fits into the window");
        await echoOf(far, near);
        expect(near.sent.bytes).toBeLessThan(windowBytes + 4096);
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

const NONE = new Uint8Array(0);

const frameBytes = (kind: Kind, sequence: number, payload: Uint8Array, grantedBytes = 0, value = Number.NaN): Buffer =>
  Buffer.concat(encodeFrame(frameFields({ kind, value }), { sequence, grantedBytes }, payload));

function write(stream: ByteStream, kind: Kind, sequence: number, payload: Uint8Array, value = Number.NaN): void {
  stream.write(frameBytes(kind, sequence, payload, 0, value), "given");
}

/** Reads to the end of the stream. */
async function drain(stream: ByteStream): Promise<void> {
  for await (const _chunk of stream.source);
}

/** Resolves when what either side wrote before has certainly arrived: a frame has gone there. */
async function echoOf(from: Link, to: Link): Promise<void> {
  const before = to.received.messages;
  await soon(from.send({ kind: FrameKind.control }, new Uint8Array(1)));
  while (to.received.messages === before) await new Promise((resolve) => setImmediate(resolve));
}
