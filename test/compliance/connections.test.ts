/** @file Which streams of libp2p share a connection, what one of its own is worth, and how soon a dead peer refuses. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { median } from "simple-statistics";
import { afterEach, describe, expect, test } from "vitest";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import type { Hello } from "../../src/net/hello.ts";
import { Link, type Decision, type Receiver } from "../../src/net/link.ts";
import { DialRefusedError } from "../../src/net/net-errors.ts";
import { BULK_BYTES_MARK, type ByteStream, type DialOptions, type Transport } from "../../src/net/transport.ts";
import { WINDOW_BYTES_DEFAULT } from "../../src/net/window.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { NarrowProxy, portOf } from "../helpers/narrow-proxy.ts";
import { drain, fresh, ignore, PROTOCOL, soon } from "./ends.ts";

const OWN: DialOptions = { ownConnection: true };
const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

async function create(): Promise<Transport> {
  const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption: "tls" });
  closing.push(() => transport.close());
  return transport;
}

async function proxyOf(transport: Transport, rateBytesPerMs?: number): Promise<[NarrowProxy, address: string]> {
  const proxy = await NarrowProxy.start(portOf(transport.addresses[0]), rateBytesPerMs);
  closing.push(() => proxy.close());
  return [proxy, proxy.in(transport.addresses[0] ?? "")];
}

/** Lets sockets move until the condition holds. */
async function until(condition: () => boolean): Promise<void> {
  for (const signal = AbortSignal.timeout(10_000); !condition();) {
    signal.throwIfAborted();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test("streams share a connection, dialled from either side; one that asks for its own shares with nobody", async () => {
  const [first, second] = [await create(), await create()];
  const arrived: ByteStream[] = [];
  for (const transport of [first, second]) await transport.handle(PROTOCOL, (stream) => void arrived.push(stream));
  const [toSecond, second2] = await proxyOf(second);
  const [toFirst, first2] = await proxyOf(first);
  const dial = async (from: Transport, to: string, options?: DialOptions): Promise<ByteStream> => {
    const count = arrived.length;
    const stream = await soon(from.dial(to, PROTOCOL, options));
    await until(() => arrived.length > count);
    return stream;
  };
  const own = await dial(first, second2, OWN);
  expect(toSecond.opened).toBe(1);
  await dial(second, first2);
  expect([toFirst.opened, toSecond.opened], "the other side keeps off it").toEqual([1, 1]);
  await dial(first, second2);
  expect([toFirst.opened, toSecond.opened], "the connection that the other side dialled is shared").toEqual([1, 1]);
  await dial(first, second2, OWN);
  await dial(second, first2);
  expect([toFirst.opened, toSecond.opened]).toEqual([1, 2]);
  await own.close(1_000);
  arrived[0]?.abort(new Error("test"));
  await until(() => toSecond.open === 1);
  expect(toFirst.open, "and ends with its stream").toBe(1);
});

test("dials at once end in one connection for those that share, and one for each of the others", async () => {
  const [dialler, listener] = [await create(), await create()];
  await listener.handle(PROTOCOL, () => {});
  const [proxy, address] = await proxyOf(listener);
  const kinds = [{}, OWN, {}, OWN, {}];
  await soon(Promise.all(kinds.map((kind) => dialler.dial(address, PROTOCOL, kind))));
  expect(proxy.opened).toBe(3);
});

describe("beside 64 MiB of bulk on a line of 20 MiB/s,", () => {
  const BULK_FRAME_BYTES = 256 * 1024;

  /** Two ends of the line. The far one answers to every frame of a link whose hello says so, and grants what it says. */
  async function narrow(): Promise<{ dial: (options?: DialOptions) => Promise<ByteStream> }> {
    const [near, far] = [await create(), await create()];
    await far.handle(PROTOCOL, (stream) => {
      const echo: Receiver["handle"] = (_frame, link) => link.send({ kind: FrameKind.control });
      const decide = (hello: Hello): Decision => {
        const receiver = hello["echoes"] === true ? { ...ignore, handle: echo } : ignore;
        const windowBytes = Number(hello["windowBytes"] ?? WINDOW_BYTES_DEFAULT);
        return { kind: "accept", answer: {}, receiver: { ...receiver, windowBytes } };
      };
      Link.accept(stream, decide).catch(() => {});
    });
    const [, address] = await proxyOf(far, 20 * 1024);
    return { dial: (options) => near.dial(address, PROTOCOL, options) };
  }

  /** Sends a frame and waits for its answer. */
  async function prober(stream: ByteStream, sizeBytes: number): Promise<() => Promise<number>> {
    let answered = Promise.withResolvers<void>();
    const receiver = { destination: fresh, handle: () => answered.resolve() };
    const { link } = await Link.open(stream, { echoes: true }, receiver);
    return async () => {
      answered = Promise.withResolvers();
      const startedMs = performance.now();
      void link.send({ kind: FrameKind.control }, new Uint8Array(sizeBytes));
      await soon(answered.promise, "an answer");
      return performance.now() - startedMs;
    };
  }

  /** Returns whether it still flows. */
  async function flow(stream: ByteStream, hello: Hello): Promise<() => boolean> {
    const { link } = await Link.open(stream, hello, ignore);
    const payload = new Uint8Array(BULK_FRAME_BYTES);
    let isFlowing = true;
    Promise.all(Array.from({ length: 256 }, () => link.send({ kind: FrameKind.replica }, payload))).then(
      () => (isFlowing = false),
      () => {},
    );
    return () => isFlowing;
  }

  async function medianMs(probe: () => Promise<number>, count: number): Promise<number> {
    await probe();
    const tookMs: number[] = [];
    for (let turn = 0; turn < count; turn += 1) tookMs.push(await probe());
    return median(tookMs);
  }

  test("a heartbeat on a connection of its own passes at once", { timeout: 60_000 }, async () => {
    const { dial } = await narrow();
    const [shared, own] = [await prober(await dial(), 64), await prober(await dial(OWN), 64)];
    const isFlowing = await flow(await dial(), {});
    const [sharedMs, ownMs] = [await medianMs(shared, 5), await medianMs(own, 15)];
    expect(isFlowing()).toBe(true);
    console.info(
      `a heartbeat: ${ownMs.toFixed(1)} ms on its own connection, ${sharedMs.toFixed(1)} ms on a shared one`,
    );
    expect(sharedMs).toBeGreaterThan(5 * ownMs);
  });

  // A ratio of two waits: another process on the machine may take its time in one of them alone.
  test("a data frame waits for what the bulk is granted, not for the bulk", { timeout: 60_000, retry: 2 }, async () => {
    const took: number[] = [];
    for (const givesWay of [false, true]) {
      const { dial } = await narrow();
      const data = await prober(await dial(), 16 * 1024);
      const bulk = await dial();
      if (givesWay) bulk.queuedBytesMark = BULK_BYTES_MARK;
      const isFlowing = await flow(bulk, givesWay ? { windowBytes: 2 * BULK_FRAME_BYTES } : {});
      took.push(await medianMs(data, 7));
      expect(isFlowing()).toBe(true);
    }
    const [beforeMs, afterMs] = took as [number, number];
    console.info(`16 KiB beside bulk: ${beforeMs.toFixed(1)} ms, ${afterMs.toFixed(1)} ms where bulk gives way`);
    expect(beforeMs).toBeGreaterThan(3 * afterMs);
  });
});

test("a peer that was killed refuses a dial, soon", { timeout: 60_000 }, async () => {
  const child = fork(fileURLToPath(new URL("slow-consumer-process.ts", import.meta.url)), ["consumer"], {
    execArgv: [],
  });
  closing.push(() => child.kill("SIGKILL"));
  type Said = [{ readonly addresses: readonly string[] }];
  const [{ addresses }] = (await once(child, "message", { signal: AbortSignal.timeout(30_000) })) as Said;
  const transport = await create();
  const stream = await soon(transport.dial(addresses, PROTOCOL));
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await soon(drain(stream), "the end of the stream");
  // Streams end a little before the system closes the port: who dials in between is hung up on.
  await soon(exited, "the process's end");
  const startedMs = performance.now();
  await expect(soon(transport.dial(addresses, PROTOCOL))).rejects.toBeInstanceOf(DialRefusedError);
  // A few milliseconds on an idle machine; what matters is that no time limit is waited for.
  expect(performance.now() - startedMs).toBeLessThan(2_000);
});
