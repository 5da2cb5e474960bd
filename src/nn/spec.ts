/**
 * @file Model text to layers: `mlp:784-256-256-10` with an optional `,activation=relu|gelu|tanh`. A dense layer and its
 * activation are one layer; the last layer gives logits and has none. Limits: 1 to 1000 layers, widths 1 to 65,536.
 */
import { UsageError } from "../types/errors.ts";

const LAYERS_MAX = 1000;
const WIDTH_MAX = 65_536;

const ACTIVATIONS = ["relu", "gelu", "tanh"] as const;
type HiddenActivation = (typeof ACTIVATIONS)[number];
export type Activation = HiddenActivation | "none";

/** y[rows, outputs] = activation(x[rows, inputs] · weight[inputs, outputs] + bias[outputs]). */
export interface DenseSpec {
  readonly inputs: number;
  readonly outputs: number;
  /** "none" for the model's last layer. */
  readonly activation: Activation;
}

export interface ModelSpec {
  /** Canonical: equal models have equal texts. */
  readonly text: string;
  /** Width of the first layer's input. */
  readonly features: number;
  /** Width of the last layer's output. */
  readonly classes: number;
  readonly layers: readonly DenseSpec[];
  /** Weights and biases of all layers. */
  readonly parameters: number;
}

const EXAMPLE = "write for example mlp:784-256-10 or mlp:784-256-10,activation=tanh";

/** Throws `UsageError` that names the field, its value, the reason and the remedy. */
export function parseModel(text: string): ModelSpec {
  const [structure = "", ...options] = text.split(",");
  const [kind, body, ...rest] = structure.split(":");
  if (kind === "gpt" || kind === "cnn" || text.endsWith(".ts")) {
    throw new UsageError(
      `model "${text}": not in this version`,
      "use a multilayer perceptron, for example mlp:784-256-10",
    );
  }
  if (kind !== "mlp" || body === undefined || rest.length > 0) {
    throw new UsageError(`model "${text}": not a model that this version knows`, EXAMPLE);
  }
  return mlp(text, parseWidths(text, body), parseActivation(text, options));
}

function mlp(text: string, widths: readonly number[], activation: HiddenActivation): ModelSpec {
  const layers = widths.slice(1).map((outputs, index): DenseSpec => {
    const last = index === widths.length - 2;
    return { inputs: widths[index] as number, outputs, activation: last ? "none" : activation };
  });
  if (layers.length < 1 || layers.length > LAYERS_MAX) {
    throw new UsageError(`model "${text}": ${layers.length} layers, not 1 to ${LAYERS_MAX}`, EXAMPLE);
  }
  const suffix = activation === "relu" ? "" : `,activation=${activation}`;
  return {
    text: `mlp:${widths.join("-")}${suffix}`,
    features: widths[0] as number,
    classes: widths.at(-1) as number,
    layers,
    parameters: layers.reduce((sum, layer) => sum + parameterCount(layer), 0),
  };
}

export function parameterCount(layer: DenseSpec): number {
  return layer.inputs * layer.outputs + layer.outputs;
}

function parseWidths(text: string, body: string): number[] {
  return body.split("-").map((field) => {
    const width = /^[0-9]{1,6}$/.test(field) ? Number(field) : NaN;
    if (!(width >= 1 && width <= WIDTH_MAX)) {
      throw new UsageError(`model "${text}": width "${field}" is not a whole number from 1 to ${WIDTH_MAX}`, EXAMPLE);
    }
    return width;
  });
}

function parseActivation(text: string, options: readonly string[]): HiddenActivation {
  if (options.length === 0) return "relu";
  const [name, value] = (options[0] as string).split("=");
  if (name !== "activation" || options.length > 1) {
    const unknown = options.length > 1 ? options[1] : options[0];
    throw new UsageError(`model "${text}": option "${unknown}" is unknown or stands twice`, EXAMPLE);
  }
  const activation = ACTIVATIONS.find((known) => known === value);
  if (activation === undefined) {
    throw new UsageError(`model "${text}": activation "${value ?? ""}" is unknown`, `use ${ACTIVATIONS.join(", ")}`);
  }
  return activation;
}
