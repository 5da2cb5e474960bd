/** @file The compute thread against a segment in this thread; its errors, its end, its costs. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { SegmentInit } from "../../src/nn/layout.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { measureLayerCosts } from "../../src/runtime/compute-costs.ts";
import type { ComputeInit } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { DataError, InterruptedError, UsageError } from "../../src/types/errors.ts";
import { type Batch, bits, digests, holdCut, randomBatch, setting, trainStep } from "../helpers/segments.ts";

const common = setting({ model: "mlp:9-8-7-5", optimizer: "adam" });
const whole: SegmentInit = { ...common, layers: [0, 3] };
const batch = randomBatch(common, 21);

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function start(init: Partial<ComputeInit> = {}): Promise<ComputeThread> {
  const thread = await ComputeThread.start({ segments: [whole], engine: "wasm-exact", ...init });
  cleanups.push(() => thread.stop());
  return thread;
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "ringtmp-compute-"));
  cleanups.push(() => rmSync(path, { recursive: true }));
  return path;
}

function fill({ layouts, memory }: ComputeThread, slot: number, { inputs, labels }: Batch, microBatch: number): void {
  const layout = layouts[0]!;
  const { rows } = layout.init;
  const { features } = layout.model;
  memory.f32(layout.slots[slot]!.input).set(inputs.subarray(microBatch * rows * features).subarray(0, rows * features));
  memory.i32(layout.slots[slot]!.labels!).set(labels.subarray(microBatch * rows, (microBatch + 1) * rows));
}

/** One step of a thread that holds the whole model; the mean loss. */
async function stepOf(thread: ComputeThread, fused: boolean): Promise<number> {
  let loss = 0;
  for (let m = 0; m < 3; m++) {
    fill(thread, m, batch, m);
    loss += (await thread.run({ kind: "forward", lap: 0, slot: m })).loss;
    if (fused) {
      const { startMs, boundaryMs, endMs } = await thread.run({ kind: "backward", lap: 0, slot: m });
      expect(startMs <= boundaryMs && boundaryMs <= endMs).toBe(true);
      continue;
    }
    await thread.run({ kind: "backwardInput", lap: 0, slot: m });
    for (const layer of [1, 2, 0]) await thread.run({ kind: "weightLayer", lap: 0, slot: m, layer });
  }
  await thread.run({ kind: "update", step: thread.startStep });
  return loss / 12;
}

describe("compute thread", () => {
  test.each([true, false])("does what a segment does (fused backward: %s)", async (fused) => {
    const thread = await start();
    const held = holdCut("wasm-exact", common, []);
    expect(await stepOf(thread, fused)).toBe(trainStep(held, batch));
    expect((await thread.run({ kind: "digests" })).digests.map(({ digest }) => digest)).toEqual(digests(held));
    expect(thread.layouts[0]).toEqual(held[0]!.segment.layout);
    expect([...thread.memory.i32(thread.layouts[0]!.layers[0]!.parameters.all)]).toEqual(bits(held, "parameters")[0]);
  });

  test("evaluates, and times on the common clock", async () => {
    const thread = await start();
    fill(thread, 0, batch, 0);
    const beforeMs = nowMs();
    const result = await thread.run({ kind: "evaluate", lap: 0, slot: 0 });
    // Two threads read the system's clock at their own starts: they agree within a millisecond.
    expect(result.startMs).toBeGreaterThan(beforeMs - 1);
    expect(result.endMs).toBeLessThan(nowMs() + 1);
    expect(result.endMs).toBeGreaterThanOrEqual(result.startMs);
    expect(result.runQueueMs).toBeGreaterThanOrEqual(0);
    expect(result.loss).toEqual((await thread.run({ kind: "forward", lap: 0, slot: 0 })).loss);
    expect(result.correct).toBeLessThanOrEqual(4);
  });

  test("saves, loads and restores", async () => {
    const file = join(folder(), "shard.safetensors");
    const thread = await start();
    await stepOf(thread, true);
    await thread.run({ kind: "save", lap: 0, file, step: 1 });
    const { digests: expected } = await thread.run({ kind: "digests" });
    const restored = await start({ restore: [file] });
    expect(restored.startStep).toBe(1);
    expect((await restored.run({ kind: "digests" })).digests).toEqual(expected);
    await stepOf(restored, true);
    expect((await restored.run({ kind: "digests" })).digests).not.toEqual(expected);
    expect((await restored.run({ kind: "load", files: [file] })).step).toBe(1);
    expect((await restored.run({ kind: "digests" })).digests).toEqual(expected);
  });

  test("errors keep their class, and the thread goes on", async () => {
    const file = join(folder(), "torn");
    writeFileSync(file, "torn");
    await expect(start({ restore: [file] })).rejects.toThrow(DataError);
    await expect(start({ segments: [{ ...whole, model: "mlp:0" }] })).rejects.toThrow(UsageError);
    const thread = await start();
    const error: unknown = await thread.run({ kind: "load", files: [file] }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(DataError);
    expect(error).toMatchObject({ name: "DataError", exitCode: 3, remedy: expect.stringContaining("another copy") });
    await expect(thread.run({ kind: "backward", lap: 0, slot: 0 })).rejects.toThrow(AssertionFailed);
    await expect(thread.run({ kind: "save", lap: 0, file, step: 5 })).rejects.toThrow("step 0 comes next");
    expect((await thread.run({ kind: "digests" })).digests.length).toBe(3);
  });

  test("one operation at a time", async () => {
    const thread = await start();
    const first = thread.run({ kind: "digests" });
    expect(() => thread.run({ kind: "digests" })).toThrow("one operation at a time");
    await first;
  });

  test("an operation that is under way when the thread stops is rejected, as are later ones", async () => {
    const thread = await start();
    const pending = expect(thread.run({ kind: "digests" })).rejects.toThrow(InterruptedError);
    await thread.stop();
    await pending;
    await expect(thread.run({ kind: "digests" })).rejects.toThrow(InterruptedError);
  });
});

test("costs of layers are whole microseconds, equal for equal layers, within bounded time", () => {
  const beforeMs = nowMs();
  const costs = measureLayerCosts("mlp:64-32-32-32-10", 16, "wasm", "adam");
  expect(nowMs() - beforeMs).toBeLessThan(5000);
  expect(costs.length).toBe(4);
  for (const value of costs.flatMap((layer) => Object.values(layer) as number[])) {
    expect(Number.isInteger(value) && value >= 1 && value < 1e6).toBe(true);
  }
  expect(costs[1]).toEqual(costs[2]);
});

// The sender counts, then notifies. Where it is preempted in between, the receiver has seen the count, has taken the message and
// waits for the next one when the notice comes.
test("a notice that comes late ends no wait, on either side", async () => {
  const waits = vi.spyOn(Atomics, "waitAsync");
  cleanups.push(() => waits.mockRestore());
  waits.mockReturnValueOnce({ async: true, value: Promise.resolve("ok") });
  const thread = await start();
  const [turns] = waits.mock.calls[0] as unknown as [Int32Array];
  // It waits, and after the notice it waits again.
  for (let notice = 0; notice < 2; notice += 1) {
    await vi.waitUntil(() => Atomics.notify(turns, 0) === 1, { timeout: 5_000, interval: 1 });
  }
  waits.mockReturnValueOnce({ async: true, value: Promise.resolve("ok") });
  expect((await thread.run({ kind: "digests" })).digests).toHaveLength(3);
});
