/**
 * @file What a node holds: what is shaped like the parameters by formula (`formulas.ts`), activations by the layout that the
 * engine would use, and the process itself.
 */
import { BASE_BYTES } from "../../ring/index.ts";
import { planSegment } from "../nn/layout.ts";
import type { StateMemory } from "./formulas.ts";
import type { Scenario } from "./scenario.ts";

/** All tensors of a process lie in one memory with 32-bit addresses. */
const ENGINE_BYTES_MAX = 2 ** 32;

/** Bytes of one node. */
export interface NodeMemory extends StateMemory {
  /** Activations, their gradients, and what kernels work in. */
  readonly activationsBytes: number;
  readonly baseBytes: number;
  readonly totalBytes: number;
}

/** @param activations `activationBytes` of what the node computes; 0 for one that only serves */
export function nodeMemory(state: StateMemory, activations: number): NodeMemory {
  const { parametersBytes, gradientsBytes, statesBytes } = state;
  const totalBytes = BASE_BYTES + parametersBytes + gradientsBytes + statesBytes + activations;
  return { ...state, activationsBytes: activations, baseBytes: BASE_BYTES, totalBytes };
}

/** Of layers `[start, end)` with so many micro-batches of `rows` samples at once. */
export function activationBytes(
  { model, kernels }: Scenario,
  layers: readonly [start: number, end: number],
  rows: number,
  slots: number,
): number {
  const segment = {
    model: model.text,
    layers,
    rows: Math.ceil(rows),
    slots,
    optimizer: "sgd",
    rate: 1,
    seed: 0,
    batch: 1,
  };
  const layout = planSegment(segment, kernels);
  // Parameters and gradients stand in their own columns.
  const shaped = layout.layers.reduce((total, layer) => total + 2 * 4 * layer.parameters.all.length, 0);
  return layout.sizeBytes - shaped;
}

/** One node's and another's in one process. */
export function together(one: NodeMemory, other: NodeMemory): NodeMemory {
  return nodeMemory(
    {
      parametersBytes: one.parametersBytes + other.parametersBytes,
      gradientsBytes: one.gradientsBytes + other.gradientsBytes,
      statesBytes: one.statesBytes + other.statesBytes,
    },
    one.activationsBytes + other.activationsBytes,
  );
}

export const fullest = (nodes: readonly NodeMemory[]): NodeMemory =>
  nodes.reduce((most, node) => (node.totalBytes > most.totalBytes ? node : most));

/** Null where no limit is stated and the engine holds it. */
export function fitsIn({ memoryBytes }: Scenario, { totalBytes, baseBytes }: NodeMemory): boolean | null {
  if (totalBytes - baseBytes > ENGINE_BYTES_MAX) return false;
  return memoryBytes === null ? null : totalBytes <= memoryBytes;
}
