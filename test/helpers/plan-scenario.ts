/** @file A scenario of a plan, and tests' own small random ones. */
import { EngineMemory } from "../../src/engine/memory.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { parseModel } from "../../src/nn/spec.ts";
import type { Scenario } from "../../src/plan/scenario.ts";

const kernels = loadKernels("wasm-exact", new EngineMemory(0).memory);

/** Eight equal layers on four nodes of 0.05 GFLOP/s, and a link that hardly matters. */
export function scenarioOf(changes: Partial<Omit<Scenario, "model">> & { readonly model?: string } = {}): Scenario {
  const { model = "mlp:64-64-64-64-64-64-64-64-64", ...rest } = changes;
  return {
    ...{
      batch: 64,
      microBatches: 8,
      optimizer: "adam",
      nodes: 4,
      servers: 1,
      laps: 1,
      replicas: 0,
      flopsPerMs: 50_000,
    },
    updates: { plainMs: 0.75e-6, keptMs: 2.5e-6 },
    ...{ link: { rateBytesPerMs: 1e6, latencyMs: 0.01 }, memoryBytes: null, operationMs: 0.15, messageMs: 0.25 },
    kernels,
    ...rest,
    model: parseModel(model),
  };
}
