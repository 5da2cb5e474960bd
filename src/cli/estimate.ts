/** @file What a run will take, told before it starts: from measured layer costs and planned memory. */
import { availableParallelism } from "node:os";
import { BASE_BYTES, planNode, rangesOf, type Job, type RingView } from "../../ring/index.ts";
import { parsePace } from "../config/emulation.ts";
import type { Settings } from "../config/settings.ts";
import type { EngineKind } from "../engine/contract.ts";
import { parseModel } from "../nn/spec.ts";
import { copyUpdates } from "../plan/formulas.ts";
import { nodeBytesOf } from "../plan/ring.ts";
import { sum, type UpdateSpeed } from "../plan/scenario.ts";

/** CPU of handing an operation to the compute thread and back, and of a small message at both ends together. Measured. */
export const OPERATION_US = 150;
export const MESSAGE_US = 250;

/** Of Adam on one core: 0.75 ns a parameter in place, 2.5 with the version before copied aside and a digest (docs/decisions/0012). Measured. */
export const UPDATES: UpdateSpeed = { plainMs: 0.75e-6, keptMs: 2.5e-6 };

export interface RunEstimate {
  readonly stepMs: number;
  readonly runSeconds: number;
  /** Of the node that needs most. */
  readonly nodeBytesMax: number;
}

/**
 * The heaviest stage bounds a pipeline with (m + p - 1) / m of its own work; nodes that share this machine's cores are
 * bounded by their sum over the cores, operations and messages included. Copies make each update longer, and are updated themselves, where
 * their holder would wait if it waits at all.
 */
export function estimateRun(
  job: Job,
  view: RingView,
  { layerCosts, engine }: { readonly layerCosts: readonly number[]; readonly engine: string },
): RunEstimate {
  const { settings, firstStep } = job;
  const stages = view.members.length;
  const { microBatches } = settings;
  const { cut } = view;
  const paces = settings.pace === null ? null : parsePace(settings.pace, stages);
  const stageUs = view.members.map(({ node }) => {
    const costs = rangesOf(cut, stages, node).flatMap(([start, end]) => layerCosts.slice(start, end));
    // Under a pace costs are thousands of FLOP of a micro-batch.
    return paces === null ? sum(costs) : (sum(costs) * microBatches) / paces[node]!;
  });
  const copiesUs = copiesOf(settings, cut, stages);
  const heaviestUs = Math.max(...stageUs);
  const pipelineUs = Math.max(
    heaviestUs * ((microBatches + stages - 1) / microBatches) + Math.max(...copiesUs.map(({ own }) => own)),
    ...stageUs.map((us, node) => us + copiesUs[node]!.own + copiesUs[node]!.copied),
  );
  const here = view.members.filter((member) => member.machine === view.members[0]?.machine).length;
  const overheadUs = 2 * microBatches * (stages * OPERATION_US + (stages - 1) * MESSAGE_US);
  // Paced nodes sleep: they share no core.
  const unpacedUs = paces === null ? sum(stageUs) : 0;
  const workUs = unpacedUs + sum(copiesUs.map(({ own, copied }) => own + copied)) + overheadUs;
  const sharedUs = (workUs * (here / stages)) / Math.min(availableParallelism(), here);
  const stepMs = Math.max(pipelineUs, sharedUs) / 1000;
  return {
    stepMs,
    runSeconds: (stepMs * (settings.steps - firstStep)) / 1000,
    nodeBytesMax: BASE_BYTES + segmentBytesMax(job, view, engine),
  };
}

/** Microseconds of what copies add to each node's updates. */
function copiesOf({ model, replicas }: Settings, cut: RingView["cut"], nodes: number) {
  const nodeBytes = nodeBytesOf(parseModel(model), nodes, cut);
  return copyUpdates(nodeBytes, replicas, UPDATES).map(({ ownMs, copiedMs }) => ({
    own: 1000 * ownMs,
    copied: 1000 * copiedMs,
  }));
}

/** Of what is usually in use: slots beyond that are address space only. */
function segmentBytesMax({ settings }: Job, view: RingView, engineId: string): number {
  const engine = engineId.split(":")[0] as EngineKind;
  const { cut } = view;
  const nodes = view.members.length;
  return Math.max(...view.members.map(({ node }) => planNode(settings, engine, cut, nodes, node).usualBytes));
}
