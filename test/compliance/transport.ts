/** @file What every transport and the hello over it must do. One suite, run for each transport. */
import { describe, expect, test } from "vitest";
import { NetworkError, ProtocolError, UsageError } from "../../src/types/errors.ts";
import type { Hello } from "../../src/net/hello.ts";
import { Link } from "../../src/net/link.ts";
import type { Decision } from "../../src/net/link.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { DialRefusedError } from "../../src/net/net-errors.ts";
import {
  compliance,
  drain,
  ignore,
  LIMIT_MS,
  NONE,
  pattern,
  PROTOCOL,
  soon,
  write,
  type TransportFactory,
} from "./ends.ts";

export function transportCompliance(factory: TransportFactory): void {
  compliance(factory, ({ create, streams }) => {
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

      test("end at once where a peer is disconnected; other peers' do not, and it can be dialled again", async () => {
        const near = await create();
        const listen = async () => {
          const far = await create();
          const arrived: ByteStream[] = [];
          await far.handle(PROTOCOL, (stream) => void arrived.push(stream));
          return { far, arrived, stream: await near.dial(far.addresses, PROTOCOL) };
        };
        const [one, other] = [await listen(), await listen()];
        near.disconnect(one.far.peerId);
        await soon(Promise.all([one.stream, ...one.arrived].map(drain)), "the end of both sides");
        expect(() => one.stream.write(new Uint8Array(1), "given")).toThrow(NetworkError);
        other.stream.write(pattern(10, 0), "given");
        await soon(other.stream.flushed());
        const again = await near.dial(one.far.addresses, PROTOCOL);
        again.write(pattern(10, 0), "given");
        await soon(again.flushed());
      });

      test("ask a writer to wait above its mark, which bulk sets lower", async () => {
        const [near, far] = await streams();
        far.unreadBytesMax = 1 << 24;
        expect([near.write(new Uint8Array(1 << 20), "given"), near.queuedBytesMark]).toEqual([true, 1 << 22]);
        await soon(near.flushed());
        near.queuedBytesMark = 1000;
        expect(near.write(new Uint8Array(1 << 20), "given")).toBe(false);
        await soon(near.ready());
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
      test("an address where nobody listens refuses", async () => {
        const dialler = await create();
        const failure = dialler.dial(factory.nowhere, PROTOCOL, { signal: AbortSignal.timeout(5_000) });
        await expect(soon(failure)).rejects.toMatchObject({
          name: "DialRefusedError",
          message: expect.stringMatching(/cannot reach .*: nothing listens there/),
        });
      });

      test("a peer that was reached and has gone refuses", async () => {
        const [dialler, listener] = [await create(), await create()];
        await listener.handle(PROTOCOL, () => {});
        const { addresses } = listener;
        const stream = await soon(dialler.dial(addresses, PROTOCOL));
        await listener.close();
        await soon(drain(stream), "the end of the stream");
        await expect(soon(dialler.dial(addresses, PROTOCOL))).rejects.toBeInstanceOf(DialRefusedError);
      });

      test("a dial that has no time left is no refusal", async () => {
        const [dialler, listener] = [await create(), await create()];
        await listener.handle(PROTOCOL, () => {});
        const failure = dialler.dial(listener.addresses, PROTOCOL, { signal: AbortSignal.abort() });
        await expect(soon(failure)).rejects.toMatchObject({
          name: "NetworkError",
          message: expect.stringMatching(/no answer in time/),
        });
      });

      test("another peer at that address says so", async () => {
        const [dialler, listener, third] = [await create(), await create(), await create()];
        await listener.handle(PROTOCOL, () => {});
        const address = listener.addresses[0]?.replace(`/p2p/${listener.peerId}`, `/p2p/${third.peerId}`) ?? "";
        await expect(soon(dialler.dial(address, PROTOCOL))).rejects.toMatchObject({
          name: "DialRefusedError",
          message: expect.stringMatching(/another peer answers/),
        });
      });

      test("a protocol that the peer does not speak says so", async () => {
        const [dialler, listener] = [await create(), await create()];
        await expect(soon(dialler.dial(listener.addresses, "/other/1"))).rejects.toMatchObject({
          name: "NetworkError",
          message: expect.stringMatching(/does not speak \/other\/1$/),
        });
      });

      test("streams share a connection or have one of their own, in whatever order and at once", async () => {
        const [dialler, listener] = [await create(), await create()];
        const arrived: ByteStream[] = [];
        await listener.handle(PROTOCOL, (stream) => void arrived.push(stream));
        const kinds = [{}, { ownConnection: true }, {}, { ownConnection: true }] as const;
        const dialled = await soon(Promise.all(kinds.map((kind) => dialler.dial(listener.addresses, PROTOCOL, kind))));
        for (const [index, stream] of dialled.entries()) stream.write(Uint8Array.of(index), "given");
        await soon(Promise.all(dialled.map((stream) => stream.flushed())));
        while (arrived.length < kinds.length) await new Promise((resolve) => setImmediate(resolve));
        const heard = arrived.map(async ({ source }) => (await source[Symbol.asyncIterator]().next()).value?.get(0));
        expect(new Set(await soon(Promise.all(heard)))).toEqual(new Set([0, 1, 2, 3]));
        dialled[1]?.abort(new Error("test"));
        for (const stream of [dialled[0], dialled[2], dialled[3]]) expect(stream?.write(NONE, "given")).toBe(true);
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
  });
}
