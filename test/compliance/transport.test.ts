/** @file The compliance suite, for every transport. */
import { expect, test } from "vitest";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { selfDialling } from "../../src/net/self-dial.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { pattern, PROTOCOL, soon, type TransportFactory } from "./ends.ts";
import { linkCompliance } from "./links.ts";
import { transportCompliance } from "./transport.ts";

const LISTEN = ["/ip4/127.0.0.1/tcp/0"];
const NOBODY = "12D3KooWAeGRx2ZnSjQeSe55s514kargZLFVG637pP4JegntDDs8";

const factories: TransportFactory[] = [];
const network = new MemoryNetwork();
let memberCount = 0;
factories.push({
  name: "memory",
  create: async () => network.join(`peer${memberCount++}`),
  nowhere: "/memory/nobody/p2p/nobody",
});

for (const encryption of ["tls", "noise"] as const) {
  factories.push({
    name: `libp2p, TCP and ${encryption}`,
    create: () => createLibp2pTransport({ listen: LISTEN, encryption }),
    nowhere: `/ip4/127.0.0.1/tcp/1/p2p/${NOBODY}`,
  });
}

factories.push({
  name: "a transport that may dial itself",
  create: async () => selfDialling(network.join(`self${memberCount++}`)),
  nowhere: "/memory/nobody/p2p/nobody",
});
/** One process hosts both ends; libp2p does not dial itself. */
test("libp2p that may dial itself talks to itself over memory, and ends with its close", async () => {
  const transport = selfDialling(await createLibp2pTransport({ listen: LISTEN }));
  const arrived = Promise.withResolvers<ByteStream>();
  await transport.handle(PROTOCOL, arrived.resolve);
  const near = await soon(transport.dial(transport.addresses, PROTOCOL), "dial");
  const far = await soon(arrived.promise, "the stream's arrival");
  expect([near.remotePeer, far.remotePeer]).toEqual([transport.peerId, transport.peerId]);
  near.write(pattern(1000, 1), "given");
  const { value } = await soon(far.source[Symbol.asyncIterator]().next(), "the bytes");
  expect(value?.subarray()).toEqual(pattern(1000, 1));
  await soon(transport.close(), "close");
  expect(() => near.write(pattern(1, 1), "given")).toThrow(/ended|closed/);
});

for (const factory of factories) {
  transportCompliance(factory);
  linkCompliance(factory);
}
