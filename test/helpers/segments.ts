/** @file Drives the segments of one model by hand, in one thread: what a ring does, without the ring. */
import { expect } from "vitest";
import type { EngineKind, View } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { planSegment, type SegmentInit, segmentMemory } from "../../src/nn/layout.ts";
import { Segment } from "../../src/nn/segment.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { RandomStream } from "../../src/types/random.ts";

/** Sets the tests' numbers apart from the program's. */
const TEST_PURPOSE = 1000;

export const freshSeed = Math.floor(Math.random() * 2 ** 32);

export interface Held {
  readonly segment: Segment;
  readonly memory: EngineMemory;
}

export type Setting = Omit<SegmentInit, "layers">;

export const setting = (changes: Partial<Setting> & { model: string }): Setting => ({
  rows: 4,
  slots: 3,
  optimizer: "adam",
  rate: 0.01,
  seed: 7,
  batch: 12,
  ...changes,
});

export function hold(engine: EngineKind, init: SegmentInit): Held {
  const layout = planSegment(init, loadKernels(engine, new EngineMemory(0).memory));
  const memory = segmentMemory([layout]);
  const segment = new Segment(layout, memory, loadKernels(engine, memory.memory));
  segment.initialize();
  return { segment, memory };
}

/** The whole model cut before each layer of `cuts`. */
export function holdCut(engine: EngineKind, common: Setting, cuts: readonly number[]): Held[] {
  const starts = [0, ...cuts];
  const end = parseModel(common.model).layers.length;
  return starts.map((start, i) => hold(engine, { ...common, layers: [start, starts[i + 1] ?? end] }));
}

export interface Batch {
  /** [batch, features] */
  readonly inputs: Float32Array;
  readonly labels: Int32Array;
}

/** Inputs in [-1, 1), labels of a rule that can be learnt. */
export function randomBatch(common: Setting, seed: number): Batch {
  const { features, classes } = parseModel(common.model);
  const random = new RandomStream(seed, TEST_PURPOSE);
  const inputs = Float32Array.from({ length: common.batch * features }, () => 2 * random.nextFloat() - 1);
  const labels = Int32Array.from({ length: common.batch }, (_, row) => {
    const sample = [...inputs.subarray(row * features, row * features + Math.min(features, classes))];
    return sample.indexOf(Math.max(...sample));
  });
  return { inputs, labels };
}

export function randomDirection(length: number, seed: number): number[] {
  const random = new RandomStream(seed, TEST_PURPOSE, 1);
  return Array.from({ length }, () => (random.nextFloat() < 0.5 ? -1 : 1));
}

const copy = (from: Held, a: View, to: Held, b: View): void => to.memory.f32(b).set(from.memory.f32(a));

/** Forward of one micro-batch through all segments; the last one's result. */
export function forward(
  held: readonly Held[],
  slot: number,
  batch: Batch,
  microBatch: number,
  kind: "forward" | "evaluate" = "forward",
) {
  const { init, model } = held[0]!.segment.layout;
  const first = held[0]!.segment.layout.slots[slot]!.input;
  const from = microBatch * init.rows;
  held[0]!.memory.f32(first).set(batch.inputs.subarray(from * model.features, (from + init.rows) * model.features));
  const last = held.at(-1)!;
  last.memory.i32(last.segment.layout.slots[slot]!.labels!).set(batch.labels.subarray(from, from + init.rows));
  return held
    .map((one, i) => {
      const result = one.segment[kind](slot);
      const next = held[i + 1];
      if (next) copy(one, one.segment.layout.slots[slot]!.output, next, next.segment.layout.slots[slot]!.input);
      return result;
    })
    .at(-1)!;
}

export function backwardInput(held: readonly Held[], slot: number): void {
  for (let i = held.length - 1; i >= 0; i--) {
    const one = held[i]!;
    one.segment.backwardInput(slot);
    const { inputGradient } = one.segment.layout.slots[slot]!;
    const below = held[i - 1];
    if (below) copy(one, inputGradient!, below, below.segment.layout.slots[slot]!.outputGradient);
    else expect(inputGradient).toBeNull();
  }
}

/** All passes of one step but the update: all forwards first, or (`eager`) each micro-batch to its end. Mean loss. */
export function passes(held: readonly Held[], batch: Batch, eager = false): number {
  const { rows, batch: size } = held[0]!.segment.layout.init;
  const count = size / rows;
  const losses: number[] = [];
  for (let m = 0; m < count; m++) {
    losses.push(forward(held, m, batch, m).loss);
    if (!eager) continue;
    backwardInput(held, m);
    for (const { segment } of held) segment.backwardWeight(m);
  }
  if (!eager) {
    for (let m = count - 1; m >= 0; m--) backwardInput(held, m);
    for (let m = 0; m < count; m++) for (const { segment } of held) segment.backwardWeight(m);
  }
  return losses.reduce((sum, loss) => sum + loss, 0) / size;
}

export function trainStep(held: readonly Held[], batch: Batch, eager = false): number {
  const loss = passes(held, batch, eager);
  for (const { segment } of held) segment.update(segment.step);
  return loss;
}

/** Per layer of the model, the bits of one kind of block. */
export function bits(held: readonly Held[], which: "parameters" | "gradient"): number[][] {
  return held.flatMap(({ segment, memory }) =>
    segment.layout.layers.map((layer) => [...memory.i32(layer[which]!.all)]),
  );
}

export function digests(held: readonly Held[]): Uint8Array[] {
  return held.flatMap(({ segment }) => segment.digests());
}
