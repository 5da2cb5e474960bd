/**
 * @file One process of the slow-consumer test: `consumer` listens and takes a hundred times as long for each frame as its way
 * takes, `producer ADDRESS` sends as fast as it may, for a while. Each tells by how much its resident memory grew at most.
 */
import { setTimeout as delay } from "node:timers/promises";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import type { Receiver } from "../../src/net/link.ts";
import { FrameKind } from "../../src/wire/header.ts";

const PROTOCOL = "/ringtmp/test/1";
const FRAME_BYTES = 256 * 1024;
/** What an unbounded queue would hold: 400 MiB, sent within two seconds. */
const FRAME_COUNT_MAX = 1600;
/** A frame's way takes about 1 ms. */
const HANDLING_MS = 100;
const SENDING_MS = 6_000;

/** Each frame has memory of its own, so that frames which wait for the handler show. */
const destination: Receiver["destination"] = (header) => new Uint8Array(header.payloadBytes).fill(1);
let startBytes = 0;
let peakBytes = 0;

const begin = (): void => {
  startBytes = process.memoryUsage.rss();
  setInterval(() => (peakBytes = Math.max(peakBytes, process.memoryUsage.rss())), 10).unref();
};

const tell = (messages: number): void => {
  process.send?.({ growthBytes: peakBytes - startBytes, messages });
};

async function consume(): Promise<void> {
  const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"] });
  await transport.handle(PROTOCOL, (stream) => void serve(stream));
  process.send?.({ addresses: transport.addresses });
}

async function serve(stream: ByteStream): Promise<void> {
  const handle = (): Promise<void> => delay(HANDLING_MS);
  const link = await Link.accept(stream, () => ({ kind: "accept", answer: {}, receiver: { destination, handle } }));
  begin();
  await link?.ended;
  tell(link?.received.messages ?? 0);
}

async function produce(addresses: readonly string[]): Promise<void> {
  const transport = await createLibp2pTransport({ listen: [] });
  const receiver: Receiver = { destination, handle: () => {} };
  const { link } = await Link.open(await transport.dial(addresses, PROTOCOL), {}, receiver);
  begin();
  const isOver = delay(SENDING_MS).then(() => true);
  // Each frame has memory of its own, which is free for the collector once it is sent.
  for (let count = 0; count < FRAME_COUNT_MAX; count++) {
    const sent = link.send({ kind: FrameKind.activation }, new Uint8Array(FRAME_BYTES)).then(() => false);
    if (await Promise.race([sent, isOver])) break;
  }
  tell(link.sent.messages);
  link.abort("the test is over");
}

if (import.meta.main) {
  process.on("disconnect", () => process.exit());
  const [role, ...addresses] = process.argv.slice(2);
  await (role === "consumer" ? consume() : produce(addresses));
}
