/**
 * @file What a node holds under a cut: its layers in each lap, how many micro-batches fit, which memory that takes. A pure
 * function of the job and the cut, so every node knows it of all.
 */
import { parseMemoryLimit, parsePace } from "../../src/config/emulation.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import { type ReplicaInit, replicaSizeBytes, type SegmentInit } from "../../src/nn/layout.ts";
import { parameterCount, parseModel } from "../../src/nn/spec.ts";
import { parseOptimizer } from "../../src/optim/optimizers.ts";
import { planOn } from "../../src/runtime/compute-thread.ts";
import { UsageError } from "../../src/types/errors.ts";
import { copiedBy } from "../core/copies.ts";
import { EVALUATION_PLACES } from "../core/evaluation.ts";
import type { SegmentMap } from "../core/segment-map.ts";
import { bestPartition, type LayerRange } from "../core/partition.ts";
import type { ScheduleShape } from "../core/schedule.ts";
import { leastSlots, mostSlots } from "../core/slots.ts";
import type { FormedRing } from "../core/formation.ts";
import type { SegmentsInit } from "../core/stage-messages.ts";
import { votersOf, type RingView } from "../core/view.ts";

const MIB = 1024 * 1024;
/** Resident without any tensor: Node, libp2p, the program, and what awaits collection. Measured over 400 steps, rounded up. */
export const BASE_BYTES = 180 * MIB;
/** Of address space for slots, where no limit is stated: only those that are used become resident. */
const SLOTS_BYTES_MAX = 1024 * MIB;

/** Dense layers compute B and W apart; a kind of layer that cannot would say so here. */
export const CAN_SPLIT = true;

export function shapeOf({ schedule, laps, microBatches }: Settings, nodes: number): ScheduleShape {
  // One node holds all laps as one segment.
  return { kind: schedule, nodes, laps: nodes === 1 ? 1 : laps, microBatches };
}

/** The same where nodes have gone or come: the list that needs whole groups of micro-batches gives way to the local rule, which does not. */
export function presentShape(settings: Settings, nodes: number): ScheduleShape {
  const shape = shapeOf(settings, nodes);
  const isPlayable = shape.kind !== "interleaved" || shape.microBatches % nodes === 0;
  return isPlayable ? shape : { ...shape, kind: "zero-bubble" };
}

/**
 * The cut that the ring starts with, one range a stage: by the founder's layer costs, for equal nodes; where that does not fit a memory
 * limit, the one that takes the least memory. Throws UsageError where nothing fits: it says which limit would do.
 */
export function firstCut(
  settings: Settings,
  view: { readonly members: readonly unknown[]; readonly layerCosts: readonly number[] },
): readonly LayerRange[] {
  const nodes = view.members.length;
  const { laps } = shapeOf(settings, nodes);
  const cutBy = (layerCosts: readonly number[]): readonly LayerRange[] =>
    bestPartition({ layerCosts, slowness: Array<number>(nodes).fill(1), laps }).ranges;
  const byTime = cutBy(view.layerCosts);
  const capBytes = layersCapBytes(settings);
  if (capBytes === null || leastBytes(settings, byTime, nodes) <= capBytes) return byTime;
  const byMemory = cutBy(layerBytes(settings));
  const needed = leastBytes(settings, byMemory, nodes);
  if (needed > capBytes) throw memoryError(settings, "a node", needed);
  return byMemory;
}

/** A step in one process, at the costs that the founder measured; under a pace they are thousands of FLOP of a micro-batch. */
export function serialStepMs({ pace, nodes, microBatches }: Settings, layerCosts: readonly number[]): number {
  const sum = layerCosts.reduce((total, cost) => total + cost, 0);
  return (pace === null ? sum : (sum * microBatches) / Math.min(...parsePace(pace, nodes))) / 1000;
}

/** The view that a formed ring begins with. */
export function firstView(settings: Settings, formed: FormedRing, firstStep: number): RingView {
  const nodes = formed.members.map(({ node }) => node);
  return {
    view: 0,
    members: formed.members,
    departed: [],
    voters: votersOf(nodes, [], []),
    owners: nodes,
    cut: firstCut(settings, formed),
    replicas: effectiveReplicas(settings, nodes.length),
    restoreStep: firstStep,
    sources: [],
    losses: [],
    removed: [],
  };
}

/** Layers for all members, where some are spares and there is enough for them; undefined where there is not. */
export function fullMap(
  settings: Settings,
  { members, owners }: RingView,
  layerCosts: readonly number[],
): Pick<SegmentMap, "owners" | "cut"> | undefined {
  const room = Math.floor(layerCosts.length / settings.laps);
  const next = members.map(({ node }) => node).slice(0, room);
  if (next.length <= owners.length) return undefined;
  try {
    return { owners: next, cut: firstCut(settings, { members: next, layerCosts }) };
  } catch (error) {
    if (error instanceof UsageError) return undefined;
    throw error;
  }
}

/** What the node that needs most cannot do without. */
function leastBytes(settings: Settings, cut: readonly LayerRange[], nodes: number): number {
  const needs = Array.from({ length: nodes }, (_, node) => {
    // Every engine lays out its memory alike, and every node must come to the same cut.
    const { fixedBytes, slotBytes, least } = sizesOf(settings, "wasm", cut, nodes, node);
    return fixedBytes + least * slotBytes;
  });
  return Math.max(...needs);
}

