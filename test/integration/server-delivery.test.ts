/** @file How batches and parameters come to the workers of a parameter server changes no bit: data servers, broadcast, augmentation. */
import { setImmediate } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import type { PsRole } from "../../baseline-ps/index.ts";
import { AnnouncedParameters } from "../../baseline-ps/runtime/announced-parameters.ts";
import { BATCHES_PROTOCOL } from "../../baseline-ps/runtime/batch-frames.ts";
import { loadedBatches, ServedBatches } from "../../baseline-ps/runtime/batches.ts";
import { DataServer } from "../../baseline-ps/runtime/data-server.ts";
import type { KeyClient } from "../../baseline-ps/runtime/key-client.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { evaluationCount, Feeder } from "../../src/runtime/feeder.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { bits, dataOf, type Outcome, runRing, runSerial, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";
import { runServers } from "../helpers/memory-servers.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

const psSettings = (changes: Readonly<Record<string, unknown>>) => tinySettings({ system: "ps", ...changes });

/** Messages that workers sent to servers of keys. */
function workerMessages({ summary }: Outcome): number {
  const nodes = summary["perNode"] as readonly { readonly role: string; readonly messagesSent: number }[];
  return nodes.filter(({ role }) => role === "worker").reduce((sum, { messagesSent }) => sum + messagesSent, 0);
}

describe("data servers", () => {
  test("only they load the data, and the bits are those of one process, augmented and evaluated on the way", async () => {
    const changes = { microBatches: 3, augment: "noise:0.5", validateEvery: 2 };
    const serial = await runSerial(tinySettings({ system: "serial", nodes: 1, ...changes }), scratch.folder());
    const loaded: PsRole[] = [];
    const served = await runServers(
      psSettings({ ...changes, nodes: 3, servers: 2, dataServers: 2 }),
      scratch.folder(),
      {
        onLoaded: (role) => loaded.push(role),
      },
    );
    expect(bits(served)).toEqual(bits(serial));
    expect(loaded).toEqual([0, 1].map((index) => ({ kind: "data", index })));
    expect(served.summary).toMatchObject({ nodes: 5, dataServers: 2 });
    // Features and labels of 12 samples a step, and of the test set three times, with a header and a request for each micro-batch.
    expect(served.summary["dataBytesPerStep"]).toBeGreaterThan(4 * 12 * 7);
  });

  test.each([
    ["several micro-batches a share", { nodes: 2, microBatches: 6, dataServers: 3, overlap: "off" }],
    ["workers that hold two layers", { nodes: 4, microBatches: 4, dataServers: 4, workerHolds: "range" }],
  ])("%s: the bits are those without", async (_, changes) => {
    const loaded = await runServers(psSettings({ ...changes, dataServers: 0 }), scratch.folder());
    const served = await runServers(psSettings(changes), scratch.folder());
    expect(bits(served)).toEqual(bits(loaded));
    expect(loaded.summary["dataBytesPerStep"]).toBe(0);
  });

  // Two runs' times: another process on the machine may take its time in one of them alone.
  test("a micro-batch is asked for ahead: its way takes no time of the training", { retry: 2 }, async () => {
    // A micro-batch takes 39 ms, and as many as 30 ms to come when it is asked for.
    const changes = { nodes: 1, microBatches: 6, pace: "0.00005GFLOP/s", link: "15ms", steps: 4 };
    const loaded = await runServers(psSettings(changes), scratch.folder());
    const served = await runServers(psSettings({ ...changes, dataServers: 2 }), scratch.folder());
    const [without, withServers] = [loaded, served].map(({ summary }) => Number(summary["stepMsMedian"]));
    expect(without).toBeGreaterThan(6 * 35);
    expect(withServers).toBeLessThan(1.25 * without!);
  });

  test("shares that are whoever's that asks", async () => {
    const changes = { consistency: "bounded", tau: 2, nodes: 3, microBatches: 6, dataServers: 2, steps: 12 };
    const { losses } = await runServers(psSettings(changes), scratch.folder());
    expect(losses).toHaveLength(12);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
  });

  test("one that is gone ends the run, by its name", async () => {
    const settings = psSettings({ nodes: 2, microBatches: 2, dataServers: 2, steps: 10_000 });
    const running = runServers(settings, scratch.folder(), {
      onCommitted: (step, _, close) => step === 5 && close({ kind: "data", index: 1 }),
    });
    await expect(running).rejects.toThrow("data server 1 is gone");
  });
});

describe("one worker and its data servers", () => {
  const settings = psSettings({ microBatches: 3, augment: "noise:0.1" });
  const feeder = new Feeder(dataOf(settings), settings);
  const { rows } = feeder;

  async function group() {
    const network = new MemoryNetwork();
    const transports = [0, 1].map((index) => network.join(`data-${index}`));
    for (const [index, transport] of transports.entries()) {
      const init = { job: "job", index, dataServers: 2, workers: 1, microBatches: 3, feeder };
      const server = new DataServer(init);
      await transport.handle(BATCHES_PROTOCOL, (stream) => void server.accept(stream).catch(() => {}));
    }
    return { transport: network.join("worker"), servers: transports.map(({ addresses }) => addresses) };
  }

  test("every micro-batch of training and test is that of the data set, also asked for ahead", async () => {
    const batches = await ServedBatches.connect({ ...(await group()), job: "job", worker: 0, rows, features: 6 });
    const loaded = loadedBatches(feeder);
    expect(batches.testCount).toBe(11);
    const training = [0, 1, 7].flatMap((step) => [0, 1, 2].map((index) => ({ isTraining: true, step, index })));
    const pieces = Array.from({ length: evaluationCount(11, rows) }, (_, index) => index);
    const names = [...training, ...pieces.map((index) => ({ isTraining: false, step: 0, index }))];
    const memory = new EngineMemory(2 ** 20);
    const slot = () => ({ input: memory.allocate([rows, 6]), labels: memory.allocate([rows]) });
    const [served, expected] = [slot(), slot()];
    for (const [place, name] of names.entries()) {
      await soon(batches.feed(memory, served, name), "the micro-batch");
      const next = names[place + 1];
      if (next !== undefined) batches.want(next);
      await loaded.feed(memory, expected, name);
      expect(memory.f32(served.input), JSON.stringify(name)).toEqual(memory.f32(expected.input));
      expect(memory.i32(served.labels), JSON.stringify(name)).toEqual(memory.i32(expected.labels));
    }
    await soon(batches.close(), "the end");
  });

  test.each([
    ["of another server", 1, 0],
    ["that is none", 4, 0],
    ["that is no piece of the test set", 4, 1],
  ])("a micro-batch %s is refused", async (_, microBatch, lap) => {
    const { transport, servers } = await group();
    const stream = await transport.dial(servers[0]!, BATCHES_PROTOCOL);
    const receiver = { destination: () => new Uint8Array(0), handle: () => {} };
    const { link } = await Link.open(stream, { job: "job", worker: 0 }, receiver);
    void link.send({ kind: FrameKind.batchWanted, step: 0, microBatch, lap });
    const end = await soon(link.ended, "the refusal");
    expect(end).toMatchObject({ kind: "refused", by: "peer" });
  });
});

test("augmented samples are the same in a ring, however a batch is cut, and change the training", async () => {
  const changes = { augment: "noise:0.5", microBatches: 4 };
  const plain = await runSerial(tinySettings({ system: "serial", nodes: 1 }), scratch.folder());
  const serial = await runSerial(tinySettings({ ...changes, system: "serial", nodes: 1 }), scratch.folder());
  expect(bits(await runRing(tinySettings({ ...changes, nodes: 3 }), scratch.folder()))).toEqual(bits(serial));
  expect(serial.losses[0]).not.toBe(plain.losses[0]);
  const uncut = tinySettings({ ...changes, microBatches: 1 });
  const cut = tinySettings(changes);
  const arrays = (rows: number) => ({ input: new Float32Array(6 * rows), labels: new Int32Array(rows) });
  const [whole, part] = [arrays(12), arrays(3)];
  new Feeder(dataOf(uncut), uncut).writeTraining(whole, 2, 0);
  new Feeder(dataOf(cut), cut).writeTraining(part, 2, 3);
  expect(part.input).toEqual(whole.input.subarray(9 * 6));
  const noise = [2, 3].map((step) => {
    const [noisy, bare] = [arrays(3), arrays(3)];
    new Feeder(dataOf(cut), cut).writeTraining(noisy, step, 3);
    new Feeder(dataOf(cut), { ...cut, augment: "none" }).writeTraining(bare, step, 3);
    return Array.from(noisy.input, (feature, index) => feature - bare.input[index]!);
  });
  for (const each of noise) {
    // The sum is rounded to float32, features are below 8.
    expect(Math.max(...each.map(Math.abs))).toBeLessThanOrEqual(0.5 + 2 ** -21);
    expect(new Set(each).size).toBeGreaterThan(15);
  }
  for (const [index, change] of noise[0]!.entries()) expect(Math.abs(change - noise[1]![index]!)).toBeGreaterThan(1e-5);
});

describe("parameters that servers send unasked", () => {
  test.each([
    { nodes: 3, microBatches: 3, servers: 2, overlap: "on", validateEvery: 2, checkpointEvery: 3 },
    { nodes: 2, microBatches: 4, servers: 4, overlap: "off", dataServers: 1 },
  ])("the bits are those of pulled ones, with fewer messages of workers: %j", async (changes) => {
    const pulled = await runServers(psSettings({ ...changes, parameters: "pull" }), scratch.folder());
    const sent = await runServers(psSettings({ ...changes, parameters: "broadcast" }), scratch.folder());
    expect(bits(sent)).toEqual(bits(pulled));
    expect(sent.summary).toMatchObject({ lagHistogram: pulled.summary["lagHistogram"], parametersBy: "broadcast" });
    expect(workerMessages(sent)).toBeLessThan(0.7 * workerMessages(pulled));
  });

  test("a layer is here when every server's part of it is, and not before", async () => {
    const told: ((server: number, version: number) => void)[] = [];
    const client = {
      failed: new Promise<never>(() => {}),
      subscribe: (...[, , , hear]: Parameters<KeyClient["subscribe"]>) => (told.push(hear), [0, 1]),
    };
    const compute = { parameters: () => new Float32Array(new SharedArrayBuffer(8)) };
    const parameters = new AnnouncedParameters({ client, compute, keys: [{ start: 0, end: 2 }] });
    for (const [version, order] of [
      [3, [0, 1]],
      [4, [1, 0]],
    ] as const) {
      parameters.begin(version);
      let isHere = false;
      const arrived = parameters.arrived(0).then(() => (isHere = true));
      told[0]!(order[0], version);
      await setImmediate();
      expect(isHere).toBe(false);
      told[0]!(order[1], version);
      await soon(arrived, "the layer");
      expect(parameters.version).toBe(version);
    }
    expect(told).toHaveLength(1);
  });

  test("a server that is gone ends the run, by its name", async () => {
    const settings = psSettings({ nodes: 2, microBatches: 2, servers: 2, parameters: "broadcast", steps: 10_000 });
    const running = runServers(settings, scratch.folder(), {
      onCommitted: (step, _, close) => step === 5 && close({ kind: "server", index: 1 }),
    });
    await expect(running).rejects.toThrow("server 1 is gone");
  });
});
