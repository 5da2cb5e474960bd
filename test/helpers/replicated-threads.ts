/** @file Compute threads whose replicas follow their owners, by hand: what a ring with replication does, without the ring. */
import type { EngineKind } from "../../src/engine/contract.ts";
import type { LayerLayout } from "../../src/nn/layout.ts";
import { type HeldVersion } from "../../src/runtime/compute-versions.ts";
import type { ComputeInit } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { defined } from "../../src/types/assert.ts";
import type { Setting } from "./segments.ts";

export type Range = readonly [number, number];

/** What a node holds: a segment a lap, and replicas. */
export interface NodeRanges {
  readonly own: readonly Range[];
  readonly replicas: readonly Range[];
}

export async function startNodes(
  engine: EngineKind,
  common: Setting,
  nodes: readonly NodeRanges[],
  state: Partial<ComputeInit> = {},
): Promise<ComputeThread[]> {
  const threads = [];
  for (const { own, replicas } of nodes) {
    threads.push(
      await ComputeThread.start({
        segments: own.map((layers) => ({ ...common, layers })),
        redundancy: { replicas: replicas.map((layers) => ({ ...common, layers })) },
        engine,
        ...state,
      }),
    );
  }
  return threads;
}

/** The outgoing gradients of all owners into every replica. */
export function sendGradients(threads: readonly ComputeThread[]): void {
  const owned = new Map<number, readonly [ComputeThread, LayerLayout]>();
  for (const thread of threads) {
    for (const layer of thread.layouts.flatMap(({ layers }) => layers)) owned.set(layer.index, [thread, layer]);
  }
  for (const { replicas, memory } of threads) {
    for (const { index, gradient } of replicas.flatMap(({ layers }) => layers)) {
      const [owner, layer] = defined(owned.get(index), "a layer has an owner");
      memory.f32(gradient!.all).set(owner.memory.f32(layer.outgoing!.all));
    }
  }
}

/** All slices but those from `end` on, of every replica. */
export async function updateReplicas(
  threads: readonly ComputeThread[],
  step: number,
  slices: number,
  begin = 0,
  end = slices,
): Promise<void> {
  for (const thread of threads) {
    for (const replica of thread.replicas.keys()) {
      for (let slice = begin; slice < end; slice++) {
        await thread.insert({ kind: "replicaUpdate", replica, step, slice, slices });
      }
    }
  }
}

/** Every digest of a layer's version that a thread knows, one line each: one line for each layer where all agree. */
export function digestLines(threads: readonly ComputeThread[], version: number): string[] {
  const all = threads.flatMap((thread): readonly HeldVersion[] => thread.versions());
  const lines = all.filter((held) => held.version === version).map(({ layer, digest }) => `${layer} ${digest}`);
  return [...new Set(lines)].toSorted();
}
