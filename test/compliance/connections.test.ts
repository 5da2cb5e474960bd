/** @file Which streams of libp2p share a connection, what one of its own is worth, and how soon a dead peer refuses. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { median } from "simple-statistics";
import { afterEach, expect, test } from "vitest";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import { DialRefusedError } from "../../src/net/net-errors.ts";
import type { ByteStream, DialOptions, Transport } from "../../src/net/transport.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { NarrowProxy, portOf } from "../helpers/narrow-proxy.ts";
import { drain, fresh, ignore, PROTOCOL, soon } from "./ends.ts";

const MIB = 1024 * 1024;
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

test("behind 64 MiB of bulk, a heartbeat on a connection of its own passes at once", { timeout: 60_000 }, async () => {
  const [near, far] = [await create(), await create()];
  await far.handle(PROTOCOL, (stream) => {
    const echo = (_frame: unknown, link: Link): Promise<void> => link.send({ kind: FrameKind.control });
    const answers = (hello: object): boolean => "echo" in hello;
    void Link.accept(stream, (hello) => {
      return { kind: "accept", answer: {}, receiver: answers(hello) ? { destination: fresh, handle: echo } : ignore };
    });
  });
  const [, address] = await proxyOf(far, 20 * 1024);
  let answered = Promise.withResolvers<void>();
  const heartbeats = async (options: DialOptions): Promise<Link> => {
    const receiver = { destination: fresh, handle: () => answered.resolve() };
    return (await Link.open(await near.dial(address, PROTOCOL, options), { echo: true }, receiver)).link;
  };
  const roundTripMs = async (link: Link): Promise<number> => {
    answered = Promise.withResolvers();
    const startedMs = performance.now();
    void link.send({ kind: FrameKind.control }, new Uint8Array(64));
    await soon(answered.promise, "a heartbeat");
    return performance.now() - startedMs;
  };
  const { link: bulk } = await Link.open(await near.dial(address, PROTOCOL), {}, ignore);
  const [shared, own] = [await heartbeats({}), await heartbeats(OWN)];
  const flowing = Promise.all(
    Array.from({ length: 64 }, () => bulk.send({ kind: FrameKind.activation }, new Uint8Array(MIB))),
  );
  let isFlowing = true;
  flowing.then(
    () => (isFlowing = false),
    () => {},
  );
  const tookMs: { shared: number[]; own: number[] } = { shared: [], own: [] };
  await roundTripMs(shared);
  for (let turn = 0; turn < 5; turn += 1) {
    tookMs.shared.push(await roundTripMs(shared));
    for (let count = 0; count < 3; count += 1) tookMs.own.push(await roundTripMs(own));
  }
  expect(isFlowing).toBe(true);
  console.info(`heartbeat: ${median(tookMs.own).toFixed(1)} ms alone, ${median(tookMs.shared).toFixed(1)} ms shared`);
  expect(median(tookMs.shared)).toBeGreaterThan(5 * median(tookMs.own));
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
  child.kill("SIGKILL");
  await soon(drain(stream), "the end of the stream");
  const startedMs = performance.now();
  await expect(soon(transport.dial(addresses, PROTOCOL))).rejects.toBeInstanceOf(DialRefusedError);
  // A few milliseconds on an idle machine; what matters is that no time limit is waited for.
  expect(performance.now() - startedMs).toBeLessThan(2_000);
});
