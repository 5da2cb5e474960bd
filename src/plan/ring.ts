/**
 * @file The ring of a plan: the cut that `up` would make, what each node holds, and the step in virtual time. The simulator gives each
 * edge a rate of its own and knows nothing of copies, so a step is never shorter than what the fullest interface carries, nor than `copyFloorMs`.
 */
import { copyTraffic, type NodeTraffic } from "../../ring/core/copies.ts";
import { EVALUATION_PLACES } from "../../ring/core/evaluation.ts";
import { bestPartition, cutLayers, type LayerRange } from "../../ring/core/partition.ts";
import type { ScheduleKind, ScheduleShape } from "../../ring/core/schedule.ts";
import { leastSlots, mostSlots } from "../../ring/core/slots.ts";
import { windowFor } from "../../ring/core/window.ts";
import { BASE_BYTES, CAN_SPLIT, layerBytes, rangesOf } from "../../ring/index.ts";
import { steadyTimes } from "../../ring/simulation/idle.ts";
import { RingSimulator, type NodeCosts } from "../../ring/simulation/simulator.ts";
import type { ModelSpec } from "../nn/spec.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { UsageError } from "../types/errors.ts";
import {
  copyUpdates,
  pipelineStep,
  ringMessages,
  ringStateMemory,
  ringTraffic,
  sampleTraffic,
  type NodeWork,
  type PipelineStep,
  type Traffic,
} from "./formulas.ts";
import { activationBytes, fullest, nodeMemory, type NodeMemory } from "./memory.ts";
import { layerWork, NUMBER_BYTES, sum, workOf, type LayerWork, type Scenario } from "./scenario.ts";

/** The first fills the pipeline, the last drains it. */
const STEPS = 6;
/** Operations of one simulation, a second or less. */
const SIMULATED_TASKS_MAX = 1_500_000;

