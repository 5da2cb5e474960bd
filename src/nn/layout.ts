/**
 * @file Where segments' arrays lie in the engine's memory, one segment after the other: a pure function of `SegmentInit`,
 * so that the main thread and the compute thread agree without a message. The memory refuses what is over 4 GiB.
 */
import type { Kernels, View } from "../engine/contract.ts";
import { EngineMemory } from "../engine/memory.ts";
import { assert } from "../types/assert.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { type DenseSpec, type ModelSpec, parameterCount, parseModel } from "./spec.ts";

/** What a segment is, as plain data that can be sent to a thread. */
export interface SegmentInit {
  /** As `parseModel` reads it. */
  readonly model: string;
  /** The model's layers `[start, end)`. */
  readonly layers: readonly [start: number, end: number];
  /** Samples of a micro-batch. */
  readonly rows: number;
  /** Micro-batches held at once. */
  readonly slots: number;
  /** As `parseOptimizer` reads it. */
  readonly optimizer: string;
  /** Learning rate. */
  readonly rate: number;
  readonly seed: number;
  /** Samples of a whole step: the loss's gradient is divided by it. */
  readonly batch: number;
  /** False: forward only, without gradients and optimizer state. Default true. */
  readonly training?: boolean;
}

/** A layer's parameters and what is shaped like them. Each block holds weight [inputs, outputs], then bias [outputs]. */
export interface LayerLayout {
  /** In the model. */
  readonly index: number;
  readonly spec: DenseSpec;
  readonly parameters: BlockLayout;
  /** Null without training, as the states are none. */
  readonly gradient: BlockLayout | null;
  /** One per state name of the optimizer. */
  readonly states: readonly BlockLayout[];
}

export interface BlockLayout {
  /** Both tensors as one array. */
  readonly all: View;
  readonly weight: View;
  readonly bias: View;
}

/** One micro-batch's arrays. The main thread fills `input`, `labels` and, unless the model ends here, `outputGradient`. */
export interface SlotLayout {
  /** [rows, inputs of the first layer]; must stay until the backward pass for weights is done. */
  readonly input: View;
  /** [rows, outputs of the last layer]: activations to send, or logits. Must stay until the pass for inputs is done. */
  readonly output: View;
  /** [rows, outputs of the last layer]: with respect to `output`; the pass for inputs overwrites it. */
  readonly outputGradient: View;
  /** [rows, inputs of the first layer]: to send upstream. Null at the model's first layer and without training. */
  readonly inputGradient: View | null;
  /** int32 [rows], negative where a row does not count. Null unless the model ends here. */
  readonly labels: View | null;
  /** Per layer: its output [rows, outputs]. */
  readonly activations: readonly View[];
  /** Per layer: what enters the activation, where its derivative needs that (gelu); else null. */
  readonly preActivations: readonly (View | null)[];
  /** Per layer: the gradient of its output, then of its pre-activation, in place. Only the last one without training. */
  readonly gradients: readonly View[];
}

export interface SegmentLayout {
  readonly init: SegmentInit;
  readonly model: ModelSpec;
  readonly layers: readonly LayerLayout[];
  readonly slots: readonly SlotLayout[];
  /** float64 sum of the rows' losses, and int32 number of rows classified correctly. */
  readonly lossOffsetBytes: number;
  readonly correctOffsetBytes: number;
  /** Shared by all kernels. */
  readonly scratchOffsetBytes: number;
  /** All of the above, which lie together. */
  readonly sizeBytes: number;
}

const ALIGNMENT_BYTES = 64;
/** Where an `EngineMemory` begins to allocate. */
const START_BYTES = 64;

/** Hands out 64-byte aligned places one after the other. */
class Planner {
  #endBytes = START_BYTES;

  get endBytes(): number {
    return this.#endBytes;
  }

  /** 4-byte elements. */
  array(...shape: number[]): View {
    const length = shape.reduce((product, size) => product * size, 1);
    return { offsetBytes: this.bytes(4 * length), shape, length };
  }

  bytes(sizeBytes: number): number {
    const offsetBytes = this.#endBytes;
    this.#endBytes += Math.ceil(sizeBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    return offsetBytes;
  }
}

type ScratchSizes = Pick<Kernels, "matmulScratchBytes">;

/** Segments that share one memory. Throws `UsageError` for a bad model or optimizer. */
export function planSegments(inits: readonly SegmentInit[], kernels: ScratchSizes): SegmentLayout[] {
  const planner = new Planner();
  return inits.map((init) => planNext(planner, init, kernels));
}

