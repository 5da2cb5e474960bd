/**
 * @file Layers as bytes, for moving them to another node: a layer's float32 parameters (weight, bias), then each of the
 * optimizer's states in its order, shaped the same; little-endian. The segment that receives them may be cut otherwise.
 */
import type { View } from "../engine/contract.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import type { HeldLayout, LayerLayout, StateLayout } from "./layout.ts";

export interface LayerBlock {
  /** In the model. */
  readonly layer: number;
  readonly bytes: Uint8Array;
}

/** The arrays of a layer's state in the order of its block. */
export const stateArrays = ({ parameters, states }: StateLayout): View[] =>
  [parameters, ...states].map(({ all }) => all);

/**
 * A copy of one layer, which is the caller's: the first `previousCount` elements of each array from the version before, the
 * others from the current one. Not while an operation that changes them is under way.
 */
export function layerBlock(layer: LayerLayout, memory: EngineMemory, previousCount = 0): LayerBlock {
  const current = stateArrays(layer);
  const previous = previousCount === 0 || layer.previous === null ? current : stateArrays(layer.previous);
  const bytes = new Uint8Array(current.reduce((sum, { length }) => sum + 4 * length, 0));
  let doneBytes = 0;
  for (const [i, view] of current.entries()) {
    bytes.set(memory.bytes(view), doneBytes);
    bytes.set(memory.bytes(previous[i] as View).subarray(0, 4 * previousCount), doneBytes);
    doneBytes += 4 * view.length;
  }
  return { layer: layer.index, bytes };
}

/** Copies of all layers, in layer order; they are the caller's. Not while an operation is under way. */
export function layerBlocks(layouts: readonly HeldLayout[], memory: EngineMemory): LayerBlock[] {
  const layers = layouts.flatMap((layout) => layout.layers).toSorted((a, b) => a.index - b.index);
  return layers.map((layer) => layerBlock(layer, memory));
}

/** Fills every layer of the layouts; `blocks` may hold more. Throws `DataError` where one is missing or of another size. */
export function fillBlocks(blocks: readonly LayerBlock[], layouts: readonly HeldLayout[], memory: EngineMemory): void {
  const byLayer = new Map(blocks.map(({ layer, bytes }) => [layer, bytes]));
  assert(byLayer.size === blocks.length, "a layer comes once");
  for (const layer of layouts.flatMap((layout) => layout.layers)) {
    const arrays = stateArrays(layer).map((view) => memory.bytes(view));
    const sizeBytes = arrays.reduce((sum, array) => sum + array.length, 0);
    const bytes = byLayer.get(layer.index);
    if (bytes?.length !== sizeBytes) throw fault(layer.index, bytes?.length, sizeBytes);
    let doneBytes = 0;
    for (const array of arrays) {
      array.set(bytes.subarray(doneBytes, doneBytes + array.length));
      doneBytes += array.length;
    }
  }
}

function fault(layer: number, foundBytes: number | undefined, sizeBytes: number): DataError {
  const found = foundBytes === undefined ? "is missing" : `has ${foundBytes} bytes, not ${sizeBytes}`;
  return new DataError(`layer ${layer} ${found} among the layers received`, "run the same build and job on every node");
}
