/**
 * @file Canaries: pitfalls of the pinned libp2p that `src/net` works around. Each test asserts that the pitfall is still
 * there; one that fails says that upstream has repaired it, and that the work-around may go.
 */
import { yamux } from "@libp2p/yamux";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { createLibp2p } from "libp2p";
import type { Libp2p, Stream } from "@libp2p/interface";
import { afterEach, expect, test } from "vitest";

const PROTOCOL = "/canary/1";
const MIB = 1024 * 1024;
const nodes: Libp2p[] = [];

afterEach(async () => {
  await Promise.all(nodes.splice(0).map(async (node) => node.stop()));
});

async function create(): Promise<Libp2p> {
  const node = await createLibp2p({
    addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] },
    transports: [tcp()],
    connectionEncrypters: [tls()],
    streamMuxers: [yamux()],
  });
  nodes.push(node);
  return node;
}

async function streams(): Promise<[near: Stream, far: Stream]> {
  const [dialler, listener] = [await create(), await create()];
  const arrived = Promise.withResolvers<Stream>();
  await listener.handle(PROTOCOL, arrived.resolve);
  return [await dialler.dialProtocol(listener.getMultiaddrs(), PROTOCOL), await arrived.promise];
}

/** Lets sockets move until the condition holds, for at most ten seconds. */
async function until(condition: () => boolean): Promise<void> {
  for (const signal = AbortSignal.timeout(10_000); !condition();) {
    signal.throwIfAborted();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test("1: onDrain() resolves at once after the first drain, however much is queued", async () => {
  const [near, far] = await streams();
  far.addEventListener("message", () => {});
  const chunk = new Uint8Array(MIB);
  for (let count = 0; count < 8; count++) near.send(chunk);
  await near.onDrain();
  for (let count = 0; count < 64; count++) if (!near.send(chunk)) await near.onDrain();
  expect(near.writeBufferLength).toBeGreaterThan(32 * MIB);
});

test("3: pause() with the default window resets a stream that goes on sending", async () => {
  const [near, far] = await streams();
  let receivedBytes = 0;
  far.addEventListener("message", (event) => (receivedBytes += event.data.byteLength));
  const chunk = new Uint8Array(256 * 1024);
  const send = async (bytes: number): Promise<void> => {
    const goal = receivedBytes + bytes;
    for (let sent = 0; sent < bytes; sent += chunk.byteLength) near.send(chunk);
    await until(() => receivedBytes >= goal || far.status !== "open");
  };
  // Traffic makes the receive window grow beyond the read buffer of 4 MiB.
  for (let count = 0; count < 8; count++) await send(16 * MIB);
  far.pause();
  void send(32 * MIB);
  await until(() => far.status === "aborted");
  expect(far.status).toBe("aborted");
});

test("4: send() keeps a reference: memory reused at once arrives changed", async () => {
  const [near, far] = await streams();
  let received = new Uint8Array(0);
  far.addEventListener(
    "message",
    (event) => (received = new Uint8Array([...received, ...event.data.subarray().slice(0, 1)])),
  );
  let receivedBytes = 0;
  far.addEventListener("message", (event) => (receivedBytes += event.data.byteLength));
  const memory = new Uint8Array(8 * MIB).fill(1);
  near.send(memory);
  memory.fill(2);
  await until(() => receivedBytes === memory.byteLength);
  expect(received).toContain(2);
});
