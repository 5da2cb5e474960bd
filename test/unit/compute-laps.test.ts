/** @file Several segments in one compute thread, and state that moves between threads, against one segment in this thread. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { SegmentInit } from "../../src/nn/layout.ts";
import type { ComputeInit } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { DataError } from "../../src/types/errors.ts";
import * as stages from "../helpers/compute-stages.ts";
import * as segments from "../helpers/segments.ts";

type Range = readonly [number, number];

const common = segments.setting({ model: "mlp:9-8-7-6-5,activation=gelu" });
const batches = [1, 2, 3, 4].map((seed) => segments.randomBatch(common, seed));

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

/** A thread per node; a node's segments are its laps. */
async function start(nodes: readonly (readonly Range[])[], optimizer: string, state: Partial<ComputeInit> = {}) {
  const threads = [];
  for (const laps of nodes) {
    const inits: SegmentInit[] = laps.map((layers) => ({ ...common, optimizer, layers }));
    const thread = await ComputeThread.start({ segments: inits, engine: "wasm-exact", ...state });
    cleanups.push(() => thread.stop());
    threads.push(thread);
  }
  return threads;
}

const TWO_LAPS = [
  [[0, 1], [2, 3]],
  [[1, 2], [3, 4]],
] as const; // prettier-ignore
/** Laps out of layer order, and unequal ones. */
const UNEVEN = [
  [
    [3, 4],
    [0, 2],
  ],
  [[2, 3]],
] as const;

describe("laps", () => {
  test.each([[TWO_LAPS], [UNEVEN]])("train with the bits of one segment (%j)", async (nodes) => {
    const threads = await start(nodes, "adam");
    const held = segments.holdCut("wasm-exact", common, []);
    for (const [step, batch] of batches.entries())
      expect(await stages.trainStep(threads, batch, step)).toBe(segments.trainStep(held, batch));
    expect(await stages.digests(threads)).toEqual(segments.digests(held));
  });

  test("digests come in layer order with the layers' numbers", async () => {
    const [thread] = await start(UNEVEN, "adam");
    expect((await thread!.run({ kind: "digests" })).digests.map(({ layer }) => layer)).toEqual([0, 1, 3]);
  });

  test("each lap saves its shard, and all load at once", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringtmp-laps-"));
    cleanups.push(() => rmSync(folder, { recursive: true }));
    const threads = await start(TWO_LAPS, "adam");
    await stages.trainStep(threads, batches[0]!, 0);
    const files = [];
    for (const { thread, lap } of stages.stagesOf(threads)) {
      const file = join(folder, `${files.length}`);
      await thread.run({ kind: "save", lap, file, step: 1 });
      files.push(file);
    }
    const expected = await stages.digests(threads);
    const restored = await start(UNEVEN, "adam", { restore: files });
    expect(restored.map(({ startStep }) => startStep)).toEqual([1, 1]);
    expect(await stages.digests(restored)).toEqual(expected);
    await stages.trainStep(restored, batches[1]!, 1);
    for (const thread of restored) expect((await thread.run({ kind: "load", files })).step).toBe(1);
    expect(await stages.digests(restored)).toEqual(expected);
    for (const one of [threads, restored]) await stages.trainStep(one, batches[1]!, 1);
    expect(await stages.digests(restored)).toEqual(await stages.digests(threads));
  });

  test("a slot, a layer or a lap that is not there is refused", async () => {
    const [thread] = await start(TWO_LAPS, "adam");
    await expect(thread!.run({ kind: "forward", lap: 2, slot: 0 })).rejects.toThrow("lap 2 has a segment");
    await expect(thread!.run({ kind: "forward", lap: 0, slot: 3 })).rejects.toThrow(AssertionFailed);
    await thread!.run({ kind: "forward", lap: 1, slot: 0 });
    await thread!.run({ kind: "backwardInput", lap: 1, slot: 0 });
    await expect(thread!.run({ kind: "weightLayer", lap: 1, slot: 0, layer: 0 })).rejects.toThrow(AssertionFailed);
    await expect(thread!.run({ kind: "weightLayer", lap: 0, slot: 0, layer: 2 })).rejects.toThrow(AssertionFailed);
    await thread!.run({ kind: "weightLayer", lap: 1, slot: 0, layer: 2 });
  });
});

describe("state from memory", () => {
  test.each(["sgd", "momentum", "adam", "adamw", "adagrad"])(
    "layers that move between steps go on with the same bits: %s",
    async (optimizer) => {
      const before = await start(TWO_LAPS, optimizer);
      const held = segments.holdCut("wasm-exact", { ...common, optimizer }, []);
      for (const batch of batches) segments.trainStep(held, batch);
      for (const step of [0, 1]) await stages.trainStep(before, batches[step]!, step);
      const moved = { step: 2, layers: stages.blocks(before) };
      const after = await start(UNEVEN, optimizer, { blocks: moved });
      expect(after.map(({ startStep }) => startStep)).toEqual([2, 2]);
      expect(await stages.digests(after)).toEqual(await stages.digests(before));
      // What was copied out is the caller's: the threads that it came from do not change it.
      await stages.trainStep(before, batches[2]!, 2);
      const again = await start([[[0, 4]]], optimizer, { blocks: moved });
      for (const threads of [after, again]) {
        for (const step of [2, 3]) await stages.trainStep(threads, batches[step]!, step);
        expect(await stages.digests(threads)).toEqual(segments.digests(held));
      }
    },
  );

  test("a block holds weight, bias and the states, in this order", async () => {
    const threads = await start(UNEVEN, "adam");
    await stages.trainStep(threads, batches[0]!, 0);
    const [{ layouts, memory }] = threads as [ComputeThread];
    const { parameters, states } = layouts[1]!.layers[1]!;
    const expected = [parameters.weight, parameters.bias, ...states.flatMap(({ weight, bias }) => [weight, bias])];
    const block = stages.blocks(threads.slice(0, 1))[1]!;
    expect(block.layer).toBe(1);
    expect([...new Float32Array(block.bytes.buffer)]).toEqual(expected.flatMap((view) => [...memory.f32(view)]));
  });

  test("a layer that is missing or of another size is refused", async () => {
    const layers = stages.blocks(await start(TWO_LAPS, "adam"));
    const startWith = (changed: typeof layers) => start(UNEVEN, "adam", { blocks: { step: 0, layers: changed } });
    await expect(startWith(layers.slice(0, 3))).rejects.toThrow("layer 3 is missing");
    const short = layers.map(({ layer, bytes }) => ({ layer, bytes: layer === 2 ? bytes.subarray(4) : bytes }));
    await expect(startWith(short)).rejects.toThrow(DataError);
    await expect(startWith([...layers, layers[0]!])).rejects.toThrow("a layer comes once");
  });
});
