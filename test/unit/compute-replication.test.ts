/**
 * @file Compute threads with replicas: owners and replicas hold the same bits after every step, any version is restored at any
 * point of a step and goes on with the bits of the undisturbed run, and a thread that is interrupted keeps whole states.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { ENGINE_KINDS } from "../../src/engine/contract.ts";
import { stateArrays } from "../../src/nn/blocks.ts";
import { OPTIMIZER_NAMES } from "../../src/optim/optimizers.ts";
import type { ComputeInit } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { DataError } from "../../src/types/errors.ts";
import * as stages from "../helpers/compute-stages.ts";
import {
  digestLines,
  type NodeRanges,
  sendGradients,
  startNodes,
  updateReplicas,
} from "../helpers/replicated-threads.ts";
import * as segments from "../helpers/segments.ts";

const common = segments.setting({ model: "mlp:19-17-16-9-5", optimizer: "adam" });
const batches = [1, 2, 3, 4].map((seed) => segments.randomBatch(common, seed));
const LAYERS = [0, 1, 2, 3];

/** Three nodes, two replicas of each segment; the last node's two layers are replicated as one range and as two. */
const THREE: readonly NodeRanges[] = [
  { own: [[0, 1]], replicas: [[2, 4], [1, 2]] },
  { own: [[1, 2]], replicas: [[0, 1], [2, 3], [3, 4]] },
  { own: [[2, 4]], replicas: [[1, 2], [0, 1]] },
]; // prettier-ignore
/** Two nodes and two laps. */
const TWO_LAPS: readonly NodeRanges[] = [
  { own: [[0, 1], [2, 3]], replicas: [[1, 2], [3, 4]] },
  { own: [[1, 2], [3, 4]], replicas: [[0, 1], [2, 3]] },
]; // prettier-ignore
const WHOLE: readonly NodeRanges[] = [{ own: [[0, 4]], replicas: [] }];

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function start(nodes: readonly NodeRanges[], init: Partial<ComputeInit> = {}, setting = common) {
  const threads = await startNodes(init.engine ?? "wasm-exact", setting, nodes, init);
  cleanups.push(() => Promise.all(threads.map((thread) => thread.stop())));
  return threads;
}

/** One step of owners and replicas. */
async function step(threads: readonly ComputeThread[], number: number, slices: number): Promise<number> {
  const loss = await stages.trainStep(threads, batches[number]!, number);
  sendGradients(threads);
  await updateReplicas(threads, number, slices);
  return loss;
}

describe.each(ENGINE_KINDS)("%s", (engine) => {
  test.each(OPTIMIZER_NAMES)("%s: owners and replicas have the bits of no ring", async (optimizer) => {
    const setting = { ...common, optimizer };
    for (const [nodes, slices] of [
      [THREE, 3],
      [TWO_LAPS, 1],
    ] as const) {
      // prettier-ignore
      const threads = await start(nodes, { engine }, setting);
      const held = segments.holdCut(engine, setting, []);
      expect(digestLines(threads, 0).length).toBe(LAYERS.length);
      for (const [number, batch] of batches.entries()) {
        expect(await step(threads, number, slices)).toBe(segments.trainStep(held, batch));
        for (const version of [number, number + 1]) expect(digestLines(threads, version).length).toBe(LAYERS.length);
        const all = threads.flatMap((thread) => thread.stateBlocks(number + 1));
        for (const { layer, bytes } of all) {
          expect(bytes).toEqual(all.find((block) => block.layer === layer)!.bytes);
        }
      }
      expect(await stages.digests(threads)).toEqual(segments.digests(held));
    }
  });
});

test("what update and the last slice tell is what versions tells, and stands for the bytes", async () => {
  const [thread] = await start([{ own: [[0, 2]], replicas: [[2, 4]] }]);
  const filled = thread!.versions();
  expect(filled.map(({ layer, version }) => [layer, version])).toEqual(LAYERS.map((layer) => [layer, 0]));
  const { states: own } = await thread!.run<"update">({ kind: "update", step: 0 });
  const first = await thread!.insert<"replicaUpdate">({
    kind: "replicaUpdate",
    replica: 0,
    step: 0,
    slice: 0,
    slices: 2,
  });
  expect(first.states).toEqual([]);
  const second = await thread!.insert<"replicaUpdate">({
    kind: "replicaUpdate",
    replica: 0,
    step: 0,
    slice: 1,
    slices: 2,
  });
  const version = (number: number) => thread!.versions().filter((held) => held.version === number);
  expect(version(0)).toEqual(filled);
  expect(version(1)).toEqual([...own, ...second.states].map((state) => ({ ...state, version: 1 })));
  // A thread that starts from the blocks finds the same digests.
  const [again] = await start([{ own: [[0, 2]], replicas: [[2, 4]] }], {
    blocks: { step: 1, layers: thread!.stateBlocks(1) },
  });
  expect(again!.versions()).toEqual(version(1));
});