/** One segment that has the memory alone. */
export function planSegment(init: SegmentInit, kernels: ScratchSizes): SegmentLayout {
  return planNext(new Planner(), init, kernels);
}

function planNext(planner: Planner, init: SegmentInit, kernels: ScratchSizes): SegmentLayout {
  const model = parseModel(init.model);
  const [start, end] = init.layers;
  assert(0 <= start && start < end && end <= model.layers.length, `layers [${start}, ${end}) are not in ${model.text}`);
  assert(init.rows >= 1 && init.slots >= 1 && init.batch >= 1, "rows, slots and batch are at least 1");
  const stateNames = parseOptimizer(init.optimizer).stateNames;
  const specs = model.layers.slice(start, end);
  const startBytes = planner.endBytes;
  const layers = specs.map((spec, i) =>
    planLayer(planner, spec, start + i, init.training === false ? null : stateNames),
  );
  const slots = Array.from({ length: init.slots }, () => planSlot(planner, init, specs, end === model.layers.length));
  const lossOffsetBytes = planner.bytes(8);
  const correctOffsetBytes = planner.bytes(4);
  const scratchOffsetBytes = planner.bytes(Math.max(...specs.map((spec) => scratchBytes(kernels, spec, init.rows))));
  const sizeBytes = planner.endBytes - startBytes;
  return { init, model, layers, slots, lossOffsetBytes, correctOffsetBytes, scratchOffsetBytes, sizeBytes };
}

/** The memory of layouts planned together, new or (with `memory`) another thread's. Throws `UsageError` where it would be too large. */
export function segmentMemory(layouts: readonly SegmentLayout[], memory?: EngineMemory["memory"]): EngineMemory {
  const sizeBytes = layouts.reduce((sum, layout) => sum + layout.sizeBytes, 0);
  const engineMemory = new EngineMemory(sizeBytes, memory);
  assert(engineMemory.allocateBytes(sizeBytes) === START_BYTES, "the layouts begin where the memory does");
  return engineMemory;
}

function planLayer(
  planner: Planner,
  spec: DenseSpec,
  index: number,
  stateNames: readonly string[] | null,
): LayerLayout {
  return {
    index,
    spec,
    parameters: planBlock(planner, spec),
    gradient: stateNames === null ? null : planBlock(planner, spec),
    states: (stateNames ?? []).map(() => planBlock(planner, spec)),
  };
}

/** Weight and bias without a gap: one kernel call updates them, one hash reads them. */
function planBlock(planner: Planner, spec: DenseSpec): BlockLayout {
  const all = planner.array(parameterCount(spec));
  const weightCount = spec.inputs * spec.outputs;
  return {
    all,
    weight: { offsetBytes: all.offsetBytes, shape: [spec.inputs, spec.outputs], length: weightCount },
    bias: { offsetBytes: all.offsetBytes + 4 * weightCount, shape: [spec.outputs], length: spec.outputs },
  };
}

function planSlot(planner: Planner, init: SegmentInit, specs: readonly DenseSpec[], endsModel: boolean): SlotLayout {
  const { rows } = init;
  const training = init.training !== false;
  const inputs = (specs[0] as DenseSpec).inputs;
  const activations = specs.map((spec) => planner.array(rows, spec.outputs));
  const gradients = (training ? specs : specs.slice(-1)).map((spec) => planner.array(rows, spec.outputs));
  return {
    input: planner.array(rows, inputs),
    output: activations.at(-1) as View,
    outputGradient: gradients.at(-1) as View,
    inputGradient: training && init.layers[0] > 0 ? planner.array(rows, inputs) : null,
    labels: endsModel ? planner.array(rows) : null,
    activations,
    preActivations: specs.map((spec) =>
      training && spec.activation === "gelu" ? planner.array(rows, spec.outputs) : null,
    ),
    gradients,
  };
}

/** The larger of what a product and a sum of rows use, over the passes of one layer. */
function scratchBytes(kernels: ScratchSizes, spec: DenseSpec, rows: number): number {
  const { inputs, outputs } = spec;
  return Math.max(
    4 * outputs,
    kernels.matmulScratchBytes(rows, outputs, inputs),
    kernels.matmulScratchBytes(rows, inputs, outputs),
    kernels.matmulScratchBytes(inputs, outputs, rows),
  );
}
