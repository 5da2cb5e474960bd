/**
 * @file Control streams of two nodes: each word is known to be of the process that says it; what a node's own handler throws ends its run, what a
 * peer does wrong the stream alone; what was said before the end is said.
 */
import { expect, test } from "vitest";
import { Control } from "../../ring/runtime/control.ts";
import { ControlInbox } from "../../ring/runtime/control-inbox.ts";
import type { ControlMessage } from "../../ring/runtime/control-messages.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { until } from "../helpers/cli.ts";
import { madeCandidate } from "../helpers/view-explorer-views.ts";

const BUG = new Error("a bug");
const BOOT = 7;

/** Two nodes that know each other. */
async function pair(receive: (message: ControlMessage, boot: number) => void) {
  const network = new MemoryNetwork();
  const told: unknown[] = [];
  const closed: string[] = [];
  const start = async (node: number) => {
    const transport = network.join(`peer-${node}`);
    const inbox = new ControlInbox();
    await inbox.listen(transport);
    return new Control({
      ...{ job: "ab", self: madeCandidate(node, BOOT), transport, inbox, invite: null },
      addressesOf: (peerId) => [`/memory/${peerId}/p2p/${peerId}`],
      receive: (_peerId, boot, message) => receive(message, boot),
      dialled: () => {},
      closed: (peerId) => closed.push(peerId),
      failed: (error) => told.push(error),
    });
  };
  return { controls: [await start(0), await start(1)] as const, told, closed };
}

test("a handler that throws is told of, by whichever side the stream was opened", async () => {
  const heard: string[] = [];
  const { controls, told } = await pair(({ say }) => {
    heard.push(say);
    if (say === "stop") throw BUG;
  });
  const [one, other] = controls;
  one.send("peer-1", { say: "alive" });
  await until(() => heard.length === 1, "the first word");
  one.send("peer-1", { say: "stop" });
  await until(() => told.length === 1, "what the second node met");
  one.send("peer-1", { say: "alive" });
  await until(() => heard.length === 3, "a word on another stream");
  other.send("peer-0", { say: "stop" });
  await until(() => told.length === 2, "what the first node met");
  expect(told).toEqual([BUG, BUG]);
});

test("a node that ends is not held up by what it meets on the way, and what a peer does wrong is the peer's", async () => {
  const heard: string[] = [];
  const { controls, told, closed } = await pair(({ say }) => {
    heard.push(say);
    void controls[1].close(100);
    throw BUG;
  });
  const [one] = controls;
  one.send("peer-1", { say: "probe", node: -1 });
  await until(() => closed.includes("peer-1"), "the end of the stream");
  expect(heard, "a word that is none").toEqual([]);
  one.send("peer-1", { say: "stop" });
  await until(() => heard.length === 1, "the last word");
  await until(() => closed.length > 2, "the end of the next stream");
  expect(told).toEqual([]);
});

test("words that come with the answer to a hello are of the process that answers", async () => {
  const boots: number[] = [];
  const { controls } = await pair((_, boot) => boots.push(boot));
  // Each has a word for the other when the first stream opens.
  controls[0].send("peer-1", { say: "alive" });
  controls[1].send("peer-0", { say: "alive" });
  await until(() => boots.length === 2, "both words");
  expect(boots).toEqual([BOOT, BOOT]);
});

test("what waits for a stream when its node ends is said first", async () => {
  const heard: string[] = [];
  const { controls } = await pair(({ say }) => heard.push(say));
  controls[0].send("peer-1", { say: "stop" });
  await controls[0].close(100);
  expect(heard).toEqual(["stop"]);
});
