/** @file Trains one model over compute threads, each with a segment per lap, by hand: what a ring does, without the ring. */
import { layerBlocks, type LayerBlock } from "../../src/nn/blocks.ts";
import type { SegmentInit, SlotLayout } from "../../src/nn/layout.ts";
import type { OperationResult } from "../../src/runtime/compute-operations.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { Batch } from "./segments.ts";

interface Stage {
  readonly thread: ComputeThread;
  readonly lap: number;
  readonly init: SegmentInit;
  readonly slots: readonly SlotLayout[];
}

/** All segments, in layer order. */
export function stagesOf(threads: readonly ComputeThread[]): Stage[] {
  const stages = threads.flatMap((thread) =>
    thread.layouts.map(({ init, slots }, lap) => ({ thread, lap, init, slots })),
  );
  return stages.toSorted((a, b) => a.init.layers[0] - b.init.layers[0]);
}

export async function forward(stages: readonly Stage[], slot: number, batch: Batch, microBatch: number) {
  const [first, last] = [stages[0]!, stages.at(-1)!];
  const { rows } = first.init;
  const input = first.thread.memory.f32(first.slots[slot]!.input);
  input.set(batch.inputs.subarray(microBatch * input.length, (microBatch + 1) * input.length));
  const labels = batch.labels.subarray(microBatch * rows, (microBatch + 1) * rows);
  last.thread.memory.i32(last.slots[slot]!.labels!).set(labels);
  let result: OperationResult<"forward"> | undefined;
  for (const [i, { thread, lap, slots }] of stages.entries()) {
    result = await thread.run({ kind: "forward", lap, slot });
    const next = stages[i + 1];
    if (next) next.thread.memory.f32(next.slots[slot]!.input).set(thread.memory.f32(slots[slot]!.output));
  }
  return result!;
}

/** Every other stage in one operation, the rest for inputs and then layer by layer from the first. */
async function backward(stages: readonly Stage[], slot: number): Promise<void> {
  for (const [i, { thread, lap, slots, init }] of [...stages.entries()].toReversed()) {
    if (i % 2 === 0) await thread.run({ kind: "backward", lap, slot });
    else await thread.run({ kind: "backwardInput", lap, slot });
    const below = stages[i - 1];
    const gradient = slots[slot]!.inputGradient;
    if (below) below.thread.memory.f32(below.slots[slot]!.outputGradient).set(thread.memory.f32(gradient!));
    if (i % 2 === 0) continue;
    const [start, end] = init.layers;
    for (let layer = start; layer < end; layer++) await thread.run({ kind: "weightLayer", lap, slot, layer });
  }
}

/** One step; the mean loss. `beforeUpdate` runs when all gradients are there. */
export async function trainStep(
  threads: readonly ComputeThread[],
  batch: Batch,
  step: number,
  beforeUpdate = (): void => {},
): Promise<number> {
  const stages = stagesOf(threads);
  const count = batch.labels.length / stages[0]!.init.rows;
  let loss = 0;
  for (let m = 0; m < count; m++) loss += (await forward(stages, m, batch, m)).loss;
  for (let m = 0; m < count; m++) await backward(stages, m);
  beforeUpdate();
  for (const thread of threads) await thread.run({ kind: "update", step });
  return loss / batch.labels.length;
}

/** Of the whole model, in layer order. */
export async function digests(threads: readonly ComputeThread[]): Promise<Uint8Array[]> {
  const all = [];
  for (const thread of threads) all.push(...(await thread.run({ kind: "digests" })).digests);
  return all.toSorted((a, b) => a.layer - b.layer).map(({ digest }) => digest);
}

export function blocks(threads: readonly ComputeThread[]): LayerBlock[] {
  return threads.flatMap(({ layouts, memory }) => layerBlocks(layouts, memory));
}
