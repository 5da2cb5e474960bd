/** @file Dynamically allocated keys over real links: values and locations, recorded histories, and what is refused. */
import { randomInt } from "node:crypto";
import { describe, expect, test } from "vitest";
import { decode, encodeKeys, memoryFor } from "../../baseline-ps/localize/frames.ts";
import { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { ProtocolError, UsageError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { DataType, frameFields, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { lastState, lostPushes, recordHistory } from "../helpers/history-worker.ts";
import { inconsistencies } from "../helpers/key-history.ts";
import { KeyNodes } from "../helpers/key-nodes.ts";
import { soon } from "../helpers/memory-ring.ts";

const network = new MemoryNetwork();
let members = 0;
const memory = async (): Promise<Transport> => network.join(`peer${members++}`);
const libp2p = (): Promise<Transport> => createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"] });
const TRANSPORTS = { memory, libp2p };

describe.each(Object.entries(TRANSPORTS))("over %s", (_, create) => {
  test("a key is pulled and pushed wherever it is, and moves to who localizes it", async () => {
    await using group = await KeyNodes.start({ create, nodes: 3, keys: 7, length: 2 });
    const [first, second] = group.nodes as readonly [KeyNode, KeyNode];
    const all = { start: 0, end: 7 };
    const values = Float32Array.from({ length: 14 }, (__, place) => place);
    await soon(first.wait(first.push(all, values)), "the push");
    await soon(second.wait(second.localize([0, 1, 2, 5])), "the relocation");
    expect([0, 1, 2, 3, 4, 5, 6].filter((key) => second.has(key))).toEqual([0, 1, 2, 4, 5]);
    expect(first.has(0)).toBe(false);
    const { local } = second.accesses;
    const pushed = second.push([0, 5], Float32Array.of(100, 200, 300, 400));
    expect(second.isFinished(pushed)).toBe(true);
    expect(second.accesses.local).toBe(local + 2);
    expect([...(await group.values(7, 2))]).toEqual([100, 201, 2, 3, 4, 5, 6, 7, 8, 9, 310, 411, 12, 13]);
    const into = new Float32Array(4);
    await soon(second.wait(second.pull([3, 5], into)), "the pull");
    expect([...into]).toEqual([6, 7, 310, 411]);
  });

  test("operations that are issued behind a localize wait for the key", async () => {
    await using group = await KeyNodes.start({ create, nodes: 2, keys: 1, length: 1 });
    const [, node] = group.nodes as readonly [KeyNode, KeyNode];
    const [before, after] = [new Float32Array(1), new Float32Array(1)];
    const pushed = Float32Array.of(2);
    const requests = [
      node.push([0], Float32Array.of(1)),
      node.localize([0]),
      node.pull([0], before),
      node.push([0], pushed),
      node.localize([0]),
      node.pull([0], after),
    ];
    // What was pushed is the caller's again.
    pushed.fill(7);
    expect(requests.filter((request) => node.isFinished(request))).toEqual([]);
    await soon(node.waitForAll(), "all");
    expect([before[0], after[0], node.has(0)]).toEqual([1, 3, true]);
  });

  test.each([3, randomInt(1, 1_000_000_000)])("histories are sequentially consistent: seed %i", async (seed) => {
    const [nodes, keys, length] = [4, 3, 8];
    await using group = await KeyNodes.start({ create, nodes, keys, length });
    const workers = group.nodes.flatMap((node, place) => [place, place + nodes].map((worker) => ({ node, worker })));
    const task = { keys: Array.from({ length: keys }, (__, key) => key), length, pushes: 11 };
    const recording = workers.map(({ node, worker }) =>
      recordHistory(node, new RandomStream(seed, 1_003, worker), { ...task, worker }),
    );
    const history = (await soon(Promise.all(recording), `seed ${seed}`)).flat();
    const last = await lastState(group.nodes[0]!, { ...task, worker: workers.length });
    expect(inconsistencies([...history, ...last]), `seed ${seed}`).toEqual([]);
    expect(lostPushes(history, last), `seed ${seed}`).toBe(0);
  });

  test("a node that is gone ends every wait, by its name", async () => {
    await using group = await KeyNodes.start({ create, nodes: 3, keys: 3, length: 1 });
    const node = group.nodes[0]!;
    await group.transports[2]!.close();
    await expect(soon(node.wait(node.pull([2], new Float32Array(1))), "the end")).rejects.toThrow("node 2 is gone");
    await expect(soon(node.barrier(), "the end")).rejects.toThrow("node 2 is gone");
  });
});

describe("refuses", () => {
  test("keys that are not, naming those that are, before anything is sent", async () => {
    await using group = await KeyNodes.start({ create: memory, nodes: 2, keys: 10, length: 2 });
    const node = group.nodes[0]!;
    const before = node.counters.messagesSent;
    const refused = (act: () => unknown): string => {
      expect(act).toThrow(UsageError);
      try {
        act();
      } catch (error) {
        return (error as Error).message;
      }
      return "";
    };
    const two = new Float32Array(2);
    expect(refused(() => node.localize({ start: 8, end: 12 }))).toBe(
      "a localize of the range [8, 12): the keys are [0, 10)",
    );
    expect(refused(() => node.localize({ start: 4, end: 4 }))).toContain("the range [4, 4)");
    expect(refused(() => node.localize([3, 10]))).toBe("a localize of key 10: the keys are [0, 10)");
    expect(refused(() => node.localize([]))).toContain("no key");
    expect(refused(() => node.pull([-1], two))).toContain("a pull of key -1");
    expect(refused(() => node.push([0.5], two))).toContain("a push of key 0.5");
    expect(refused(() => node.pull([3, 3], new Float32Array(4)))).toContain("key 3 comes after 3");
    expect(refused(() => node.push([1], new Float32Array(3)))).toContain("1 keys with 3 values");
    expect(node.counters.messagesSent).toBe(before);
  });

  test("more requests at once than it keeps", async () => {
    await using group = await KeyNodes.start({ create: memory, nodes: 2, keys: 2, length: 1 });
    const node = group.nodes[0]!;
    const one = Float32Array.of(1);
    for (let index = 0; index < 4_096; index += 1) node.push([1], one);
    expect(() => node.push([1], one)).toThrow("4096 requests");
    await soon(node.waitForAll(), "all");
    expect([...(await group.values(2, 1))]).toEqual([0, 4_096]);
  });

  test("a node of another group, or one that is here", async () => {
    await using group = await KeyNodes.start({ create: memory, nodes: 2, keys: 4, length: 1 });
    const join = async (changes: Readonly<Record<string, unknown>>): Promise<void> => {
      const transport = await memory();
      const init = { job: "job", node: 1, nodes: 2, keys: 4, length: 1, transport, ...changes };
      const node = await KeyNode.listen(init);
      await soon(node.meet(group.transports.map(({ addresses }) => addresses)), "the answer");
    };
    await expect(join({ keys: 5 })).rejects.toThrow("another keys");
    await expect(join({ length: 2 })).rejects.toThrow("another length");
    await expect(join({})).rejects.toThrow("node 1 is here already");
    await expect(join({ job: "other" })).rejects.toThrow("does not speak");
  });

  test.each([
    ["keys that are not", FrameKind.pullOwned, encodeKeys([9], 1), "key 9"],
    ["keys out of order", FrameKind.localize, encodeKeys([2, 1], 1), "key 1 at place 1"],
    ["no key", FrameKind.relocate, new Uint8Array(0), "no key"],
    ["half a key", FrameKind.handOver, new Uint8Array(12), "12 bytes"],
    ["a kind of another protocol", FrameKind.gradient, encodeKeys([1], 1), "kind 17"],
    ["a foreign origin", FrameKind.pullOwned, encodeKeys([1], 1), "node 7 of 2", 7],
  ])("%s in a frame", (_, kind, payload, what, lap = 0) => {
    const space = { nodes: 2, keys: 4, length: 1 };
    const fields = { ...frameFields({ kind, lap }), dtype: DataType.bytes, payloadBytes: payload.byteLength };
    const header = fields as FrameHeader;
    const read = (): unknown => {
      memoryFor(header, space);
      return decode({ header, payload }, space);
    };
    expect(read).toThrow(ProtocolError);
    expect(read).toThrow(what);
  });
});

test.each([
  ["a relocate of a key that is not there", { kind: FrameKind.relocate, lap: 1 }, [1], "a relocate of key 1"],
  ["a key that nobody has asked for", { kind: FrameKind.handOver }, [0], "key 0 unasked"],
  ["an answer to no request", { kind: FrameKind.ownedPulled, view: 5 }, [1], "request 5, which does not lack it"],
  ["an operation for another home", { kind: FrameKind.pullOwned, lap: 1 }, [1], "neither here nor at home here"],
  ["a localize at another home", { kind: FrameKind.localize, lap: 1 }, [1], "not at home here"],
])("%s ends the conversation, and every wait", async (_, fields, keys, what) => {
  const [transport, other] = [await memory(), await memory()];
  const space = { nodes: 2, keys: 2, length: 1 };
  const node = await KeyNode.listen({ job: "job", node: 0, transport, ...space });
  const meeting = node.meet([transport.addresses, other.addresses]);
  const stream = await other.dial(transport.addresses, "/ringtmp/data/localize/1/job");
  const receiver = { destination: () => new Uint8Array(4), handle: () => {} };
  const { link } = await Link.open(stream, { job: "job", node: 1, ...space }, receiver);
  void link.send({ kind: FrameKind.barrier });
  await soon(meeting, "the meeting");
  const pulled = node.pull([1], new Float32Array(1));
  const hasValues = fields.kind === FrameKind.handOver || fields.kind === FrameKind.ownedPulled;
  void link.send(fields, encodeKeys(keys, 1, hasValues ? (): void => {} : undefined));
  await expect(soon(node.wait(pulled), "the end")).rejects.toThrow(new RegExp(`node 1 is gone \\(refused: .*${what}`));
  await Promise.all([transport.close(), other.close()]);
});
