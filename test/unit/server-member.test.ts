/** @file A process's place in the group: it goes to who takes the manager's place, says what it knows, and obeys no older view. */
import { expect, test } from "vitest";
import { Member } from "../../baseline-ps/runtime/member.ts";
import {
  GROUP_PROTOCOL,
  type Order,
  type PsJob,
  type PsView,
  type Word,
  wordSchema,
} from "../../baseline-ps/runtime/messages.ts";
import { acceptTalk, tell } from "../../baseline-ps/runtime/talk.ts";
import type { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { soon, tinySettings } from "../helpers/memory-ring.ts";

const view = (number: number): PsView => ({
  ...{ number, workers: [0], standsIn: false, joined: [] },
  chains: [{ epoch: number, servers: [0], isCopying: false }],
});

/** A manager that says what the test wants. */
async function fakeManager(network: MemoryNetwork, name: string) {
  const transport = network.join(name);
  const words: Word[] = [];
  const hellos: Readonly<Record<string, unknown>>[] = [];
  const came = Promise.withResolvers<Link>();
  const heard = Promise.withResolvers<void>();
  await transport.handle(GROUP_PROTOCOL, (stream) => {
    void acceptTalk(stream, (hello) => {
      hellos.push(hello);
      const hear = (word: Word): void => {
        words.push(word);
        heard.resolve();
      };
      return { schema: wordSchema, from: "the member", hear };
    }).then((link) => came.resolve(link!));
  });
  return { transport, words, hellos, link: came.promise, heard: heard.promise };
}

test("a member whose manager is gone says to the next one what it knows, and obeys no older view", async () => {
  const network = new MemoryNetwork();
  const first = await fakeManager(network, "manager");
  const second = await fakeManager(network, "standby");
  const role = { kind: "worker", index: 0 } as const;
  const member = await Member.join(network.join("worker"), first.transport.addresses, role, ["engine"]);
  const settings = tinySettings({ system: "ps", nodes: 1, microBatches: 1, servers: 2, serverReplicas: 1 });
  const standby = {
    role: { kind: "standby", index: 0 },
    peerId: "standby",
    addresses: second.transport.addresses,
  } as const;
  const members = [standby, standby, standby];
  const job: PsJob = { ...{ job: "ab", settings, engine: "engine", dataSha256: "00", firstStep: 0 }, members };
  const say = (link: Link, order: Order): void => tell(link, order);
  const seen: number[] = [];
  member.onView(({ number }) => void seen.push(number));
  let gone = 0;
  member.onManagerGone = () => (gone += 1);
  const link = await first.link;
  say(link, { kind: "job", job, role, view: null });
  await soon(member.job, "the job");
  say(link, { kind: "view", view: view(5) });
  say(link, { kind: "view", view: view(4) });
  member.copied(0, 5);
  await soon(first.heard, "a word");
  await first.transport.close();
  const next = await soon(second.link, "the return");
  await soon(second.heard, "what it knows");
  expect([gone, second.hellos[0]?.["returns"]]).toEqual([1, true]);
  expect(second.words).toEqual([{ kind: "returned", view: view(5), report: null, copied: [{ shard: 0, epoch: 5 }] }]);
  say(next, { kind: "view", view: view(5) });
  say(next, { kind: "view", view: view(6) });
  say(next, { kind: "finish" });
  await soon(member.finish, "the finish");
  expect(seen).toEqual([5, 6]);
  await second.transport.close();
});
