/**
 * @file Where segments' arrays lie in the engine's memory, one segment after the other: a pure function of `SegmentInit`,
 * so that the main thread and the compute thread agree without a message. The memory refuses what is over 4 GiB.
 */
import { ACCUMULATORS_BYTES, type Kernels, type View } from "../engine/contract.ts";
import { EngineMemory } from "../engine/memory.ts";
import { assert } from "../types/assert.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { ALIGNMENT_BYTES, Planner, START_BYTES } from "./planner.ts";
import { type DenseSpec, type ModelSpec, parameterCount, parseModel } from "./spec.ts";

/** Whether a memory has parameters and gradient of every layer, or of `POOL_PLACES` layers at a time. */
export type HeldLayers = "all" | "pool";
/** Two, so that one layer can be loaded while another is computed. */
export const POOL_PLACES = 2;

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
  /**
   * For segments of one layer each that run one after the other: those of one memory share what kernels work in. With "pool"
   * layer i has its parameters and its gradient in place i % `POOL_PLACES` of either, as large as the model's largest layer.
   * By default a segment shares nothing.
   */
  readonly held?: HeldLayers;
}

/** What a replica of a segment, or of a part of one, is. */
export type ReplicaInit = Pick<SegmentInit, "model" | "layers" | "optimizer" | "rate" | "seed">;

/** One version of a layer's state. Each block holds weight [inputs, outputs], then bias [outputs]. */
export interface StateLayout {
  readonly parameters: BlockLayout;
  /** One per state name of the optimizer; none without training. */
  readonly states: readonly BlockLayout[];
}

