/** @file The compliance suite over emulated links, and over a transport whose streams all pass unshaped. */
import { describe } from "vitest";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { shapedTransport } from "../../src/net/shaped.ts";
import { PROTOCOL, type TransportFactory } from "./ends.ts";
import { linkCompliance } from "./links.ts";
import { transportCompliance } from "./transport.ts";

const SHAPE = { rateBytesPerMs: 125_000, latencyMs: 2 };
const NOBODY = "12D3KooWAeGRx2ZnSjQeSe55s514kargZLFVG637pP4JegntDDs8";

const network = new MemoryNetwork();
let memberCount = 0;

const factories: readonly TransportFactory[] = [
  {
    name: "memory, shaped",
    create: async () => shapedTransport(network.join(`peer${memberCount++}`), { ...SHAPE, protocols: [PROTOCOL] }),
    nowhere: "/memory/nobody/p2p/nobody",
  },
  {
    name: "memory, another protocol shaped",
    create: async () => shapedTransport(network.join(`peer${memberCount++}`), { ...SHAPE, protocols: ["/other/1"] }),
    nowhere: "/memory/nobody/p2p/nobody",
  },
  {
    name: "libp2p, shaped",
    create: async () => {
      const inner = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption: "tls" });
      return shapedTransport(inner, { ...SHAPE, protocols: [PROTOCOL] });
    },
    nowhere: `/ip4/127.0.0.1/tcp/1/p2p/${NOBODY}`,
  },
];

describe("emulated links", () => {
  for (const factory of factories) {
    transportCompliance(factory);
    linkCompliance(factory);
  }
});
