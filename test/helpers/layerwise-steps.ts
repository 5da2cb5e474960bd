/** @file One step of a model layer by layer, as workers that hold all layers or two at a time run it, and of the model in one. */
import { syntheticDataSet } from "../../src/data/synthetic.ts";
import type { ForwardResult } from "../../src/nn/segment.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { evaluationCount, Feeder } from "../../src/runtime/feeder.ts";
import type { LayerwiseCompute, LayerwiseInit } from "../../src/runtime/layerwise.ts";

const MICRO_BATCHES = 3;
export const common = { rows: 4, batch: 12, seed: 7 };
/** For models of 9 features and 5 classes; the test set ends within a micro-batch. */
const data = syntheticDataSet({ classes: 5, features: 9, samples: 50, test: 10 }, 3);
export const feeder = new Feeder(data, { ...common, microBatches: MICRO_BATCHES });
const EVALUATIONS = evaluationCount(data.test.count, common.rows);

export interface StepResult {
  /** Of each micro-batch. */
  readonly results: readonly ForwardResult[];
  /** Of each layer, of the whole step; copies. */
  readonly gradients: readonly Float32Array[];
}

export const resultOf = ({ notFiniteLayer, loss, correct }: ForwardResult): ForwardResult => ({
  notFiniteLayer,
  loss,
  correct,
});

export const bitsOf = (array: Float32Array): number[] => [
  ...new Int32Array(array.buffer, array.byteOffset, array.length),
];

/** The model in one segment. */
export class Oracle {
  readonly #thread: ComputeThread;

  private constructor(thread: ComputeThread) {
    this.#thread = thread;
  }

  static async start({ model, engine }: Pick<LayerwiseInit, "model" | "engine">): Promise<Oracle> {
    const layers = [0, parseModel(model).layers.length] as const;
    const segment = { ...common, model, layers, slots: 1, optimizer: "sgd", rate: 0.05 };
    return new Oracle(await ComputeThread.start({ segments: [segment], engine }));
  }

  /** Copies. */
  get parameters(): Float32Array[] {
    return this.#layout.layers.map(({ parameters }) => this.#thread.memory.f32(parameters.all).slice());
  }

  /** Updates the parameters in the end. */
  async step(step: number): Promise<StepResult> {
    const results = [];
    for (let microBatch = 0; microBatch < MICRO_BATCHES; microBatch++) {
      feeder.fillTraining(this.#thread.memory, this.#layout.slots[0]!, step, microBatch);
      results.push(resultOf(await this.#thread.run({ kind: "forward", lap: 0, slot: 0 })));
      await this.#thread.run({ kind: "backward", lap: 0, slot: 0 });
    }
    const gradients = this.#layout.layers.map(({ gradient }) => this.#thread.memory.f32(gradient!.all).slice());
    await this.#thread.run({ kind: "update", step });
    return { results, gradients };
  }

  async evaluate(): Promise<ForwardResult[]> {
    const results = [];
    for (let index = 0; index < EVALUATIONS; index++) {
      feeder.fillEvaluation(this.#thread.memory, this.#layout.slots[0]!, index);
      results.push(resultOf(await this.#thread.run({ kind: "evaluate", lap: 0, slot: 0 })));
    }
    return results;
  }

  stop(): Promise<void> {
    return this.#thread.stop();
  }

  get #layout() {
    return this.#thread.layouts[0]!;
  }
}

const upwards = ({ layers }: LayerwiseCompute): number[] => [...Array(layers).keys()];
const downwards = (compute: LayerwiseCompute): number[] => upwards(compute).toReversed();

/** Where all is held: loads once, then every pass in turn; weights when all passes for inputs are done, in another order. */
export async function stepOfAll(
  compute: LayerwiseCompute,
  parameters: readonly Float32Array[],
  step: number,
): Promise<StepResult> {
  for (const layer of upwards(compute)) compute.parameters(layer).set(parameters[layer]!);
  const results: ForwardResult[] = [];
  for (let microBatch = 0; microBatch < MICRO_BATCHES; microBatch++) {
    feeder.fillTraining(compute.memory, compute.slot, step, microBatch);
    const told = [];
    for (const layer of upwards(compute)) told.push(resultOf(await compute.forward(layer)));
    results.push(told.at(-1)!);
    for (const layer of downwards(compute)) await compute.backwardInput(layer);
    for (const odd of [1, 0])
      for (const layer of upwards(compute)) if (layer % 2 === odd) await compute.backwardWeight(layer);
  }
  const gradients = upwards(compute).map((layer) => compute.gradient(layer).slice());
  for (const layer of upwards(compute)) compute.clearGradient(layer);
  return { results, gradients };
}

/**
 * In a pool: loads each layer while the one before is computed, and poisons what is no longer needed, parameters after their
 * pass, gradients once they are taken.
 */
export async function stepOfPool(
  compute: LayerwiseCompute,
  parameters: readonly Float32Array[],
  step: number,
): Promise<StepResult> {
  const poison = poisonOf(compute, parameters);
  const load = loadOf(compute, parameters);
  const gradients = parameters.map(({ length }) => new Float32Array(length));
  const results: ForwardResult[] = [];
  for (let microBatch = 0; microBatch < MICRO_BATCHES; microBatch++) {
    feeder.fillTraining(compute.memory, compute.slot, step, microBatch);
    load(0);
    const told = [];
    for (const layer of upwards(compute)) {
      const forward = compute.forward(layer);
      load(layer + 1);
      told.push(resultOf(await forward));
      poison(compute.parameters(layer));
    }
    results.push(told.at(-1)!);
    load(compute.layers - 1);
    for (const layer of downwards(compute)) {
      // Layer 0's pass reads no parameters.
      if (layer === 0) poison(compute.parameters(0));
      const input = compute.backwardInput(layer);
      load(layer - 1);
      await input;
      poison(compute.parameters(layer));
      compute.clearGradient(layer);
      const weight = compute.backwardWeight(layer);
      // Of the same place: its parameters come before the gradient was taken.
      load(layer - 2);
      await weight;
      compute.gradient(layer).forEach((value, i) => (gradients[layer]![i]! += value));
      poison(compute.gradient(layer));
    }
  }
  return { results, gradients };
}

/** Nothing for a layer that does not exist. */
function loadOf(compute: LayerwiseCompute, parameters: readonly Float32Array[]): (layer: number) => void {
  return (layer) => {
    const values = parameters[layer];
    if (values !== undefined) compute.parameters(layer).set(values);
  };
}

/** A whole place, beyond the end of the layer that is in it. */
function poisonOf(compute: LayerwiseCompute, parameters: readonly Float32Array[]): (place: Float32Array) => void {
  const largest = Math.max(...parameters.map(({ length }) => length));
  return ({ byteOffset }) => new Float32Array(compute.memory.memory.buffer, byteOffset, largest).fill(NaN);
}

/** Loads each layer before its pass, as it does for either. */
export async function evaluate(
  compute: LayerwiseCompute,
  parameters: readonly Float32Array[],
): Promise<ForwardResult[]> {
  const results = [];
  for (let index = 0; index < EVALUATIONS; index++) {
    feeder.fillEvaluation(compute.memory, compute.slot, index);
    const told = [];
    for (const layer of upwards(compute)) {
      compute.parameters(layer).set(parameters[layer]!);
      told.push(resultOf(await compute.evaluate(layer)));
    }
    results.push(told.at(-1)!);
  }
  return results;
}
