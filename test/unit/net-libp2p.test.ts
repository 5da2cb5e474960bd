/** @file What only the libp2p transport does: identities from seeds, admission, ports, addresses of the network, what a refusal is. */
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { afterEach, describe, expect, test } from "vitest";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import type { Libp2pTransportInit } from "../../src/net/libp2p.ts";
import type { Transport } from "../../src/net/transport.ts";
import { NetworkError, UsageError } from "../../src/types/errors.ts";

const LOCAL = "/ip4/127.0.0.1/tcp/0";
const PROTOCOL = "/ringtmp/test/1";
const open: Transport[] = [];
const servers: Server[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await Promise.all(open.splice(0).map((transport) => transport.close()));
});

async function create(init: Partial<Libp2pTransportInit> = {}): Promise<Transport> {
  const transport = await createLibp2pTransport({ listen: [LOCAL], ...init });
  open.push(transport);
  return transport;
}

test("a seed fixes the identity", async () => {
  const seed = new Uint8Array(32).fill(7);
  const [first, second, other] = [
    await create({ privateKeySeed: seed }),
    await create({ privateKeySeed: seed }),
    await create(),
  ];
  expect(first.peerId).toBe(second.peerId);
  expect(other.peerId).not.toBe(first.peerId);
});

test("a port in use says so", async () => {
  const first = await create();
  const port = /tcp\/(\d+)/.exec(first.addresses[0] ?? "")?.[1];
  await expect(create({ listen: [`/ip4/127.0.0.1/tcp/${port}`] })).rejects.toMatchObject({
    name: "NetworkError",
    message: `port ${port} is in use`,
    remedy: expect.stringContaining("another port"),
  });
});

test("an address of another machine cannot be listened on", async () => {
  await expect(create({ listen: ["/ip4/203.0.113.7/tcp/0"] })).rejects.toThrow(/cannot listen on .*203\.0\.113\.7/);
  await expect(create({ listen: ["localhost"] })).rejects.toBeInstanceOf(UsageError);
});

test("listening everywhere prints the network's addresses too", async () => {
  const { addresses } = await create({ listen: ["/ip4/0.0.0.0/tcp/0"] });
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  for (const { address } of own.filter(({ family }) => family === "IPv4")) {
    expect(addresses.some((printed) => printed.startsWith(`/ip4/${address}/tcp/`))).toBe(true);
  }
});

test("a peer that is not allowed is turned away, others are served", async () => {
  const [welcome, stranger] = [await create(), await create()];
  const listener = await create({ allow: (peerId) => peerId === welcome.peerId });
  await listener.handle(PROTOCOL, () => {});
  await expect(stranger.dial(listener.addresses, PROTOCOL)).rejects.toThrow("may not admit this node");
  expect((await welcome.dial(listener.addresses, PROTOCOL)).remotePeer).toBe(listener.peerId);
});

test("peers that share no encryption do not talk", async () => {
  const [first, second] = [await create({ encryption: "tls" }), await create({ encryption: "noise" })];
  await expect(first.dial(second.addresses, PROTOCOL)).rejects.toBeInstanceOf(NetworkError);
});

test("a dial of itself says so", async () => {
  const transport = await create();
  await expect(transport.dial(transport.addresses, PROTOCOL)).rejects.toThrow(/this node itself/);
});

describe("a dial of several addresses", () => {
  /** A port that takes connections and treats them so. */
  async function portWhere(connected: (socket: Socket) => void): Promise<number> {
    const server = createServer(connected);
    await once(server.listen(0, "127.0.0.1"), "listening");
    servers.push(server);
    return (server.address() as AddressInfo).port;
  }

  test.each<[string, boolean, (socket: Socket) => void, string]>([
    ["refuses where nothing listens at any", false, () => {}, "DialRefusedError"],
    ["does not refuse where one hangs up", true, (socket) => socket.destroy(), "NetworkError"],
    ["does not refuse where one is silent", true, (socket) => socket.resume(), "NetworkError"],
  ])("%s", async (_name, isOpen, connected, name) => {
    const [transport, other] = [await create(), await create()];
    const port = isOpen ? await portWhere(connected) : 1;
    for (const ports of [
      [1, port],
      [port, 1],
    ]) {
      const addresses = ports.map((at) => `/ip4/127.0.0.1/tcp/${at}/p2p/${other.peerId}`);
      const dialled = transport.dial(addresses, PROTOCOL, { signal: AbortSignal.timeout(300) });
      await expect(dialled).rejects.toMatchObject({ name });
    }
  });

  test("refuses where another peer answers at one and nothing at the other", async () => {
    const [transport, other, gone] = [await create(), await create(), await create()];
    const addresses = [1, Number(/tcp\/(\d+)/.exec(other.addresses[0] ?? "")?.[1])].map(
      (port) => `/ip4/127.0.0.1/tcp/${port}/p2p/${gone.peerId}`,
    );
    await expect(transport.dial(addresses, PROTOCOL)).rejects.toMatchObject({
      name: "DialRefusedError",
      message: expect.stringMatching(/another peer answers/),
    });
  });
});

test("a dial that nobody answers ends with its signal", async () => {
  const transport = await create();
  const signal = AbortSignal.abort();
  await expect(transport.dial("/ip4/127.0.0.1/tcp/9", PROTOCOL, { signal })).rejects.toThrow("cannot reach");
});
