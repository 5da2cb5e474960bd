/** @file What a run will take, told before it starts: from measured layer costs and planned memory. */
import { availableParallelism } from "node:os";
import type { Job, View } from "../../ring/index.ts";
import { scheduleSlots } from "../../ring/index.ts";
import type { EngineKind } from "../engine/contract.ts";
import { planOn } from "../runtime/compute-thread.ts";
import { layersOf } from "./layers.ts";

/** Resident before any tensor: Node, libp2p, the program. Measured, rounded up. */
const BASE_BYTES = 120 * 1024 * 1024;

/** CPU of handing an operation to the compute thread and back, and of a small message at both ends together. Measured. */
const OPERATION_US = 150;
const MESSAGE_US = 250;

export interface RunEstimate {
  readonly stepMs: number;
  readonly runSeconds: number;
  /** Of the node that needs most. */
  readonly nodeBytesMax: number;
}

/**
 * The heaviest stage bounds a pipeline with (m + p - 1) / m of its own work; nodes that share this machine's cores are
 * bounded by their sum over the cores, operations and messages included.
 */
export function estimateRun(job: Job, view: View): RunEstimate {
  const { settings, firstStep } = job;
  const stages = view.members.length;
  const { microBatches } = settings;
  const stageUs = view.members.map(({ node }) => {
    const [start, end] = layersOf(view, node);
    return view.layerCosts.slice(start, end).reduce((sum, cost) => sum + cost, 0);
  });
  const pipelineUs = Math.max(...stageUs) * ((microBatches + stages - 1) / microBatches);
  const here = view.members.filter((member) => member.machine === view.members[0]?.machine).length;
  const overheadUs = 2 * microBatches * (stages * OPERATION_US + (stages - 1) * MESSAGE_US);
  const workUs = stageUs.reduce((sum, cost) => sum + cost, 0) + overheadUs;
  const sharedUs = (workUs * (here / stages)) / Math.min(availableParallelism(), here);
  const stepMs = Math.max(pipelineUs, sharedUs) / 1000;
  return {
    stepMs,
    runSeconds: (stepMs * (settings.steps - firstStep)) / 1000,
    nodeBytesMax: BASE_BYTES + segmentBytesMax(job, view),
  };
}

function segmentBytesMax(job: Job, view: View): number {
  const { model, batch, microBatches, optimizer, lr: rate, seed, schedule } = job.settings;
  const engine = view.engine.split(":")[0] as EngineKind;
  const sizes = view.members.map(({ node }) => {
    const slots = scheduleSlots(schedule, view.members.length, microBatches, node);
    return planOn(engine, {
      model,
      layers: layersOf(view, node),
      rows: batch / microBatches,
      slots,
      optimizer,
      rate,
      seed,
      batch,
    }).sizeBytes;
  });
  return Math.max(...sizes);
}
