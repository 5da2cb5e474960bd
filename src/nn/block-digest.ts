/** @file Digest of a layer's state as it travels: the same that a holder of the layer computes of its arrays. Blocks its thread for about 5 ns a parameter. */
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import { fillBlocks, type LayerBlock } from "./blocks.ts";
import { HeldState } from "./held-state.ts";
import { planReplicas, segmentMemory } from "./layout.ts";

/** 32 hexadecimal digits. Throws `DataError` where the block has not the layer's size. */
export function blockDigest(block: LayerBlock, model: string, optimizer: string, engine: EngineKind): string {
  const { layer } = block;
  const layouts = planReplicas([{ model, layers: [layer, layer + 1], optimizer, rate: 0, seed: 0 }], []);
  const memory = segmentMemory(layouts);
  fillBlocks([block], layouts, memory);
  const state = new HeldState(layouts[0]!, memory, loadKernels(engine, memory.memory));
  state.reset(0);
  return state.digests()[0]!.digest;
}
