/** @file A stream of copies that breaks: each end that sees it says so, as long as the view holds. */
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { Follower, ReplicaInbox } from "../../ring/runtime/replicas.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { severable, type SeverableTransport } from "../../src/net/severable.ts";
import { soon } from "../helpers/memory-ring.ts";

const JOB = "00c0ffee00c0ffee";
const [OWNER, HOLDER] = ["node-3", "node-5"];

const transports: SeverableTransport[] = [];
afterEach(async () => void (await Promise.all(transports.splice(0).map((transport) => transport.close()))));

/** Node 3's gradients go to node 5. `told`: which end saw a stream break, and of whom. */
async function followed() {
  const network = new MemoryNetwork();
  const [owner, holder] = [severable(network.join(OWNER)), severable(network.join(HOLDER))];
  transports.push(owner, holder);
  const told: string[] = [];
  const inbox = new ReplicaInbox();
  inbox.serve(JOB, () => Promise.resolve([]));
  await inbox.listen(holder);
  inbox.install({
    ...{ job: JOB, view: 1, restoreStep: 0, isSpare: false, memory: new EngineMemory(0), layoutsOf: () => [] },
    ...{ ownerOf: (peerId) => (peerId === OWNER ? 3 : undefined), mayReceive: () => true },
    ...{ gradient: () => {}, frontier: () => {} },
    ended: (node) => told.push(`holder: ${node}`),
  });
  inbox.tell(3, { version: 0, digests: [] });
  /** Resolves when the stream is open at both ends. */
  const follow = async (): Promise<Follower> => {
    const opened = Promise.withResolvers<void>();
    const follower = new Follower({
      ...{
        transport: owner,
        addresses: holder.addresses,
        job: JOB,
        view: 1,
        owner: 3,
        applied: () => opened.resolve(),
      },
      ended: () => told.push("owner"),
    });
    await soon(opened.promise, "the stream of copies");
    return follower;
  };
  return { owner, holder, inbox, follow, told };
}

/** What has ended is known. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns += 1) await turn();
}

test("both ends say that the stream broke, once", async () => {
  const { owner, follow, told } = await followed();
  await follow();
  owner.disconnect(HOLDER);
  await settled();
  expect(told.toSorted()).toEqual(["holder: 3", "owner"]);
});

test("the holder says so where the owner cannot see it", async () => {
  const { owner, holder, follow, told } = await followed();
  await follow();
  owner.sever(HOLDER);
  holder.disconnect(OWNER);
  await settled();
  expect(told).toEqual(["holder: 3"]);
});

test("the owner says so where the holder cannot see it", async () => {
  const { owner, holder, follow, told } = await followed();
  await follow();
  holder.sever(OWNER);
  owner.disconnect(HOLDER);
  await settled();
  expect(told).toEqual(["owner"]);
});

test("a stream that ends with its view is none that broke", async () => {
  const { inbox, follow, told } = await followed();
  const follower = await follow();
  follower.stop();
  inbox.remove();
  await settled();
  expect(told).toEqual([]);
});

test("a stream in whose place another one came is none that broke, for the holder", async () => {
  const { follow, told } = await followed();
  await follow();
  const second = await follow();
  await settled();
  expect(told, "the first was the owner's").toEqual(["owner"]);
  second.stop();
  await settled();
  expect(told, "the view holds at the holder").toEqual(["owner", "holder: 3"]);
});
