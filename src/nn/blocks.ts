/**
 * @file Layers as bytes, for moving them to another node: a layer's float32 parameters (weight, bias), then each of the
 * optimizer's states in its order, shaped the same; little-endian. The segment that receives them may be cut otherwise.
 */
import type { View } from "../engine/contract.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import type { LayerLayout, SegmentLayout } from "./layout.ts";

export interface LayerBlock {
  /** In the model. */
  readonly layer: number;
  readonly bytes: Uint8Array;
}

const arraysOf = ({ parameters, states }: LayerLayout): View[] => [parameters, ...states].map(({ all }) => all);

/** Copies of all layers, in layer order; they are the caller's. Not while an operation is under way. */
export function layerBlocks(layouts: readonly SegmentLayout[], memory: EngineMemory): LayerBlock[] {
  const layers = layouts.flatMap((layout) => layout.layers).toSorted((a, b) => a.index - b.index);
  return layers.map((layer) => {
    const arrays = arraysOf(layer).map((view) => memory.bytes(view));
    const bytes = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
    let doneBytes = 0;
    for (const array of arrays) {
      bytes.set(array, doneBytes);
      doneBytes += array.length;
    }
    return { layer: layer.index, bytes };
  });
}

/** Fills every layer of the layouts; `blocks` may hold more. Throws `DataError` where one is missing or of another size. */
export function fillBlocks(
  blocks: readonly LayerBlock[],
  layouts: readonly SegmentLayout[],
  memory: EngineMemory,
): void {
  const byLayer = new Map(blocks.map(({ layer, bytes }) => [layer, bytes]));
  assert(byLayer.size === blocks.length, "a layer comes once");
  for (const layer of layouts.flatMap((layout) => layout.layers)) {
    const arrays = arraysOf(layer).map((view) => memory.bytes(view));
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
