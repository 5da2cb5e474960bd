/** @file Groups of workers that train different models on the same servers: each has the bits of its own serial run, and its own end. */
import { afterAll, expect, test } from "vitest";
import { rulesOf } from "../../baseline-ps/core/consistency.ts";
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { keysProtocol } from "../../baseline-ps/runtime/key-frames.ts";
import { KeyMemory } from "../../baseline-ps/runtime/key-memory.ts";
import { KeyServer } from "../../baseline-ps/runtime/key-server.ts";
import { ServedJobs } from "../../baseline-ps/runtime/served-jobs.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import { KeyClient } from "../../baseline-ps/runtime/key-client.ts";
import { GuestRuns } from "../../src/cli/ps-guests.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import { bits, type Outcome, runSerial, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";
import { jobOfGroup, runGroups } from "../helpers/memory-servers.ts";
import { UNBOOKED } from "../helpers/unbooked.ts";

const LIMIT_MS = 60_000;
const scratch = new Scratch();
afterAll(() => scratch.remove());

/** They differ in all that a server is told: keys, optimizer, rate, shares, steps. */
const FIRST = { nodes: 2, microBatches: 2, steps: 40 };
const SECOND = { model: "mlp:6-5-4", nodes: 3, microBatches: 3, steps: 25, optimizer: "momentum", lr: 0.05, seed: 9 };

function valueOf(ended: PromiseSettledResult<Outcome> | undefined): Outcome {
  if (ended?.status === "fulfilled") return ended.value;
  throw ended?.reason;
}

test(
  "two groups share two servers, in bsp with the bits of one process each; their summaries say so, and count their own bytes",
  async () => {
    const settings = [FIRST, SECOND].map((changes) => tinySettings({ system: "ps", servers: 2, ...changes }));
    const shared = await runGroups(settings.map((each) => ({ settings: each, folder: scratch.folder() })));
    for (const [group, ended] of shared.entries()) {
      const outcome = valueOf(ended);
      const { servers, ...changes } = settings[group]!;
      const serial = await runSerial(tinySettings({ ...changes, system: "serial", nodes: 1 }), scratch.folder());
      expect(bits(outcome)).toEqual(bits(serial));
      const { summary } = outcome;
      expect(summary).toMatchObject({ sharesServersWith: [jobOfGroup(1 - group)], servers });
      const perNode = summary["perNode"] as readonly { role: string; bytesSent: number; bytesReceived: number }[];
      const sumOf = (role: string, what: "bytesSent" | "bytesReceived"): number =>
        perNode.filter((node) => node.role === role).reduce((sum, node) => sum + node[what], 0);
      // What this group's workers sent and nothing else, to the last words of links that are still on their way.
      expect(sumOf("server", "bytesReceived") / sumOf("worker", "bytesSent")).toBeCloseTo(1, 1);
      expect(sumOf("server", "bytesSent") / sumOf("worker", "bytesReceived")).toBeCloseTo(1, 1);
    }
  },
  LIMIT_MS,
);

test(
  "a group in bsp keeps its bits beside one in async",
  async () => {
    const first = tinySettings({ system: "ps", servers: 1, ...FIRST });
    const second = tinySettings({ system: "ps", servers: 1, ...SECOND, consistency: "async" });
    const serial = await runSerial(tinySettings({ ...FIRST, system: "serial", nodes: 1 }), scratch.folder());
    const [one, other] = await runGroups([first, second].map((settings) => ({ settings, folder: scratch.folder() })));
    expect(bits(valueOf(one))).toEqual(bits(serial));
    expect(valueOf(other).losses).toHaveLength(SECOND.steps);
  },
  LIMIT_MS,
);

test(
  "a worker that is gone ends its own group by its name; the other trains to its end",
  async () => {
    const [kept, ended] = await runGroups([
      { settings: tinySettings({ system: "ps", servers: 2, ...FIRST }), folder: scratch.folder() },
      {
        settings: tinySettings({ system: "ps", servers: 2, ...SECOND, steps: 100_000 }),
        folder: scratch.folder(),
        onCommitted: (step, _, close) => step === 5 && close({ kind: "worker", index: 1 }),
      },
    ]);
    expect(ended).toMatchObject({ status: "rejected", reason: expect.any(NodeLostError) as unknown });
    expect((ended as PromiseRejectedResult).reason).toMatchObject({
      message: expect.stringContaining("worker 1 is gone"),
    });
    const serial = await runSerial(tinySettings({ ...FIRST, system: "serial", nodes: 1 }), scratch.folder());
    expect(bits(valueOf(kept))).toEqual(bits(serial));
  },
  LIMIT_MS,
);

