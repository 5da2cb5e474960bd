/**
 * @file What each layer's passes cost on this machine: the shortest of a few repetitions, one layer in memory at a time.
 * Layers of the same shape are measured once. Blocks its thread: about 50 ms for each distinct layer, longer only where
 * three repetitions take longer.
 */
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import { type SegmentInit, segmentMemory } from "../nn/layout.ts";
import { Segment } from "../nn/segment.ts";
import { parseModel } from "../nn/spec.ts";
import { nowMs } from "./clock.ts";
import { planOn } from "./compute-thread.ts";

/** Microseconds, whole, at least 1. The model's first layer has no gradient to send upstream. */
export interface LayerCosts {
  readonly forwardUs: number;
  readonly backwardInputUs: number;
  readonly backwardWeightUs: number;
  readonly updateUs: number;
}

const REPETITIONS_MIN = 3;
const REPETITIONS_MAX = 100;
const LAYER_BUDGET_MS = 50;

/** Costs of a micro-batch of `rows` samples per layer, in layer order. Throws `UsageError` as the parsers do. */
export function measureLayerCosts(model: string, rows: number, engine: EngineKind, optimizer: string): LayerCosts[] {
  const { layers } = parseModel(model);
  const measured = new Map<string, LayerCosts>();
  return layers.map(({ inputs, outputs, activation }, index) => {
    const shape = `${inputs} ${outputs} ${activation} ${index === 0}`;
    const costs = measured.get(shape) ?? measureLayer(model, index, rows, engine, optimizer);
    measured.set(shape, costs);
    return costs;
  });
}

function measureLayer(model: string, index: number, rows: number, engine: EngineKind, optimizer: string): LayerCosts {
  const layers = [index, index + 1] as const;
  const segment: SegmentInit = { model, layers, rows, slots: 1, optimizer, rate: 1e-3, seed: 0, batch: rows };
  const layout = planOn(engine, segment);
  const memory = segmentMemory([layout]);
  const layer = new Segment(layout, memory, loadKernels(engine, memory.memory));
  layer.initialize();
  const shortestMs = [Infinity, Infinity, Infinity, Infinity];
  const endMs = nowMs() + LAYER_BUDGET_MS;
  for (let step = 0; step < REPETITIONS_MIN || (step < REPETITIONS_MAX && nowMs() < endMs); step++) {
    const input = memory.f32(layout.slots[0]!.input);
    // Ones, not zeros: arithmetic on zeros can be faster than on data.
    input.fill(1);
    memory.f32(layout.slots[0]!.outputGradient).fill(1e-3);
    const passes = [
      () => layer.forward(0),
      () => layer.backwardInput(0),
      () => layer.backwardWeight(0),
      () => layer.update(step),
    ];
    passes.forEach((pass, i) => {
      const startMs = nowMs();
      pass();
      shortestMs[i] = Math.min(shortestMs[i] as number, nowMs() - startMs);
    });
  }
  const [forwardUs, backwardInputUs, backwardWeightUs, updateUs] = shortestMs.map((milliseconds) =>
    Math.max(1, Math.round(1000 * milliseconds)),
  ) as [number, number, number, number];
  return { forwardUs, backwardInputUs, backwardWeightUs, updateUs };
}
