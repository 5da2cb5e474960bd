/**
 * @file From the data set to the slots of a segment: inputs and labels of a training micro-batch, and of a piece of the test
 * set. Every system feeds itself with this, so that all see the same samples in the same order.
 */
import { addNoise, parseAugment } from "../data/augment.ts";
import { BatchPlan } from "../data/batches.ts";
import type { DataSet, Split } from "../data/dataset.ts";
import type { EngineMemory } from "../engine/memory.ts";
import type { SlotLayout } from "../nn/layout.ts";

/** What is filled: the first layer's input and, where the model ends in the same memory, the last layer's labels. */
export type FedSlot = Pick<SlotLayout, "input" | "labels">;

/** One micro-batch as arrays, which the caller owns. */
export interface BatchArrays {
  /** `[rows, features]`. */
  readonly input: Float32Array;
  /** `[rows]`. */
  readonly labels: Int32Array | undefined;
}

export interface FeederInit {
  readonly seed: number;
  readonly batch: number;
  readonly microBatches: number;
  /** As `--augment` says; without it the samples are as they are. */
  readonly augment?: string;
}

/** Label of a row that does not count. */
const NO_LABEL = -1;

export class Feeder {
  readonly data: DataSet;
  readonly #init: FeederInit;
  readonly #batches: BatchPlan;
  readonly #amplitude: number;

  constructor(data: DataSet, init: FeederInit) {
    const { seed, batch, microBatches, augment = "none" } = init;
    this.data = data;
    this.#init = init;
    this.#batches = new BatchPlan({ count: data.train.count, seed, batch, microBatches });
    this.#amplitude = parseAugment(augment);
  }

  /** Samples of a micro-batch. */
  get rows(): number {
    return this.#init.batch / this.#init.microBatches;
  }

  fillTraining(memory: EngineMemory, slot: FedSlot, step: number, microBatch: number): void {
    this.writeTraining(arraysOf(memory, slot), step, microBatch);
  }

  fillEvaluation(memory: EngineMemory, slot: FedSlot, index: number): void {
    this.writeEvaluation(arraysOf(memory, slot), index);
  }

  writeTraining(into: BatchArrays, step: number, microBatch: number): void {
    const samples = this.#batches.samples(step, microBatch);
    this.#write(into, this.data.train, (row) => samples[row]);
    if (this.#amplitude === 0) return;
    const { features } = this.data;
    for (let row = 0; row < this.rows; row += 1) {
      const sample = into.input.subarray(row * features, (row + 1) * features);
      addNoise(sample, this.#amplitude, this.#init.seed, step, microBatch * this.rows + row);
    }
  }

  /** Micro-batch `index` of the test set in file order; rows beyond its end are zero and do not count. */
  writeEvaluation(into: BatchArrays, index: number): void {
    const { test } = this.data;
    const first = index * this.rows;
    this.#write(into, test, (row) => (first + row < test.count ? first + row : undefined));
  }

  #write({ input, labels }: BatchArrays, split: Split, sampleOf: (row: number) => number | undefined): void {
    const { features } = this.data;
    for (let row = 0; row < this.rows; row += 1) {
      const sample = sampleOf(row);
      const offset = row * features;
      if (sample === undefined) input.fill(0, offset, offset + features);
      else split.fill(sample, input, offset);
      if (labels !== undefined) labels[row] = sample === undefined ? NO_LABEL : split.labels[sample]!;
    }
  }

  /** int32 labels of a step's whole batch, in micro-batch order. */
  stepLabels(step: number): Int32Array {
    const labels: number[] = [];
    for (let microBatch = 0; microBatch < this.#init.microBatches; microBatch += 1) {
      for (const sample of this.#batches.samples(step, microBatch)) labels.push(this.data.train.labels[sample]!);
    }
    return Int32Array.from(labels);
  }
}

export function arraysOf(memory: EngineMemory, { input, labels }: FedSlot): BatchArrays {
  return { input: memory.f32(input), labels: labels === null ? undefined : memory.i32(labels) };
}

/** Micro-batches of `rows` that cover the test set. */
export function evaluationCount(testCount: number, rows: number): number {
  return Math.ceil(testCount / rows);
}
