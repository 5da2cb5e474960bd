/**
 * @file A multilayer perceptron with ReLU, softmax and Adam in plain loops: the yardstick for how hard a data set is.
 * Shares no code with the engine. Zero inputs are skipped, which images are full of.
 */
import { BatchPlan } from "../../src/data/batches.ts";
import type { DataSet, Split } from "../../src/data/dataset.ts";
import { RandomStream } from "../../src/types/random.ts";

export interface PlainTraining {
  /** Hidden layers' widths; none makes it softmax regression. */
  readonly hidden: readonly number[];
  readonly steps: number;
  readonly batch: number;
  readonly rate: number;
  readonly seed: number;
}

interface Layer {
  readonly inputs: number;
  readonly outputs: number;
  /** [inputs + 1, outputs]: the last row is the bias. */
  readonly weights: Float32Array;
  readonly gradient: Float32Array;
  readonly mean: Float32Array;
  readonly square: Float32Array;
  /** What the layer last gave out, and the gradient of the loss for it. */
  readonly output: Float32Array;
  readonly outputGradient: Float32Array;
}

/** Trains on `data.train` and returns the accuracy on `data.test`, in [0, 1]. */
export function plainTestAccuracy(data: DataSet, training: PlainTraining): number {
  const { steps, batch, rate, seed } = training;
  const widths = [data.features, ...training.hidden, data.classes];
  const layers = widths.slice(1).map((outputs, index) => plainLayer(widths[index]!, outputs, seed, index));
  const plan = new BatchPlan({ count: data.train.count, seed, batch, microBatches: 1 });
  const input = new Float32Array(data.features);
  for (let step = 0; step < steps; step++) {
    for (const sample of plan.samples(step, 0)) {
      data.train.fill(sample, input, 0);
      forward(layers, input);
      backward(layers, input, data.train.labels[sample]!, 1 / batch);
    }
    for (const layer of layers) adam(layer, rate, step + 1);
  }
  return accuracy(layers, data.test, input);
}

function plainLayer(inputs: number, outputs: number, seed: number, index: number): Layer {
  const random = new RandomStream(seed, 1_000, index);
  const size = (inputs + 1) * outputs;
  const bound = Math.sqrt(6 / inputs);
  const weights = Float32Array.from({ length: size }, () => (2 * random.nextFloat() - 1) * bound);
  weights.fill(0, inputs * outputs);
  return {
    inputs,
    outputs,
    weights,
    gradient: new Float32Array(size),
    mean: new Float32Array(size),
    square: new Float32Array(size),
    output: new Float32Array(outputs),
    outputGradient: new Float32Array(outputs),
  };
}

function forward(layers: readonly Layer[], input: Float32Array): void {
  let x = input;
  for (const layer of layers) {
    const { inputs, outputs, weights, output } = layer;
    output.set(weights.subarray(inputs * outputs));
    for (let row = 0; row < inputs; row++) {
      const value = x[row]!;
      if (value === 0) continue;
      for (let column = 0, at = row * outputs; column < outputs; column++, at++)
        output[column]! += value * weights[at]!;
    }
    if (layer !== layers.at(-1))
      for (let column = 0; column < outputs; column++) if (output[column]! < 0) output[column] = 0;
    x = output;
  }
}

function backward(layers: readonly Layer[], input: Float32Array, label: number, scale: number): void {
  const last = layers.at(-1)!;
  const largest = Math.max(...last.output);
  const powers = last.output.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  powers.forEach((power, column) => (last.outputGradient[column] = (power / sum - (column === label ? 1 : 0)) * scale));
  for (let index = layers.length - 1; index >= 0; index--) {
    const { inputs, outputs, weights, gradient, outputGradient } = layers[index]!;
    const before = layers[index - 1];
    const x = before === undefined ? input : before.output;
    before?.outputGradient.fill(0);
    for (let row = 0; row < inputs; row++) {
      const value = x[row]!;
      // Zero inputs give no weight gradient, and behind a ReLU that is shut they pass none on.
      if (value === 0) continue;
      let passed = 0;
      for (let column = 0, at = row * outputs; column < outputs; column++, at++) {
        gradient[at]! += value * outputGradient[column]!;
        if (before !== undefined) passed += weights[at]! * outputGradient[column]!;
      }
      if (before !== undefined) before.outputGradient[row] = passed;
    }
    for (let column = 0; column < outputs; column++) gradient[inputs * outputs + column]! += outputGradient[column]!;
  }
}

function adam({ weights, gradient, mean, square }: Layer, rate: number, step: number): void {
  const correction = rate * (Math.sqrt(1 - 0.999 ** step) / (1 - 0.9 ** step));
  for (let at = 0; at < weights.length; at++) {
    const slope = gradient[at]!;
    mean[at]! += 0.1 * (slope - mean[at]!);
    square[at]! += 0.001 * (slope * slope - square[at]!);
    weights[at]! -= (correction * mean[at]!) / (Math.sqrt(square[at]!) + 1e-8);
    gradient[at] = 0;
  }
}

function accuracy(layers: readonly Layer[], split: Split, input: Float32Array): number {
  const { output } = layers.at(-1)!;
  let correct = 0;
  for (let sample = 0; sample < split.count; sample++) {
    split.fill(sample, input, 0);
    forward(layers, input);
    if (output.indexOf(Math.max(...output)) === split.labels[sample]) correct++;
  }
  return correct / split.count;
}
