/**
 * @file The receiving process of the network benchmark. It listens three times: raw TCP, a bare libp2p stream, a link; and
 * answers each batch with one byte or frame. On the message "cpu" it tells its CPU time.
 */
import { createServer } from "node:net";
import { createLibp2p } from "libp2p";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { yamux } from "@libp2p/yamux";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import { FrameKind } from "../../src/wire/header.ts";

export const PROTOCOL = "/ringtmp/bench/1";
const MIB = 1024 * 1024;
export const STREAM_OPTIONS = {
  maxStreamWindowSize: 4 * MIB,
  maxReadBufferLength: 8 * MIB,
  maxWriteBufferLength: 256 * MIB,
};

/** Counts a batch: its first eight bytes announce its size. */
class Batch {
  #leftBytes = 0;

  /** @returns true at the end of a batch */
  take(bytes: Buffer): boolean {
    if (this.#leftBytes === 0) this.#leftBytes = Number(bytes.readBigUInt64LE());
    this.#leftBytes -= bytes.byteLength;
    return this.#leftBytes === 0;
  }
}

async function main(): Promise<void> {
  const server = createServer({ noDelay: true }, (socket) => {
    const batch = new Batch();
    socket.on("data", (bytes: Buffer) => batch.take(bytes) && socket.write("."));
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const bare = await createLibp2p({
    addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] },
    transports: [tcp()],
    connectionEncrypters: [tls()],
    streamMuxers: [yamux({ streamOptions: STREAM_OPTIONS })],
  });
  await bare.handle(PROTOCOL, (stream) => {
    const batch = new Batch();
    stream.addEventListener("message", ({ data }) => {
      for (const part of data instanceof Uint8Array ? [data] : data) {
        if (batch.take(Buffer.from(part.buffer, part.byteOffset, part.byteLength))) stream.send(new Uint8Array(1));
      }
    });
  });
  const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption: "tls" });
  const memory = new Uint8Array(64 * MIB);
  await transport.handle(PROTOCOL, (stream) => {
    void Link.accept(stream, () => ({
      kind: "accept",
      answer: {},
      receiver: {
        destination: (header) => memory.subarray(0, header.payloadBytes),
        handle: ({ header }, link) => {
          // The last frame of a batch has a step of 1.
          if (header.step === 1) void link.send({ kind: FrameKind.token });
        },
      },
    }));
  });
  process.on("message", (message) => {
    if (message === "cpu") process.send?.({ cpu: process.cpuUsage() });
  });
  process.on("disconnect", () => process.exit());
  const address = server.address();
  process.send?.({
    port: typeof address === "object" ? address?.port : undefined,
    bare: bare.getMultiaddrs().map(String),
    link: transport.addresses,
  });
}

if (import.meta.main) await main();