/** A layer's state and what is shaped like its parameters. */
export interface LayerLayout extends StateLayout {
  /** In the model. */
  readonly index: number;
  readonly spec: DenseSpec;
  /** Null without training. */
  readonly gradient: BlockLayout | null;
  /** The version before, where it is kept; else null. */
  readonly previous: StateLayout | null;
  /** The gradient of the last update, where an owner keeps it to be sent to the replicas; else null. */
  readonly outgoing: BlockLayout | null;
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

/** The state of contiguous layers at one holder: the owner's segment, or a replica. */
export interface HeldLayout {
  readonly init: Omit<ReplicaInit, "layers"> & Pick<SegmentInit, "training">;
  readonly model: ModelSpec;
  readonly layers: readonly LayerLayout[];
  /** A digest, padded to 64 bytes, then accumulators for each array of a layer's state. */
  readonly digestOffsetBytes: number;
  /** All arrays, which lie together; without those that an earlier layout has and this one shares. */
  readonly sizeBytes: number;
}

export interface SegmentLayout extends HeldLayout {
  readonly init: SegmentInit;
  readonly slots: readonly SlotLayout[];
  /** float64 sum of the rows' losses, and int32 number of rows classified correctly. */
  readonly lossOffsetBytes: number;
  readonly correctOffsetBytes: number;
  /** Shared by all kernels. */
  readonly scratchOffsetBytes: number;
}

type ScratchSizes = Pick<Kernels, "matmulScratchBytes">;

/**
 * Segments that share one memory; with `isReplicated` they keep the version before and the outgoing gradient. Throws
 * `UsageError` for a bad model or optimizer.
 */
export function planSegments(
  inits: readonly SegmentInit[],
  kernels: ScratchSizes,
  isReplicated = false,
): SegmentLayout[] {
  const planner = new Planner();
  return inits.map((init) => planNext(planner, init, kernels, isReplicated));
}

/** One segment that has the memory alone. */
export function planSegment(init: SegmentInit, kernels: ScratchSizes, isReplicated = false): SegmentLayout {
  return planNext(new Planner(), init, kernels, isReplicated);
}

/** Replicas that lie behind `segments` in their memory. Throws as `planSegments` does. */
export function planReplicas(inits: readonly ReplicaInit[], segments: readonly SegmentLayout[]): HeldLayout[] {
  const planner = new Planner(START_BYTES + sumSizeBytes(segments));
  return inits.map((init) => {
    const startBytes = planner.endBytes;
    const { model, stateNames, specs } = parseLayers(init);
    const parts = { stateNames, keepsPrevious: true, keepsOutgoing: false };
    const layers = specs.map((spec, i) => planLayer(planner, spec, init.layers[0] + i, parts));
    const digestOffsetBytes = planDigest(planner, stateNames);
    return { init, model, layers, digestOffsetBytes, sizeBytes: planner.endBytes - startBytes };
  });
}

/** What a replica takes in its node's memory: two versions, a gradient, a few hundred bytes. */
export function replicaSizeBytes(init: ReplicaInit): number {
  return sumSizeBytes(planReplicas([init], []));
}

function sumSizeBytes(layouts: readonly HeldLayout[]): number {
  return layouts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function parseLayers({ model: text, layers: [start, end], optimizer }: ReplicaInit) {
  const model = parseModel(text);
  assert(0 <= start && start < end && end <= model.layers.length, `layers [${start}, ${end}) are not in ${model.text}`);
  return { model, specs: model.layers.slice(start, end), stateNames: parseOptimizer(optimizer).stateNames };
}

function planNext(planner: Planner, init: SegmentInit, kernels: ScratchSizes, isReplicated: boolean): SegmentLayout {
  const { model, specs, stateNames } = parseLayers(init);
  const [start, end] = init.layers;
  assert(init.rows >= 1 && init.slots >= 1 && init.batch >= 1, "rows, slots and batch are at least 1");
  assert(init.held === undefined || end === start + 1, "segments that share are one layer each");
  const startBytes = planner.endBytes;
  const kept = { keepsPrevious: isReplicated, keepsOutgoing: isReplicated };
  const parts = { stateNames: init.training === false ? null : stateNames, ...kept };
  const layers =
    init.held === "pool"
      ? [planPooledLayer(planner, model, start, parts)]
      : specs.map((spec, i) => planLayer(planner, spec, start + i, parts));
  const slots = Array.from({ length: init.slots }, () => planSlot(planner, init, specs, end === model.layers.length));
  const lossOffsetBytes = planner.bytes(8);
  const correctOffsetBytes = planner.bytes(4);
  const scratchOffsetBytes = planScratch(planner, init, kernels, model);
  const digestOffsetBytes = planDigest(planner, stateNames);
  const sizeBytes = planner.endBytes - startBytes;
  const offsets = { lossOffsetBytes, correctOffsetBytes, scratchOffsetBytes, digestOffsetBytes };
  return { init, model, layers, slots, ...offsets, sizeBytes };
}

function planScratch(planner: Planner, init: SegmentInit, kernels: ScratchSizes, model: ModelSpec): number {
  const largest = (specs: readonly DenseSpec[]): number =>
    Math.max(...specs.map((spec) => scratchBytes(kernels, spec, init.rows)));
  if (init.held !== undefined) return planner.shared("scratch", largest(model.layers));
  return planner.bytes(largest(model.layers.slice(...init.layers)));
}

function planDigest(planner: Planner, stateNames: readonly string[]): number {
  return planner.bytes(ALIGNMENT_BYTES + ACCUMULATORS_BYTES * (1 + stateNames.length));
}

/** The memory of layouts planned together, new or (with `memory`) another thread's. Throws `UsageError` where it would be too large. */
export function segmentMemory(layouts: readonly HeldLayout[], memory?: EngineMemory["memory"]): EngineMemory {
  const sizeBytes = sumSizeBytes(layouts);
  const engineMemory = new EngineMemory(sizeBytes, memory);
  assert(engineMemory.allocateBytes(sizeBytes) === START_BYTES, "the layouts begin where the memory does");
  return engineMemory;
}

interface LayerParts {
  /** Null without training. */
  readonly stateNames: readonly string[] | null;
  readonly keepsPrevious: boolean;
  readonly keepsOutgoing: boolean;
}

function planLayer(planner: Planner, spec: DenseSpec, index: number, parts: LayerParts): LayerLayout {
  const { stateNames, keepsPrevious, keepsOutgoing } = parts;
  const block = (): BlockLayout => planBlock(planner, spec);
  const parameters = block();
  const gradient = stateNames === null ? null : block();
  const states = (stateNames ?? []).map(block);
  const previous = keepsPrevious ? { parameters: block(), states: states.map(block) } : null;
  return { index, spec, parameters, gradient, states, previous, outgoing: keepsOutgoing ? block() : null };
}

/** Parameters and gradients have places of their own, so that a layer can be loaded before another's gradient was taken. */
function planPooledLayer(planner: Planner, model: ModelSpec, index: number, parts: LayerParts): LayerLayout {
  const { stateNames, keepsPrevious, keepsOutgoing } = parts;
  assert(stateNames?.length === 0 && !keepsPrevious && !keepsOutgoing, "layers that share a place keep no state");
  const spec = model.layers[index] as DenseSpec;
  const sizeBytes = 4 * Math.max(...model.layers.map(parameterCount));
  const block = (name: string): BlockLayout =>
    blockAt(planner.shared(`${name} ${index % POOL_PLACES}`, sizeBytes), spec);
  const [parameters, gradient] = [block("parameters"), block("gradient")];
  return { index, spec, parameters, gradient, states: [], previous: null, outgoing: null };
}

function planBlock(planner: Planner, spec: DenseSpec): BlockLayout {
  return blockAt(planner.bytes(4 * parameterCount(spec)), spec);
}

/** Weight and bias without a gap: one kernel call updates them, one hash reads them. */
function blockAt(offsetBytes: number, spec: DenseSpec): BlockLayout {
  const weightCount = spec.inputs * spec.outputs;
  const count = parameterCount(spec);
  return {
    all: { offsetBytes, shape: [count], length: count },
    weight: { offsetBytes, shape: [spec.inputs, spec.outputs], length: weightCount },
    bias: { offsetBytes: offsetBytes + 4 * weightCount, shape: [spec.outputs], length: spec.outputs },
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