describe("restore", () => {
  /** Goes on from `layers` at `version` in one thread: the digests after the last batch. */
  async function goOn(layers: ReturnType<typeof stages.blocks>, version: number): Promise<Uint8Array[]> {
    const unique = LAYERS.map((layer) => layers.find((block) => block.layer === layer)!);
    const threads = await start(WHOLE, { blocks: { step: version, layers: unique } });
    for (let number = version; number < batches.length; number++) {
      await stages.trainStep(threads, batches[number]!, number);
    }
    return stages.digests(threads);
  }

  test("every version held at every point of a step goes on with the bits of the undisturbed run", async () => {
    const held = segments.holdCut("wasm-exact", common, []);
    for (const batch of batches) segments.trainStep(held, batch);
    const expected = segments.digests(held);
    const slices = 3;
    const threads = await start(THREE);
    for (const number of [0, 1]) await step(threads, number, slices);
    // The owners stand at 3, the replicas between 2 and 3.
    await stages.trainStep(threads, batches[2]!, 2);
    sendGradients(threads);
    for (let slice = 0; slice <= slices; slice++) {
      const versions = slice === 0 ? [1, 2] : slice < slices ? [2] : [2, 3];
      for (const thread of threads) {
        // Each alone: with what it owns and what it replicates it has all layers.
        const replicated = thread.replicas.flatMap(({ layers }) => layers.map(({ index }) => index));
        const behind = thread.versions().filter(({ layer }) => replicated.includes(layer));
        const expectedVersions = versions.flatMap((version) => replicated.map((layer) => `${layer} ${version}`));
        expect(behind.map(({ layer, version }) => `${layer} ${version}`).toSorted()).toEqual(
          expectedVersions.toSorted(),
        );
        expect(await goOn(thread.stateBlocks(2), 2)).toEqual(expected);
      }
      const owners = threads.flatMap((thread) => thread.stateBlocks(3));
      expect(await goOn(owners, 3)).toEqual(expected);
      if (slice < slices) await updateReplicas(threads, 2, slices, slice, slice + 1);
    }
    for (const thread of threads) expect(thread.stateBlocks(4)).toEqual([]);
  });

  test("from blocks, a replica is without a state until it is filled, and then follows", async () => {
    const before = await start(THREE);
    await step(before, 0, 2);
    const layers = before.flatMap((thread) => thread.layouts.flatMap(() => thread.stateBlocks(1)));
    const own = LAYERS.map((layer) => layers.find((block) => block.layer === layer)!);
    const [thread] = await start([{ own: [[0, 1]], replicas: [[2, 4], [1, 2]] }], { blocks: { step: 1, layers: own.slice(0, 2) } }); // prettier-ignore
    expect(thread!.versions().map(({ layer }) => layer)).toEqual([0, 1]);
    const update = { kind: "replicaUpdate", replica: 0, step: 1, slice: 0, slices: 1 } as const;
    await expect(thread!.insert(update)).rejects.toThrow("the layers have a state");
    expect(() => thread!.fillReplica(0, own.slice(0, 3), 1)).toThrow(DataError);
    const { states } = await thread!.fillReplica(0, own, 1);
    expect(states).toEqual(before[0]!.versions().flatMap(({ layer, version, digest }) => (layer >= 2 && version === 1 ? [{ layer, digest }] : []))); // prettier-ignore
    await stages.trainStep(before, batches[1]!, 1);
    sendGradients(before);
    await updateReplicas(before, 1, 2);
    for (const [i, { gradient }] of thread!.replicas[0]!.layers.entries()) {
      thread!.memory.f32(gradient!.all).set(before[2]!.memory.f32(before[2]!.layouts[0]!.layers[i]!.outgoing!.all));
    }
    await thread!.insert(update);
    expect(digestLines([thread!, ...before], 2).length).toBe(LAYERS.length);
    // A replica that went wrong is filled again.
    await thread!.fillReplica(0, before[2]!.stateBlocks(1), 1);
    expect(thread!.stateBlocks(1).filter(({ layer }) => layer >= 2)).toEqual(before[2]!.stateBlocks(1).filter(({ layer }) => layer >= 2)); // prettier-ignore
  });

  test("shards fill replicas too, at the start and later", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringtmp-replication-"));
    cleanups.push(() => rmSync(folder, { recursive: true }));
    const threads = await start(THREE);
    await step(threads, 0, 1);
    const files: string[] = [];
    for (const thread of threads) {
      files.push(join(folder, `${files.length}`));
      await thread.run({ kind: "save", lap: 0, file: files.at(-1)!, step: 1 });
    }
    const expected = digestLines(threads, 1);
    const restored = await start(THREE, { restore: files });
    expect(digestLines(restored, 1)).toEqual(expected);
    await step(restored, 1, 2);
    for (const thread of restored) {
      expect((await thread.run<"load">({ kind: "load", files })).step).toBe(1);
      expect([...new Set(thread.versions().map(({ version }) => version))]).toEqual([1]);
    }
    expect(digestLines(restored, 1)).toEqual(expected);
    for (const ring of [threads, restored]) await step(ring, 1, 3);
    expect(digestLines([...threads, ...restored], 2).length).toBe(LAYERS.length);
    await expect(restored[0]!.run({ kind: "load", files: [join(folder, "none")] })).rejects.toThrow(DataError);
    expect(restored[0]!.versions()).toEqual([]);
  });

  test("without redundancy the one version is known, without digests", async () => {
    const thread = await ComputeThread.start({ segments: [{ ...common, layers: [0, 4] }], engine: "wasm-exact" });
    cleanups.push(() => thread.stop());
    await stages.trainStep([thread], batches[0]!, 0);
    expect(thread.versions()).toEqual(LAYERS.map((layer) => ({ layer, version: 1, digest: null })));
    expect(thread.stateBlocks(0)).toEqual([]);
    expect(thread.stateBlocks(1)).toEqual(stages.blocks([thread]));
  });
});

