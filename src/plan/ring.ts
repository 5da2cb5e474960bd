/**
 * @file The ring of a plan: the cut that `up` would make, what each node holds, and the step in virtual time. The simulator gives each
 * edge a rate of its own, so a step is never shorter than what the fullest interface carries.
 */
import { EVALUATION_PLACES } from "../../ring/core/evaluation.ts";
import { bestPartition, cutLayers, type LayerRange } from "../../ring/core/partition.ts";
import type { ScheduleKind, ScheduleShape } from "../../ring/core/schedule.ts";
import { leastSlots, mostSlots } from "../../ring/core/slots.ts";
import { windowFor } from "../../ring/core/window.ts";
import { BASE_BYTES, CAN_SPLIT, rangesOf } from "../../ring/index.ts";
import { steadyTimes } from "../../ring/simulation/idle.ts";
import { RingSimulator, type NodeCosts } from "../../ring/simulation/simulator.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { UsageError } from "../types/errors.ts";
import {
  pipelineStep,
  ringMessages,
  ringTraffic,
  wholeMemory,
  type NodeWork,
  type PipelineStep,
  type Traffic,
} from "./formulas.ts";
import { activationBytes, fullest, nodeMemory, type NodeMemory } from "./memory.ts";
import { layerWork, NUMBER_BYTES, sum, workOf, type LayerWork, type LinkSpeed, type Scenario } from "./scenario.ts";

/** The first fills the pipeline, the last drains it. */
const STEPS = 6;
/** Operations of one simulation, a second or less. */
const SIMULATED_TASKS_MAX = 1_500_000;

/** What follows from a scenario and a schedule before anything runs. */
export interface RingLayout {
  readonly shape: ScheduleShape;
  readonly cut: readonly LayerRange[];
  /** Milliseconds of a micro-batch, by node. */
  readonly costs: readonly NodeCosts[];
  readonly link: { readonly latency: number; readonly transfers: readonly number[] };
  readonly traffic: Traffic;
  /** By node: micro-batches that it holds in each lap, at most. */
  readonly slots: readonly number[];
}

export function ringShape({ nodes, laps, microBatches }: Scenario, kind: ScheduleKind): ScheduleShape {
  return { kind, nodes, laps: nodes === 1 ? 1 : laps, microBatches };
}

/**
 * One range a stage. Throws UsageError for fewer layers than stages; where memory rules every cut out, the one without a limit.
 */
export function cutOf(scenario: Scenario): readonly LayerRange[] {
  const { model, nodes, memoryBytes, optimizer } = scenario;
  const { laps } = ringShape(scenario, "zero-bubble");
  const layers = layerWork(model);
  const layerCosts = layers.map(workOf);
  const unlimited = cutLayers(layerCosts, nodes * laps);
  if (memoryBytes === null) return unlimited;
  const copies = 2 + parseOptimizer(optimizer).stateNames.length;
  const layerBytes = layers.map(({ bytes }) => copies * bytes);
  const capBytes = Array<number>(nodes).fill(Math.max(1, memoryBytes - BASE_BYTES));
  const slowness = Array<number>(nodes).fill(1);
  try {
    return bestPartition({ layerCosts, slowness, laps, memory: { layerBytes, capBytes } }).ranges;
  } catch (error) {
    if (error instanceof UsageError) return unlimited;
    throw error;
  }
}

/** Throws UsageError where there are fewer layers than stages, or too many operations to simulate. */
export function ringLayout(scenario: Scenario, kind: ScheduleKind): RingLayout {
  const shape = ringShape(scenario, kind);
  checkSize(shape);
  const cut = cutOf(scenario);
  const costs = nodeCosts(scenario, cut);
  const widths = cut.slice(0, -1).map(([, end]) => scenario.model.layers[end - 1]!.outputs);
  const { batch, microBatches, link, nodes } = scenario;
  const transfers = widths.map((width) => (NUMBER_BYTES * width * batch) / microBatches / link.rateBytesPerMs);
  const hopMs = link.latencyMs + Math.max(0, ...transfers);
  return {
    ...{ shape, cut, costs, link: { latency: link.latencyMs, transfers } },
    traffic: ringTraffic(widths, nodes, batch),
    slots: costs.map((cost, node) => slotsOf(scenario, shape, rangesOf(cut, nodes, node), node, cost, hopMs)),
  };
}

function checkSize({ nodes, laps, microBatches }: ScheduleShape): void {
  if (simulatedTasks({ nodes, laps, microBatches }) <= SIMULATED_TASKS_MAX) return;
  throw new UsageError(
    `${nodes} nodes with ${microBatches} micro-batches and ${laps} ${laps === 1 ? "lap" : "laps"} are more than a plan simulates`,
    "plan for fewer --micro-batches: a ring is settled at four for each node",
  );
}