/** What bytes of layers follow from. */
type SizeSettings = Pick<Settings, "model" | "replicas" | "nodes"> & { readonly optimizer: string };

/** Of each layer, what its owner holds: parameters, optimizer state, gradient; for its replicas the version and the gradient before. */
export function ownBytes(settings: SizeSettings): readonly number[] {
  return arraysOf(settings, (state) => (settings.replicas > 0 ? 2 * (state + 1) : state + 1));
}

/** The same with the copies that an equal neighbour's layers ask for: two versions and a gradient each. */
export function layerBytes(settings: SizeSettings): readonly number[] {
  const own = ownBytes(settings);
  const copy = arraysOf(settings, (state) => 2 * state + 1);
  return own.map((bytes, layer) => bytes + effectiveReplicas(settings, settings.nodes) * copy[layer]!);
}

/** A layer as it travels: parameters and optimizer state. */
export function movedBytes(settings: SizeSettings): readonly number[] {
  return arraysOf(settings, (state) => state);
}

/** @param count of arrays of the layer's size, from how many its state has */
function arraysOf({ model, optimizer }: SizeSettings, count: (state: number) => number): readonly number[] {
  const arrays = count(1 + parseOptimizer(optimizer).stateNames.length);
  return parseModel(model).layers.map((layer) => 4 * arrays * parameterCount(layer));
}

const effectiveReplicas = ({ replicas }: SizeSettings, nodes: number): number => Math.min(replicas, nodes - 1);

/** What a memory limit leaves for tensors; null without one. */
export function layersCapBytes({ memoryLimit }: Settings): number | null {
  return memoryLimit === null ? null : Math.max(1, parseMemoryLimit(memoryLimit) - BASE_BYTES);
}

/** The layers of `node`, by lap. */
export function rangesOf(cut: readonly LayerRange[], nodes: number, node: number): readonly LayerRange[] {
  return cut.filter((_, stage) => stage % nodes === node);
}

export interface NodePlan {
  readonly segments: readonly SegmentInit[];
  /** Of each lap, for training; those of evaluation lie behind them. */
  readonly slots: number;
  /** With as many in use as the schedule usually holds. */
  readonly usualBytes: number;
}

/** Throws UsageError where the memory limit leaves less than the schedule needs: it says how much would do. */
export function planNode(
  settings: Settings,
  engine: EngineKind,
  cut: readonly LayerRange[],
  nodes: number,
  node: number,
): NodePlan {
  const { ranges, fixedBytes, slotBytes, least } = sizesOf(settings, engine, cut, nodes, node);
  const capBytes = layersCapBytes(settings);
  const room = Math.floor(((capBytes ?? fixedBytes + SLOTS_BYTES_MAX) - fixedBytes) / slotBytes);
  if (capBytes !== null && room < least) throw memoryError(settings, `node ${node}`, fixedBytes + least * slotBytes);
  const slots = Math.max(least, Math.min(mostSlots(presentShape(settings, nodes)), room));
  const usual = Math.min(slots, Math.max(least, 2 * nodes));
  return {
    segments: ranges.map((layers) => segmentOf(settings, layers, slots)),
    slots,
    usualBytes: fixedBytes + usual * slotBytes,
  };
}

/** Of the node's segments together: without slots, and of one slot in each lap. */
function sizesOf(settings: Settings, engine: EngineKind, cut: readonly LayerRange[], nodes: number, node: number) {
  const ranges = rangesOf(cut, nodes, node);
  const replicas = effectiveReplicas(settings, nodes);
  const sizeWith = (slots: number): number =>
    ranges.reduce((sum, layers) => sum + planOn(engine, segmentOf(settings, layers, slots), replicas > 0).sizeBytes, 0);
  const copies = copiedBy(node, nodes, replicas).flatMap((predecessor) => rangesOf(cut, nodes, predecessor));
  const copiesBytes = copies.reduce((sum, layers) => sum + replicaSizeBytes(replicaOf(settings, layers)), 0);
  const ownedBytes = sizeWith(0);
  const fixedBytes = ownedBytes + copiesBytes;
  const least = leastSlots(presentShape(settings, nodes), node);
  return { ranges, fixedBytes, slotBytes: sizeWith(1) - ownedBytes, least };
}

function segmentOf(settings: Settings, layers: LayerRange, slots: number): SegmentInit {
  const { model, optimizer, lr: rate, seed, batch, microBatches } = settings;
  return { model, layers, rows: batch / microBatches, slots: slots + EVALUATION_PLACES, optimizer, rate, seed, batch };
}

/** A copy of another node's segment. */
export function replicaOf({ model, optimizer, lr: rate, seed }: Settings, layers: LayerRange): ReplicaInit {
  return { model, layers, optimizer, rate, seed };
}

function memoryError({ memoryLimit, schedule }: Settings, node: string, bytes: number): UsageError {
  const needed = Math.ceil((BASE_BYTES + bytes) / MIB);
  return new UsageError(
    `--memory-limit ${memoryLimit}: ${node} needs at least ${needed} MiB for the smallest window of ${schedule}`,
    `use --memory-limit ${needed}MiB or more, more nodes, or more micro-batches`,
  );
}

/** The same in the words of the stage machine. */
export function segmentsInit({ segments, slots }: NodePlan, plan: number): SegmentsInit {
  return { plan, slots, slices: segments.map(({ layers }) => layers[1] - layers[0]) };
}