test("a flipped bit of any array of an owner or a replica makes the digests differ, of its layer alone", async () => {
  const threads = await start(TWO_LAPS);
  await step(threads, 0, 1);
  const before = threads.flatMap((thread) => thread.stateBlocks(1));
  let flips = 0;
  for (const [thread, { layouts, replicas }] of threads.entries()) {
    for (const layer of [...layouts, ...replicas].flatMap(({ layers }) => layers)) {
      for (const view of stateArrays(layer)) {
        const blocks = { step: 1, layers: LAYERS.map((index) => before.find((block) => block.layer === index)!) };
        const ring = await start(TWO_LAPS, { blocks });
        const words = ring[thread]!.memory.i32(view);
        // A small value's change may be rounded away by the update, and the state is then as it would have been.
        const sizes = ring[thread]!.memory.f32(view).map(Math.abs);
        const place = sizes.indexOf(Math.max(...sizes));
        // After the step's passes, so that gradients stay: the flip alone must show.
        await stages.trainStep(ring, batches[1]!, 1, () => (words[place]! ^= 1 << (20 + (flips % 10))));
        sendGradients(ring);
        await updateReplicas(ring, 1, 2);
        const lines = digestLines(ring, 2);
        const context = `flip ${flips}`;
        expect(lines.length, context).toBe(LAYERS.length + 1);
        expect(lines.filter((line) => line.startsWith(`${layer.index} `)).length, context).toBe(2);
        await Promise.all(ring.map((one) => one.stop()));
        flips++;
      }
    }
  }
});

test("the memory that a thread allocates is what the layouts state", async () => {
  for (const { layouts, replicas, memory } of await start(TWO_LAPS)) {
    const stated = [...layouts, ...replicas].reduce((sum, { sizeBytes }) => sum + sizeBytes, 64);
    expect(memory.memory.buffer.byteLength).toBe(65_536 * Math.ceil(stated / 65_536));
  }
});