/** What follows from a scenario and a schedule before anything runs. */
export interface RingLayout {
  readonly shape: ScheduleShape;
  readonly cut: readonly LayerRange[];
  /** Bytes of each node's parameters. */
  readonly nodeBytes: readonly number[];
  /** Milliseconds of a micro-batch, by node; of the update what copies make it longer. */
  readonly costs: readonly NodeCosts[];
  readonly link: { readonly latency: number; readonly transfers: readonly number[] };
  readonly sample: readonly NodeTraffic[];
  readonly copies: readonly NodeTraffic[];
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
  const { model, nodes, memoryBytes, optimizer, replicas } = scenario;
  const { laps } = ringShape(scenario, "zero-bubble");
  const layers = layerWork(model);
  const layerCosts = layers.map(workOf);
  const unlimited = cutLayers(layerCosts, nodes * laps);
  if (memoryBytes === null) return unlimited;
  const capBytes = Array<number>(nodes).fill(Math.max(1, memoryBytes - BASE_BYTES));
  const memory = { layerBytes: layerBytes({ model: model.text, optimizer, replicas, nodes }), capBytes };
  const slowness = Array<number>(nodes).fill(1);
  try {
    return bestPartition({ layerCosts, slowness, laps, memory }).ranges;
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
  const { model, batch, microBatches, link, nodes, replicas } = scenario;
  const nodeBytes = nodeBytesOf(model, nodes, cut);
  const costs = nodeCosts(scenario, cut, nodeBytes);
  const widths = cut.slice(0, -1).map(([, end]) => model.layers[end - 1]!.outputs);
  const transfers = widths.map((width) => (NUMBER_BYTES * width * batch) / microBatches / link.rateBytesPerMs);
  const hopMs = link.latencyMs + Math.max(0, ...transfers);
  const [sample, copies] = [sampleTraffic(widths, nodes), copyTraffic(nodeBytes, replicas)];
  return {
    ...{ shape, cut, nodeBytes, costs, link: { latency: link.latencyMs, transfers } },
    ...{ sample, copies, traffic: ringTraffic(sample, batch, copies) },
    slots: costs.map((cost, node) => slotsOf(scenario, { shape, cut, nodeBytes }, node, cost, hopMs)),
  };
}

/** Of each node's parameters. */
export function nodeBytesOf(model: ModelSpec, nodes: number, cut: readonly LayerRange[]): readonly number[] {
  const layers = layerWork(model);
  return Array.from({ length: nodes }, (_, node) =>
    sum(rangesOf(cut, nodes, node).flatMap((range) => layers.slice(...range).map(({ bytes }) => bytes))),
  );
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

function nodeCosts(scenario: Scenario, cut: readonly LayerRange[], nodeBytes: readonly number[]): readonly NodeCosts[] {
  const { model, batch, microBatches, flopsPerMs, nodes, replicas, updates } = scenario;
  const added = copyUpdates(nodeBytes, replicas, updates);
  const layers = layerWork(model);
  const time = (range: LayerRange, kind: keyof Omit<LayerWork, "bytes">): number =>
    (sum(layers.slice(...range).map((layer) => layer[kind])) * batch) / microBatches / flopsPerMs;
  return Array.from({ length: nodes }, (_, node) => ({
    laps: rangesOf(cut, nodes, node).map((range) => ({
      forward: time(range, "forward"),
      backward: time(range, "backward"),
      weight: time(range, "weight"),
    })),
    update: added[node]!.ownMs,
  }));
}

/** What the memory of a node follows from. */
type Held = Pick<RingLayout, "shape" | "cut" | "nodeBytes">;

/** Of each lap: what the schedule holds; under a limit as many of these as fit, where enough do. */
function slotsOf(scenario: Scenario, held: Held, node: number, { laps }: NodeCosts, hopMs: number): number {
  const { shape } = held;
  const least = leastSlots(shape, node);
  if (shape.kind !== "zero-bubble") return least;
  const trips = [2 * (shape.nodes - 1 - node) * hopMs, 2 * (shape.nodes - 1) * hopMs] as const;
  const window = windowFor(shape, node, CAN_SPLIT, laps[0]!, ...trips);
  // Laps share one window: none of them holds more than the only lap of a ring without.
  const wanted = Math.max(least, Math.min(mostSlots(shape), shape.laps === 1 ? window.held : 2 * shape.nodes));
  if (scenario.memoryBytes === null) return wanted;
  const fixedBytes = memoryOf(scenario, held, node, 0).totalBytes;
  const slotBytes = memoryOf(scenario, held, node, 1).totalBytes - fixedBytes;
  const room = Math.floor((scenario.memoryBytes - fixedBytes) / slotBytes);
  return room < least ? wanted : Math.min(wanted, room);
}

function memoryOf(scenario: Scenario, { cut, nodeBytes }: Held, node: number, slots: number): NodeMemory {
  const { batch, microBatches, optimizer, replicas, nodes } = scenario;
  const ranges = rangesOf(cut, nodes, node);
  const places = slots + EVALUATION_PLACES;
  const activations = sum(ranges.map((range) => activationBytes(scenario, range, batch / microBatches, places)));
  const states = parseOptimizer(optimizer).stateNames.length;
  return nodeMemory(ringStateMemory(nodeBytes, node, replicas, states), activations);
}

/** Of the node that takes most. */
export function ringMemory(scenario: Scenario, layout: RingLayout): NodeMemory {
  return fullest(layout.slots.map((count, node) => memoryOf(scenario, layout, node, count)));
}

/**
 * What copies keep every schedule's step from falling below; 0 without copies.
 *
 * - A node updates its copies between operations, where it would wait if it waits at all: its step is no shorter than
 *   m(F+B+W) + own update + Σ updates of copies.
 * - The update of a step waits for the token's word that every copy has the version before it. So from one update of an owner to its next the
 *   gradient goes out, the last holder applies it and tells, and the token goes once round: rWᵢ/rate + update + (p+2)·latency.
 *   (`--link` delays nothing that a copy answers: there it is p+1.)
 *   What two owners wait for each other in turn is the mean of this and of a batch's way through the ring and back: no more than the larger.
 */
export function copyFloorMs({ replicas, updates, link, nodes }: Scenario, layout: RingLayout): number {
  if (replicas === 0) return 0;
  const { shape, costs, nodeBytes, copies } = layout;
  const added = copyUpdates(nodeBytes, replicas, updates);
  const floors = costs.map((cost, node) => {
    const { forward, backward } = nodeWork(cost);
    const busyMs = shape.microBatches * (forward + backward) + cost.update + added[node]!.copiedMs;
    const appliedMs = (updates.keptMs * nodeBytes[node]!) / NUMBER_BYTES;
    const confirmedMs = copies[node]!.sent / link.rateBytesPerMs + appliedMs + (nodes + 2) * link.latencyMs;
    return Math.max(busyMs, confirmedMs);
  });
  return Math.max(...floors);
}

/** The settled period in virtual time. */
export function ringStepMs(scenario: Scenario, layout: RingLayout): number {
  const { nodes, memoryBytes } = scenario;
  const { shape, cut, costs, link, slots } = layout;
  const { nodes: outcomes } = new RingSimulator({
    ...{ shape, costs, link, steps: STEPS, canSplit: CAN_SPLIT },
    slices: costs.map((_, node) => rangesOf(cut, nodes, node).map(([start, end]) => end - start)),
    ...(memoryBytes === null ? {} : { heldMax: slots.map((count) => count * shape.laps) }),
  }).run();
  return Math.max(floorMs(scenario, layout), steadyTimes(outcomes).wall / nodes / (STEPS - 2));
}

/** Of what the simulator does not know: interfaces, and copies. */
function floorMs(scenario: Scenario, layout: RingLayout): number {
  return Math.max(layout.traffic.busiestLinkBytes / scenario.link.rateBytesPerMs, copyFloorMs(scenario, layout));
}

/** The closed form, and an update after it: for equal nodes the first one's is on the critical path. Null where there is none. */
export function ringFormula(scenario: Scenario, layout: RingLayout): PipelineStep | null {
  const { shape, costs, link } = layout;
  const hops = link.transfers.slice(0, costs.length - 1).map((transfer) => ({ latency: link.latency, transfer }));
  const form = pipelineStep(shape, costs.map(nodeWork), hops);
  const updateMs = Math.max(...costs.map(({ update }) => update));
  return form && { ...form, step: Math.max(floorMs(scenario, layout), form.step + updateMs) };
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