test("a server that is gone ends every group that it served", async () => {
  const settings = (changes: object) => tinySettings({ system: "ps", servers: 2, ...changes, steps: 100_000 });
  const ended = await runGroups([
    { settings: settings(FIRST), folder: scratch.folder() },
    {
      settings: settings(SECOND),
      folder: scratch.folder(),
      onCommitted: (step, _, close) => step === 5 && close({ kind: "server", index: 1 }),
    },
  ]);
  for (const each of ended) {
    expect(each).toMatchObject({
      status: "rejected",
      reason: { message: expect.stringContaining("server 1 is gone") },
    });
  }
});

test("whoever says one job at another's door is refused, and changes nothing there", async () => {
  const network = new MemoryNetwork();
  const server = network.join("server");
  const range = { start: 0, end: 4 };
  const map = divideKeys(4, 1);
  const functions = new ServerFunctions();
  const keyServers = ["aa", "bb"].map((job) => {
    const shard = { firstStep: 0, shares: 1, rules: rulesOf("bsp"), tau: 0 };
    return new KeyServer({
      ...{ ...UNBOOKED, job, server: 0, map, shard, clients: 1, peerId: server.peerId },
      ...{ memory: new KeyMemory("wasm-exact"), functions, function: "sgd", rate: 1 },
      onFailure: () => {},
    });
  });
  for (const [index, job] of ["aa", "bb"].entries()) {
    await server.handle(keysProtocol(job), (stream) => void keyServers[index]!.accept(stream));
  }
  const stranger = await network.join("stranger").dial(server.addresses, keysProtocol("bb"));
  const opened = Link.open(
    stranger,
    { job: "aa", client: 0 },
    { destination: () => new Uint8Array(0), handle: () => {} },
  );
  await expect(opened).rejects.toThrow("another job");
  const servers = [server.addresses];
  const transport = network.join("worker");
  const client = await KeyClient.connect({ job: "aa", client: 0, map, servers, transport, nowMs: () => 0 });
  await client.wait(client.push(range, Float32Array.of(1, 2, 3, 4), { step: 0, share: 0 }));
  const values = keyServers.map((each) => {
    const into = new Float32Array(4);
    each.store(0).read(range, into);
    return [...into];
  });
  expect(values).toEqual([
    [-1, -2, -3, -4],
    [0, 0, 0, 0],
  ]);
  await client.close();
});

test("a server's process takes runs until its own has ended, and waits for those; one that cannot be reached harms nobody", async () => {
  const hosted: (readonly string[])[] = [];
  const guests = new GuestRuns({
    ...{ role: { kind: "server", index: 0 }, transport: new MemoryNetwork().join("server"), served: new ServedJobs() },
    ...{ log: undefined, answerFor: () => Promise.resolve(undefined), onChanged: (outs) => hosted.push(outs) },
  });
  for (const text of ["{", "{}", '{"manager":[],"out":"other"}']) expect(guests.take(text).isDone, text).toBe(false);
  const invitation = JSON.stringify({ manager: ["/memory/nobody"], out: "other" });
  expect(guests.take(invitation)).toEqual({ isDone: true });
  const closed = guests.close();
  expect(guests.take(invitation)).toMatchObject({ isDone: false, reason: expect.stringContaining("has ended") });
  await soon(closed, "the end");
  expect(hosted).toEqual([["other"], []]);
});

test("which jobs met on a process: those that overlapped, each told of the other", async () => {
  const served = new ServedJobs();
  const [first, second, third] = [1, 2, 3].map(() => Promise.withResolvers<void>());
  const running = [served.during("a", () => first!.promise)];
  expect(served.metBy("a")).toEqual([]);
  running.push(served.during("b", () => second!.promise));
  second!.resolve();
  await running[1];
  running.push(served.during("c", () => third!.promise));
  expect(served.metBy("a")).toEqual(["b", "c"]);
  expect(served.metBy("c")).toEqual(["a"]);
  for (const each of [first, third]) each!.resolve();
  await Promise.all(running);
});
