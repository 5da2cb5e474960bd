/**
 * @file The summary of a simulation: the fields of a real run's, in milliseconds with a model and in units without. What a
 * simulation does not have, such as a loss, is null.
 */
import type { Settings } from "../../src/config/settings.ts";
import { addTimes, idlePercent, noTime, wallOf, type TimeSplit } from "../../src/metrics/accounting.ts";
import { median } from "../../src/metrics/summary.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { HEADER_BYTES, REPLICA_PART_BYTES_MAX } from "../../src/wire/header.ts";
import { defined } from "../../src/types/assert.ts";
import { copyTraffic, type NodeTraffic } from "../core/copies.ts";
import { idleFormula } from "../core/schedule.ts";
import { rangesOf } from "../runtime/segments.ts";
import { dryRunIdle } from "./dry-run.ts";
import { steadyTime, wholeTime, type BusyTime } from "./idle.ts";
import { parametersOf, type ModelFacts, type SimulationPlan } from "./plan.ts";
import type { SimulationSettings } from "./settings.ts";
import type { NodeOutcome, SimulationOutcome } from "./simulator.ts";

const LABEL_BYTES = 4;

export function summarize(
  { run, units, given }: SimulationSettings,
  plan: SimulationPlan,
  outcome: SimulationOutcome,
): Record<string, unknown> {
  const { shape, model } = plan;
  const nodes = outcome.nodes.map((node, index) => nodeTimes(node, index, plan));
  const whole = nodes.reduce((sum, { times }) => addTimes(sum, times), noTime);
  const steady = nodes.reduce((sum, { steadyTimes }) => addTimes(sum, steadyTimes), noTime);
  const traffic = model === null ? null : trafficOf(plan, model, run);
  const wallMs = wallOf(defined(nodes[0], "a node").times);
  // A simulation of nothing but costs is its own dry run, and a large one takes its time.
  const isDryRun = units?.hopLatency === 0 && plan.jitter === 0 && run.steps >= 3;
  const theory = isDryRun ? idlePercent(steady) : 100 * dryRunIdle(shape, plan.costs, plan.canSplit, plan.tasks);
  const formula = given === null ? idleFormula(shape) : null;
  return {
    ...{ system: "ring", nodes: shape.nodes },
    model: model?.text ?? `costs ${costsText(plan)}`,
    parameters: model?.parameters ?? null,
    ...{ steps: run.steps, seed: run.seed, engine: "simulator", schedule: given === null ? shape.kind : "tasks" },
    ...{ laps: shape.laps, microBatches: shape.microBatches, exact: run.wire === "f32" },
    ...{ firstLoss: null, finalLoss: null, testAccuracy: null },
    ...{ lossCurveSha256: null, weightsSha256: null, initialWeightsSha256: null },
    timeUnit: units === null ? "ms" : "units",
    wallMs,
    samplesPerSecond: units === null ? (1000 * run.batch * run.steps) / wallMs : null,
    stepMsMedian: stepMedian(defined(outcome.nodes[0], "a node"), wallMs),
    idlePercent: idlePercent(whole),
    // Fewer than three steps have no steady state.
    idlePercentSteady: run.steps < 3 ? null : idlePercent(steady),
    idlePercentTheory: theory,
    idlePercentFormula: formula === null ? null : 100 * formula,
    runQueuePercent: 0,
    bytesPerStep: traffic?.reduce((sum, { sent }) => sum + sent, 0) ?? null,
    busiestNodeBytesPerStep: traffic?.reduce((most, { sent, received }) => Math.max(most, sent + received), 0) ?? null,
    peakRssBytesMax: null,
    simulated: true,
    emulated: { pace: run.pace, link: run.link, memoryLimit: run.memoryLimit },
    ...{ views: 1, lostCommittedSteps: 0, recomputedSteps: 0, recoveries: [] },
    perNode: nodes.map(({ times, steadyTimes, messages }, node) => ({
      ...{ node, peerId: null, role: "stage" },
      layers: model === null ? [] : rangesOf(model.cut, shape.nodes, node),
      parameters: model?.nodeParameters[node] ?? null,
      ...times,
      wallMs: wallOf(times),
      communicationCpuMs: messages * messageCpu(plan),
      idlePercent: idlePercent(times),
      idlePercentSteady: run.steps < 3 ? null : idlePercent(steadyTimes),
      bytesSent: traffic === null ? null : run.steps * defined(traffic[node], "a node").sent,
      bytesReceived: traffic === null ? null : run.steps * defined(traffic[node], "a node").received,
      messagesSent: messages,
      neighbours: Math.min(2, shape.nodes - 1),
      peakRssBytes: null,
    })),
  };
}

/** A node sends and receives as often. */
const messageCpu = ({ link: { sendCpu = 0, receiveCpu = 0 } }: SimulationPlan): number => sendCpu + receiveCpu;

function costsText({ costs }: SimulationPlan): string {
  const { forward, backward, weight } = defined(costs[0]?.laps[0], "a node's costs");
  return [forward, backward, weight].join(",");
}

function nodeTimes(node: NodeOutcome, index: number, { shape }: SimulationPlan) {
  const steps = node.stepStarts.length;
  const split = ({ wall, busy, communication }: BusyTime): TimeSplit => ({
    ...{ computeMs: busy, communicationMs: communication, runQueueMs: 0 },
    waitMs: Math.max(0, wall - busy - communication),
  });
  return {
    times: split(wholeTime(node)),
    steadyTimes: split(steadyTime(node)),
    messages: node.messages + (index === 0 && shape.nodes > 1 ? steps : 0),
  };
}

/** From start to start of node 0's steps; of one step alone, all of it. */
function stepMedian({ stepStarts }: NodeOutcome, wall: number): number {
  const periods = [...stepStarts.subarray(1)].map((start, step) => start - defined(stepStarts[step], "a step"));
  return periods.length === 0 ? wall : median(periods);
}

/**
 * Activations and gradients between the stages, a step's labels from the first node to the last, and its gradients to copies. The frames by
 * which copies tell what they hold are as many as the nodes, and small.
 */
function trafficOf({ shape }: SimulationPlan, model: ModelFacts, run: Settings): readonly NodeTraffic[] {
  const { nodes, microBatches } = shape;
  const nodeBytes = Array.from({ length: nodes }, (_, node) => gradientBytes(model, nodes, node));
  const traffic = copyTraffic(nodeBytes, run.replicas).map((each) => ({ ...each }));
  const carry = (from: number, to: number, bytes: number): void => {
    defined(traffic[from % nodes], "a node").sent += bytes;
    defined(traffic[to % nodes], "a node").received += bytes;
  };
  for (const [stage, bytes] of model.messageBytes.entries()) {
    carry(stage, stage + 1, microBatches * bytes);
    carry(stage + 1, stage, microBatches * bytes);
  }
  if (nodes > 1) carry(0, nodes - 1, LABEL_BYTES * run.batch + HEADER_BYTES);
  return traffic;
}

/** Of a node's accumulated gradient as it goes to one copy: in parts, layer by layer, and a frame that ends it. */
function gradientBytes({ text, cut }: ModelFacts, nodes: number, node: number): number {
  const { layers } = parseModel(text);
  const frames = rangesOf(cut, nodes, node).flatMap((range) =>
    layers.slice(...range).map((layer) => {
      const bytes = 4 * parametersOf([layer]);
      return bytes + HEADER_BYTES * Math.ceil(bytes / REPLICA_PART_BYTES_MAX);
    }),
  );
  return frames.reduce((sum, bytes) => sum + bytes, HEADER_BYTES);
}
