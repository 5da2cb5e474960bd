/**
 * @file An independent multilayer perceptron in plain double precision, written for obviousness: the oracle of the models
 * and optimizers. It shares no code with them. For sizes up to some hundred.
 */

export interface ReferenceLayer {
  /** weight[input][output] */
  weight: number[][];
  bias: number[];
}

export interface ReferenceModel {
  layers: ReferenceLayer[];
  activation: "relu" | "gelu" | "tanh";
}

const GELU_SCALE = Math.sqrt(2 / Math.PI);

function activate(kind: ReferenceModel["activation"], x: number): number {
  if (kind === "relu") return x > 0 ? x : 0;
  if (kind === "tanh") return Math.tanh(x);
  return (x / 2) * (1 + Math.tanh(GELU_SCALE * (x + 0.044715 * x * x * x)));
}

function slope(kind: ReferenceModel["activation"], x: number): number {
  if (kind === "relu") return x > 0 ? 1 : 0;
  if (kind === "tanh") return 1 - Math.tanh(x) ** 2;
  const t = Math.tanh(GELU_SCALE * (x + 0.044715 * x * x * x));
  return (1 + t) / 2 + (x / 2) * (1 - t * t) * GELU_SCALE * (1 + 3 * 0.044715 * x * x);
}

/** From float32 tensors as they stand in a segment: weight [inputs, outputs] row-major, bias [outputs]. */
export function referenceLayer(
  inputs: number,
  outputs: number,
  weight: Float32Array,
  bias: Float32Array,
): ReferenceLayer {
  const rows = Array.from({ length: inputs }, (_, i) => [...weight.subarray(i * outputs, (i + 1) * outputs)]);
  return { weight: rows, bias: [...bias] };
}

/** For each sample: the values before activation of every layer, the last of which are the logits. */
function preActivations(model: ReferenceModel, sample: number[]): number[][] {
  const all: number[][] = [];
  let input = sample;
  for (const { weight, bias } of model.layers) {
    const sums = bias.map((b, j) => input.reduce((sum, x, i) => sum + x * weight[i]![j]!, b));
    all.push(sums);
    input = sums.map((x) => activate(model.activation, x));
  }
  return all;
}

function sampleLoss(logits: number[], label: number): number {
  const largest = Math.max(...logits);
  return Math.log(logits.reduce((sum, z) => sum + Math.exp(z - largest), 0)) + largest - logits[label]!;
}

/** The sum of the samples' losses. */
export function referenceLoss(model: ReferenceModel, samples: number[][], labels: number[]): number {
  return samples.reduce((sum, x, i) => sum + sampleLoss(preActivations(model, x).at(-1)!, labels[i]!), 0);
}

/** Gradient of the sum of the samples' losses, shaped as the layers. */
export function referenceGradient(model: ReferenceModel, samples: number[][], labels: number[]): ReferenceLayer[] {
  const gradient = model.layers.map(({ weight, bias }) => ({
    weight: weight.map((row) => row.map(() => 0)),
    bias: bias.map(() => 0),
  }));
  samples.forEach((sample, index) => {
    const sums = preActivations(model, sample);
    const logits = sums.at(-1)!;
    const loss = sampleLoss(logits, labels[index]!) + logits[labels[index]!]!;
    let delta = logits.map((z, j) => Math.exp(z - loss) - (j === labels[index]! ? 1 : 0));
    for (let l = model.layers.length - 1; l >= 0; l--) {
      const below = l === 0 ? sample : sums[l - 1]!.map((x) => activate(model.activation, x));
      const { weight, bias } = gradient[l]!;
      delta.forEach((d, j) => {
        bias[j]! += d;
        below.forEach((x, i) => (weight[i]![j]! += x * d));
      });
      if (l === 0) continue;
      const next = sums[l - 1]!.map((x, i) => {
        const back = delta.reduce((sum, d, j) => sum + d * model.layers[l]!.weight[i]![j]!, 0);
        return back * slope(model.activation, x);
      });
      delta = next;
    }
  });
  return gradient;
}

export type ReferenceOptimizer = "sgd" | "momentum" | "adam" | "adamw" | "adagrad";

/** What the optimizer remembers of one number. */
interface Memory {
  a: number;
  b: number;
}

function updateNumber(kind: ReferenceOptimizer, w: number, g: number, memory: Memory, t: number, rate: number): number {
  switch (kind) {
    case "sgd":
      return w - rate * g;
    case "momentum":
      memory.a = 0.9 * memory.a + g;
      return w - rate * memory.a;
    case "adagrad":
      memory.a += g * g;
      return w - (rate * g) / (Math.sqrt(memory.a) + 1e-10);
    case "adam":
    case "adamw": {
      memory.a = 0.9 * memory.a + 0.1 * g;
      memory.b = 0.999 * memory.b + 0.001 * g * g;
      const decayed = kind === "adamw" ? w - rate * 0.01 * w : w;
      return decayed - (rate * (memory.a / (1 - 0.9 ** t))) / (Math.sqrt(memory.b / (1 - 0.999 ** t)) + 1e-8);
    }
  }
}

/** Trains in place. */
export class ReferenceTrainer {
  readonly model: ReferenceModel;
  readonly #kind: ReferenceOptimizer;
  readonly #rate: number;
  readonly #memory = new Map<string, Memory>();
  #t = 0;

  constructor(model: ReferenceModel, kind: ReferenceOptimizer, rate: number) {
    this.model = model;
    this.#kind = kind;
    this.#rate = rate;
  }

  /** One update over the whole batch; the mean loss before it. */
  step(samples: number[][], labels: number[]): number {
    const loss = referenceLoss(this.model, samples, labels) / samples.length;
    const gradient = referenceGradient(this.model, samples, labels);
    this.#t++;
    this.model.layers.forEach((layer, l) => {
      const slopes = gradient[l]!;
      layer.weight.forEach((row, i) => this.#updateRow(row, slopes.weight[i]!, samples.length, `${l}.${i}`));
      this.#updateRow(layer.bias, slopes.bias, samples.length, `${l}.bias`);
    });
    return loss;
  }

  #updateRow(row: number[], slopes: number[], batch: number, name: string): void {
    row.forEach((w, j) => {
      const key = `${name}.${j}`;
      const memory = this.#memory.get(key) ?? { a: 0, b: 0 };
      this.#memory.set(key, memory);
      row[j] = updateNumber(this.#kind, w, slopes[j]! / batch, memory, this.#t, this.#rate);
    });
  }
}
