/** @file Sparse logistic regression on servers of keys in memory, against one process with dense arrays; and the edges of requests of single keys. */
import { expect, test } from "vitest";
import { SparseBlock } from "../../baseline-ps/applications/sparse-block.ts";
import {
  recordedLasso,
  type StepRecord,
  trainSparse,
  type WeightsRecord,
} from "../../baseline-ps/applications/sparse-logistic.ts";
import { blockOf, drawSample, keyCount, type SparseTask } from "../../baseline-ps/applications/sparse-samples.ts";
import type { Consistency } from "../../baseline-ps/core/consistency.ts";
import { divideKeys, placesOf } from "../../baseline-ps/core/key-map.ts";
import { requestOf, memoryFor } from "../../baseline-ps/runtime/key-frames.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { frameFields, FrameKind } from "../../src/wire/header.ts";
import { denseBytes, denseLasso, sparseBytes } from "../helpers/dense-logistic.ts";
import { KeyGroup } from "../helpers/key-group.ts";
import { soon } from "../helpers/memory-ring.ts";

const BSP: Consistency = { kind: "bsp", tau: 0 };
const RATE = 0.5;
const LAMBDA = 0.006;
/** One rounding to float32 is 6e-8 of a number: that of the gradients and parameters, whose errors have either sign and add up to less. */
const TOLERANCE = 1e-7;
/** Of weights below 1, with a rounding in each of 25 steps. */
const WEIGHT_TOLERANCE = 1e-6;
const network = new MemoryNetwork();
let members = 0;
const create = async (): Promise<Transport> => network.join(`peer${members++}`);

interface Trained {
  readonly blocks: readonly SparseBlock[];
  /** By worker. */
  readonly records: readonly (readonly StepRecord[])[];
  /** After each number of updates: the workers' losses, and the servers' penalty. */
  readonly objectives: readonly number[];
  readonly weights: readonly WeightsRecord[];
  readonly parameters: Float32Array;
}

async function train(
  task: SparseTask,
  init: {
    readonly servers: number;
    readonly workers: number;
    readonly steps: number;
    readonly consistency: Consistency;
  },
): Promise<Trained> {
  const { servers, workers, steps, consistency } = init;
  const functions = new ServerFunctions();
  const weights: WeightsRecord[] = [];
  functions.define("lasso", recordedLasso(LAMBDA, weights));
  const shape = { create, keys: keyCount(task), servers, clients: workers, consistency };
  await using group = await KeyGroup.start({ ...shape, functions, function: "lasso", rate: RATE });
  const blocks = group.clients.map((_, worker) => new SparseBlock(task, blockOf(task.samples, workers, worker)));
  const records = blocks.map((): StepRecord[] => []);
  const training = group.clients.map((client, share) => {
    const onStep = (record: StepRecord): void => void records[share]!.push(record);
    return trainSparse({ client, block: blocks[share]!, share, consistency, steps, onStep });
  });
  await soon(Promise.all(training), "the training");
  expect(group.failures).toEqual([]);
  const parameters = group.stores.flatMap((store, server) => {
    const { start, end } = divideKeys(shape.keys, servers).shards[server]!;
    const into = new Float32Array(end - start);
    store.read({ start, end }, into);
    return [...into];
  });
  const objectives = records[0]!.map((_, step) => {
    const loss = records.reduce((sum, ofWorker) => sum + ofWorker[step]!.loss, 0);
    return loss + LAMBDA * (weights[step - 1]?.absoluteSum ?? 0);
  });
  return { blocks, records, objectives, weights, parameters: Float32Array.from(parameters) };
}

test.each([
  [1, 1],
  [7, 3],
  [96, 4],
  [5, 5],
])("%i samples are divided over %i workers: each in one block", (samples, workers) => {
  const blocks = Array.from({ length: workers }, (_, worker) => blockOf(samples, workers, worker));
  const all = blocks.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, index) => from + index));
  expect(all).toEqual(Array.from({ length: samples }, (_, index) => index));
  const sizes = blocks.map(({ from, to }) => to - from);
  expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
  expect(() => blockOf(samples, samples + 1, 0)).toThrow("workers");
});