export function simulatedTasks({ nodes, laps, microBatches }: Omit<ScheduleShape, "kind">): number {
  return 3 * STEPS * nodes * laps * microBatches;
}

/** Milliseconds of a micro-batch. */
function nodeCosts(scenario: Scenario, cut: readonly LayerRange[]): readonly NodeCosts[] {
  const { model, batch, microBatches, flopsPerMs, nodes } = scenario;
  const layers = layerWork(model);
  const time = (range: LayerRange, kind: keyof Omit<LayerWork, "bytes">): number =>
    (sum(layers.slice(...range).map((layer) => layer[kind])) * batch) / microBatches / flopsPerMs;
  return Array.from({ length: nodes }, (_, node) => ({
    laps: rangesOf(cut, nodes, node).map((range) => ({
      forward: time(range, "forward"),
      backward: time(range, "backward"),
      weight: time(range, "weight"),
    })),
    update: 0,
  }));
}

/** Of each lap: what the schedule holds; under a limit as many of these as fit, where enough do. */
function slotsOf(
  scenario: Scenario,
  shape: ScheduleShape,
  ranges: readonly LayerRange[],
  node: number,
  { laps }: NodeCosts,
  hopMs: number,
): number {
  const least = leastSlots(shape, node);
  if (shape.kind !== "zero-bubble") return least;
  const trips = [2 * (shape.nodes - 1 - node) * hopMs, 2 * (shape.nodes - 1) * hopMs] as const;
  const { held } = windowFor(shape, node, CAN_SPLIT, laps[0]!, ...trips);
  // Laps share one window: none of them holds more than the only lap of a ring without.
  const wanted = Math.max(least, Math.min(mostSlots(shape), shape.laps === 1 ? held : 2 * shape.nodes));
  if (scenario.memoryBytes === null) return wanted;
  const fixedBytes = memoryOf(scenario, ranges, 0).totalBytes;
  const slotBytes = memoryOf(scenario, ranges, 1).totalBytes - fixedBytes;
  const room = Math.floor((scenario.memoryBytes - fixedBytes) / slotBytes);
  return room < least ? wanted : Math.min(wanted, room);
}

function memoryOf(scenario: Scenario, ranges: readonly LayerRange[], slots: number): NodeMemory {
  const { model, batch, microBatches, optimizer } = scenario;
  const layers = layerWork(model);
  const bytes = sum(ranges.flatMap((range) => layers.slice(...range).map((layer) => layer.bytes)));
  const places = slots + EVALUATION_PLACES;
  const activations = sum(ranges.map((range) => activationBytes(scenario, range, batch / microBatches, places)));
  return nodeMemory(wholeMemory(bytes, parseOptimizer(optimizer).stateNames.length), activations);
}

/** Of the node that takes most. */
export function ringMemory(scenario: Scenario, { cut, slots }: RingLayout): NodeMemory {
  return fullest(slots.map((count, node) => memoryOf(scenario, rangesOf(cut, scenario.nodes, node), count)));
}

/** The settled period in virtual time. */
export function ringStepMs({ nodes, memoryBytes, link: { rateBytesPerMs } }: Scenario, layout: RingLayout): number {
  const { shape, cut, costs, link, slots, traffic } = layout;
  const { nodes: outcomes } = new RingSimulator({
    ...{ shape, costs, link, steps: STEPS, canSplit: CAN_SPLIT },
    slices: costs.map((_, node) => rangesOf(cut, nodes, node).map(([start, end]) => end - start)),
    ...(memoryBytes === null ? {} : { heldMax: slots.map((count) => count * shape.laps) }),
  }).run();
  return Math.max(traffic.busiestLinkBytes / rateBytesPerMs, steadyTimes(outcomes).wall / nodes / (STEPS - 2));
}

/** The closed form; null where there is none. */
export function ringFormula({ rateBytesPerMs }: LinkSpeed, layout: RingLayout): PipelineStep | null {
  const { shape, costs, link, traffic } = layout;
  const hops = link.transfers.slice(0, costs.length - 1).map((transfer) => ({ latency: link.latency, transfer }));
  const form = pipelineStep(shape, costs.map(nodeWork), hops);
  return form && { ...form, step: Math.max(traffic.busiestLinkBytes / rateBytesPerMs, form.step) };
}

export const nodeWork = ({ laps }: NodeCosts): NodeWork => ({
  forward: sum(laps.map(({ forward }) => forward)),
  backward: sum(laps.map(({ backward, weight }) => backward + weight)),
});

/** CPU of the busiest node's messages and operations, F, B and W of each micro-batch: in no step time here. */
export function ringOverheadMs({ operationMs, messageMs }: Scenario, { shape }: RingLayout): number {
  const operations = 3 * shape.laps * shape.microBatches;
  return operations * operationMs + (ringMessages(shape) * messageMs) / 2;
}
