/**
 * @file The process that the training benchmark measures: the compute thread trains, and the main thread does nothing but
 * wait for it, so that every stall is the compute thread's doing. Sends its rows to the parent and ends.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as delay } from "node:timers/promises";
import { median } from "simple-statistics";
import { ENGINE_KINDS, type EngineKind } from "../../src/engine/contract.ts";
import type { SegmentInit } from "../../src/nn/layout.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { BenchRow } from "./row.ts";

const MODEL = "mlp:784-1024-1024-1024-10";
const BATCH = 128;
const WARM_UP_STEPS = 5;
const RUN_MS = 4_000;
const STEPS_MAX = 1_000;
const RESOLUTION_MS = 1;

/** The whole model on one thread, filled with one batch that every step uses again. */
async function startThread(engine: EngineKind): Promise<ComputeThread> {
  const { features, classes, layers } = parseModel(MODEL);
  const segment: SegmentInit = {
    ...{ model: MODEL, layers: [0, layers.length], rows: BATCH, slots: 1, batch: BATCH },
    ...{ optimizer: "sgd", rate: 0.01, seed: 1 },
  };
  const thread = await ComputeThread.start({ segments: [segment], engine });
  const [slot] = thread.layouts[0]!.slots;
  for (let index = 0; index < BATCH * features; index += 1) thread.memory.f32(slot!.input)[index] = Math.sin(index);
  for (let row = 0; row < BATCH; row += 1) thread.memory.i32(slot!.labels!)[row] = row % classes;
  return thread;
}

/** Durations of the steps that fit into RUN_MS, seen from the main thread. */
async function trainMs(thread: ComputeThread): Promise<number[]> {
  const durationsMs: number[] = [];
  let endMs = Number.POSITIVE_INFINITY;
  for (let step = 0; step < STEPS_MAX && performance.now() < endMs; step += 1) {
    const startMs = performance.now();
    await thread.run({ kind: "forward", lap: 0, slot: 0 });
    await thread.run({ kind: "backward", lap: 0, slot: 0 });
    await thread.run({ kind: "update", step });
    if (step >= WARM_UP_STEPS) durationsMs.push(performance.now() - startMs);
    if (step === WARM_UP_STEPS) endMs = performance.now() + RUN_MS;
  }
  return durationsMs;
}

interface Stalls {
  readonly p999Ms: number;
  readonly maxMs: number;
}

/** How late the main thread's timers of RESOLUTION_MS were while `work` ran. */
async function measureStalls<Value>(work: () => Promise<Value>): Promise<Stalls & { readonly value: Value }> {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  const value = await work();
  histogram.disable();
  const lateMs = (delayNs: number): number => Math.max(0, delayNs / 1e6 - RESOLUTION_MS);
  return { p999Ms: lateMs(histogram.percentile(99.9)), maxMs: lateMs(histogram.max), value };
}

/** Two rows an engine: its step, and the main thread's stalls meanwhile. */
async function benchEngine(engine: EngineKind, quiet: Stalls): Promise<BenchRow[]> {
  const thread = await startThread(engine);
  const { p999Ms, maxMs, value: stepsMs } = await measureStalls(() => trainMs(thread));
  await thread.stop();
  const stepMs = median(stepsMs);
  const { parameters, layers } = parseModel(MODEL);
  // Each weight: a product forward, for the inputs and for the weights; none for the inputs of the first layer.
  const operations = 2 * BATCH * (3 * parameters - layers[0]!.inputs * layers[0]!.outputs);
  return [
    {
      name: `${engine} training step, ${MODEL}, batch ${BATCH}`,
      ...{ value: stepMs, unit: "ms" },
      spread: `${Math.min(...stepsMs).toFixed(1)}..${Math.max(...stepsMs).toFixed(1)}`,
      beside: `${(operations / stepMs / 1e6).toFixed(0)} GFLOP/s`,
    },
    {
      name: `${engine} main thread's stall while training, p99.9`,
      ...{ value: p999Ms, unit: "ms" },
      spread: `0.0..${maxMs.toFixed(1)}`,
      beside: `${quiet.p999Ms.toFixed(2)} p99.9, ${quiet.maxMs.toFixed(1)} max when nothing runs`,
    },
  ];
}

const quiet = await measureStalls(() => delay(RUN_MS / 2));
const rows: BenchRow[] = [];
for (const engine of ENGINE_KINDS) rows.push(...(await benchEngine(engine, quiet)));
process.send?.(rows);
process.disconnect?.();