test("a sample has sorted keys, each once; frequent features lie on all servers", () => {
  const task = { seed: 4, samples: 600, octaves: 14, draws: 12 };
  const counts = new Map<number, number>();
  for (let index = 0; index < task.samples; index += 1) {
    const { keys } = drawSample(task, index);
    expect([...keys]).toEqual([...new Set(keys)].toSorted((a, b) => a - b));
    expect(keys.at(-1)).toBeLessThan(keyCount(task));
    for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const frequent = [...counts].toSorted((a, b) => b[1] - a[1]).slice(0, 32);
  const places = placesOf(
    divideKeys(keyCount(task), 4),
    frequent.map(([key]) => key).toSorted((a, b) => a - b),
  );
  expect(places.map(({ from, to }) => to - from).every((size) => size >= 4)).toBe(true);
  // Of the lower half of the octaves every feature is drawn; of the upper one most are not.
  expect(counts.size).toBeGreaterThan(2 ** 7);
  expect(counts.size).toBeLessThan(keyCount(task) / 4);
  expect(frequent[0]![1]).toBe(task.samples);
});

test.each([1, 3])("bsp on %i servers: the objective of one process, and only touched keys travel", async (servers) => {
  const task = { seed: 11, samples: 120, octaves: 13, draws: 10 };
  const [workers, steps] = [3, 25];
  const trained = await train(task, { servers, workers, steps, consistency: BSP });
  const one = denseLasso(task, RATE, LAMBDA, steps);
  expect(trained.objectives).toHaveLength(steps + 1);
  for (const [step, objective] of trained.objectives.entries()) {
    expect(Math.abs(objective / one.objectives[step]! - 1), `step ${step}`).toBeLessThan(TOLERANCE);
    if (step > 0) expect(objective).toBeLessThan(trained.objectives[step - 1]!);
  }
  // The penalty leaves few of the touched weights, and they are those of one process.
  const nonZero = trained.parameters.filter((weight) => weight !== 0).length;
  expect(trained.weights.at(-1)!.nonZero).toBe(nonZero);
  expect(nonZero).toBeGreaterThan(10);
  expect(nonZero).toBeLessThan(new Set(trained.blocks.flatMap(({ keys }) => [...keys])).size / 2);
  const differences = trained.parameters.map((weight, key) => Math.abs(weight - one.weights[key]!));
  expect(Math.max(...differences)).toBeLessThan(WEIGHT_TOLERANCE);
  for (const [worker, { keys }] of trained.blocks.entries()) {
    const touched = placesOf(divideKeys(keyCount(task), servers), keys).length;
    expectBytes(trained.records[worker]!, sparseBytes(keys.length, touched, servers));
  }
});

/** From one pull's end to the next one's lie one push with its acknowledgements, and one pull. */
function expectBytes(records: readonly StepRecord[], { sent, received }: ReturnType<typeof sparseBytes>): void {
  for (const [step, { bytesSent, bytesReceived }] of records.slice(1).entries()) {
    expect(bytesSent - records[step]!.bytesSent).toBe(sent);
    expect(bytesReceived - records[step]!.bytesReceived).toBe(received);
  }
}

test("bsp has the same bits on any number of servers", async () => {
  const task = { seed: 12, samples: 60, octaves: 10, draws: 8 };
  const trained = [1, 2, 5].map((servers) => train(task, { servers, workers: 4, steps: 6, consistency: BSP }));
  const [first, ...others] = await Promise.all(trained);
  for (const { parameters } of others) expect([...parameters]).toEqual([...first!.parameters]);
});

test("of a million keys a few hundred a worker travel", async () => {
  const task = { seed: 13, samples: 80, octaves: 20, draws: 12 };
  const servers = 2;
  const trained = await train(task, { servers, workers: 2, steps: 3, consistency: BSP });
  const one = denseLasso(task, RATE, LAMBDA, 3);
  expect(Math.abs(trained.objectives[3]! / one.objectives[3]! - 1)).toBeLessThan(TOLERANCE);
  for (const [worker, { keys }] of trained.blocks.entries()) {
    const bytes = sparseBytes(keys.length, servers, servers);
    expectBytes(trained.records[worker]!, bytes);
    expect(1_000 * bytes.received).toBeLessThan(denseBytes(keyCount(task), servers).received);
  }
});

test("bounded delay: no parameters lag by more than tau, and the objective falls as far", async () => {
  const task = { seed: 14, samples: 60, octaves: 10, draws: 8 };
  const [tau, steps] = [2, 40];
  const init = { servers: 2, workers: 4, steps, consistency: { kind: "bounded", tau } } as const;
  const { records, objectives } = await train(task, init);
  for (const { step, version } of records.flat()) expect(step - version).toBeLessThanOrEqual(tau);
  expect(records.every((ofWorker) => ofWorker.at(-1)!.version === steps)).toBe(true);
  // Delays cost steps, not the end: what is reached lies between two thirds of the steps of one process and all of them.
  const one = denseLasso(task, RATE, LAMBDA, steps).objectives;
  expect(objectives.at(-1)!).toBeLessThan(one[Math.floor((2 * steps) / 3)]!);
});

test("a worker whose keys all lie on one server does not run ahead of the others", async () => {
  const consistency = BSP;
  const keys = 8;
  await using group = await KeyGroup.start({ create, keys, servers: 2, clients: 2, consistency });
  const [client, other] = group.clients;
  // Without a draw, each sample has the intercept alone.
  const block = new SparseBlock({ seed: 1, samples: 2, octaves: 3, draws: 0 }, { from: 0, to: 2 });
  expect([...block.keys]).toEqual([0]);
  const reached = [0, 1, 2].map(() => Promise.withResolvers<void>());
  const onStep = ({ step }: StepRecord): void => reached[step]!.resolve();
  const training = trainSparse({ client: client!, block, share: 0, consistency, steps: 2, onStep });
  const push = (half: number, step: number): void => {
    other!.push({ start: 4 * half, end: 4 * half + 4 }, new Float32Array(4), { step, share: 1 });
  };
  push(0, 0);
  // The worker has parameters of version 1, and pushes step 1, while the other server has nothing of step 0.
  await soon(reached[1]!.promise, "version 1");
  push(1, 0);
  push(0, 1);
  push(1, 1);
  await soon(training, "the training");
  expect(group.failures).toEqual([]);
});

test("a pull of single keys waits for those keys, and tells their version", async () => {
  await using group = await KeyGroup.start({ create, keys: 23, servers: 2, clients: 1, consistency: BSP });
  const client = group.clients[0]!;
  const push = (start: number, end: number): number =>
    client.push({ start, end }, new Float32Array(end - start).fill(-1), { step: 0, share: 0 });
  const applied = [push(0, 4), push(7, 12), push(15, 23)];
  await soon(Promise.all(applied.map((timestamp) => client.wait(timestamp))), "the pushes");
  const into = new Float32Array(4);
  const around = client.pullSparse(Uint32Array.of(3, 7, 11, 20), into, { leastVersion: 1 });
  expect(await soon(client.wait(around), "keys that are there")).toBe(1);
  expect([...into]).toEqual([1, 1, 1, 1]);
  const across = client.pullSparse(Uint32Array.of(3, 13), new Float32Array(2), { leastVersion: 0 });
  expect(await soon(client.wait(across), "any version")).toBe(0);
  const later = new Float32Array(2);
  const behind = client.pullSparse(Uint32Array.of(5, 13), later, { leastVersion: 1 });
  push(12, 15);
  push(4, 7);
  expect(await soon(client.wait(behind), "the rest")).toBe(1);
  expect([...later]).toEqual([1, 1]);
});

test("what a finished pull was of is known afterwards; a push that waits for others has not left", async () => {
  await using group = await KeyGroup.start({ create, keys: 6, servers: 2, clients: 2, consistency: BSP });
  const [client, other] = group.clients;
  const range = { start: 0, end: 6 };
  const values = new Float32Array(6).fill(-1);
  const first = client!.push(range, values, { step: 0, share: 0 });
  const second = client!.push(range, values, { step: 1, share: 0, after: [first] });
  let hasLeft = false;
  const left = client!.sent(second).then(() => (hasLeft = true));
  await soon(client!.sent(first), "the first push");
  expect(hasLeft).toBe(false);
  other!.push(range, values, { step: 0, share: 1 });
  await soon(left, "the second push");
  const pull = client!.pull(range, new Float32Array(6), { leastVersion: 1 });
  const next = client!.pullSparse(Uint32Array.of(5), new Float32Array(1), { leastVersion: 1, after: [pull] });
  expect(await soon(client!.wait(next), "the next pull")).toBe(1);
  expect(await client!.wait(pull)).toBe(1);
});

test("a request whose message would be too long is refused before it ends the link", async () => {
  const keys = 2 ** 24 + 1;
  await using group = await KeyGroup.start({ create, keys, servers: 1, clients: 1, consistency: BSP });
  const [client, all] = [group.clients[0]!, new Float32Array(keys)];
  expect(() => client.pull({ start: 0, end: keys }, all, { leastVersion: 0 })).toThrow("67108868 bytes in one message");
  const one = client.pull({ start: 0, end: 1 }, all.subarray(0, 1), { leastVersion: 0 });
  expect(await soon(client.wait(one), "a short pull")).toBe(0);
});

const SHARD = { start: 4, end: 8 };

test.each([
  ["a key of another server", FrameKind.pullSparse, [3]],
  ["a key behind the last", FrameKind.pullSparse, [8]],
  ["a key twice", FrameKind.pullSparse, [5, 5]],
  ["keys out of order", FrameKind.pullSparse, [6, 5]],
  ["no key", FrameKind.pullSparse, []],
  ["more keys than there are", FrameKind.pullSparse, [4, 5, 6, 7, 8]],
  ["a key of another server", FrameKind.pushSparse, [3, 0]],
  ["a key twice", FrameKind.pushSparse, [5, 5, 0, 0]],
  ["keys out of order", FrameKind.pushSparse, [6, 5, 0, 0]],
  ["a key without a value", FrameKind.pushSparse, [4, 5, 6]],
  ["more pairs than there are keys", FrameKind.pushSparse, Array.from({ length: 10 }, () => 4)],
])("a server refuses %s (frame %i)", (_, kind, words) => {
  const payload = new Uint8Array(Uint32Array.from(words).buffer);
  const sent = { sequence: 0, grantedBytes: 0, payloadBytes: payload.byteLength, payloadChecksum: 0 };
  const header = { ...frameFields({ kind }), ...sent };
  const hear = (): unknown => {
    if (payload.byteLength > 0) memoryFor(header, [SHARD], (sizeBytes) => new Uint8Array(sizeBytes)).set(payload);
    return requestOf({ header, payload }, [SHARD]);
  };
  expect(hear).toThrow("a worker sent what this server does not take");
});
