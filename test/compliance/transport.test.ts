/** @file The compliance suite, for every transport. */
import { MemoryNetwork } from "../../src/net/memory.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import type { TransportFactory } from "./ends.ts";
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

for (const factory of factories) {
  transportCompliance(factory);
  linkCompliance(factory);
}
