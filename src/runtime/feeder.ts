/**
 * @file From the data set to the slots of a segment: inputs and labels of a training micro-batch, and of a piece of the test
 * set. Every system feeds itself with this, so that all see the same samples in the same order.
 */
import { BatchPlan } from "../data/batches.ts";
import type { DataSet, Split } from "../data/dataset.ts";
import type { EngineMemory } from "../engine/memory.ts";
import type { SlotLayout } from "../nn/layout.ts";

/** What is filled: the first layer's input and, where the model ends in the same memory, the last layer's labels. */
export type FedSlot = Pick<SlotLayout, "input" | "labels">;

/** Label of a row that does not count. */
const NO_LABEL = -1;

export class Feeder {
  readonly data: DataSet;
  readonly #batches: BatchPlan;
  readonly #microBatches: number;

  constructor(data: DataSet, batch: { readonly seed: number; readonly batch: number; readonly microBatches: number }) {
    this.data = data;
    this.#batches = new BatchPlan({ count: data.train.count, ...batch });
    this.#microBatches = batch.microBatches;
  }

  fillTraining(memory: EngineMemory, slot: FedSlot, step: number, microBatch: number): void {
    const samples = this.#batches.samples(step, microBatch);
    this.#fill(memory, slot, this.data.train, (row) => samples[row]);
  }

  /** Micro-batch `index` of the test set in file order; rows beyond its end are zero and do not count. */
  fillEvaluation(memory: EngineMemory, slot: FedSlot, index: number): void {
    const { test } = this.data;
    const first = index * slot.input.shape[0]!;
    this.#fill(memory, slot, test, (row) => (first + row < test.count ? first + row : undefined));
  }

  #fill(memory: EngineMemory, slot: FedSlot, split: Split, sampleOf: (row: number) => number | undefined): void {
    const input = memory.f32(slot.input);
    const labels = slot.labels === null ? undefined : memory.i32(slot.labels);
    for (let row = 0; row < slot.input.shape[0]!; row += 1) {
      const sample = sampleOf(row);
      const offset = row * this.data.features;
      if (sample === undefined) input.fill(0, offset, offset + this.data.features);
      else split.fill(sample, input, offset);
      if (labels !== undefined) labels[row] = sample === undefined ? NO_LABEL : split.labels[sample]!;
    }
  }

  /** int32 labels of a step's whole batch, in micro-batch order. */
  stepLabels(step: number): Int32Array {
    const labels: number[] = [];
    for (let microBatch = 0; microBatch < this.#microBatches; microBatch += 1) {
      for (const sample of this.#batches.samples(step, microBatch)) labels.push(this.data.train.labels[sample]!);
    }
    return Int32Array.from(labels);
  }
}

/** Micro-batches of `rows` that cover the test set. */
export function evaluationCount(testCount: number, rows: number): number {
  return Math.ceil(testCount / rows);
}
