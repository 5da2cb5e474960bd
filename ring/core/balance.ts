/**
 * @file What the ring's measurements mean: how slow each node is, what each layer costs, and whether other segments are worth
 * the move. A pure function of integers, so every node that sees the same measurements decides the same.
 *
 * The model is separable: a layer takes `cost · slowness` on a node. A node only measures the layers it holds, so what
 * tells a slow node from heavy layers are reference costs: on each node the costs sum to the reference's share.
 *
 * Largest stage times are compared directly. Their ratio to the mean says too little on unequal nodes: at 1.15 a cut may
 * still be 1.17 times the best one.
 */
import { assert } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { movesBetween, routeOf, type Move } from "./moves.ts";
import { bestPartition, type LayerRange, type Partition, type PartitionProblem } from "./partition.ts";

export type BalanceMode = "auto" | "even";

export interface NodeMeasurement {
  readonly node: number;
  /** Each layer that the node holds, ascending, with its F, B and W of one micro-batch: whole microseconds, at least 1. */
  readonly layers: readonly { readonly layer: number; readonly us: number }[];
  /** Bytes that the node's layers may take; null is no limit. */
  readonly capBytes: number | null;
}

export interface BalanceProblem {
  /** `even` takes all nodes for equally fast. */
  readonly mode: BalanceMode;
  /** One a node, in their order. */
  readonly measurements: readonly NodeMeasurement[];
  /** The reference: one positive integer a layer, any unit. */
  readonly layerCosts: readonly number[];
  /** Parameters and optimizer state. */
  readonly layerBytes: readonly number[];
  /** The present cut: one range a stage, stage `s` on node `s mod nodes`. */
  readonly ranges: readonly LayerRange[];
  readonly microBatches: number;
  readonly remainingSteps: number;
  /** This plan's number in the view, from 0. */
  readonly plan: number;
  /** Plans of this view that moved layers. */
  readonly earlierMoves: number;
  /** Default `MOVE_BYTES_PER_SECOND`. */
  readonly moveBytesPerSecond?: number;
  /** Default `RESTART_US`. */
  readonly restartUs?: number;
}

export type Decision =
  | { readonly kind: "keep"; readonly reason: string }
  | {
      readonly kind: "move";
      readonly ranges: readonly LayerRange[];
      readonly moves: readonly Move[];
      /** The largest stage time of one micro-batch, whole microseconds: as measured, and as expected. */
      readonly beforeUs: number;
      readonly afterUs: number;
    };

/** What a layer's way over one edge is taken to cost: two fifths of a gigabit link. */
export const MOVE_BYTES_PER_SECOND = 50_000_000;
/** What a move costs beside its bytes: the pipeline runs empty and fills again, memory is laid out anew. */
export const RESTART_US = 250_000;
/** A move is made where the largest stage time falls to this share of the present one, or lower. */
const SHARE_PERCENT = 90;
/** Each earlier move takes this off the share, so that an endless to and fro is impossible, and so do settled plans. */
const STRICTER_PERCENT = 5;
/** From this plan on the ring counts as settled: noise alone no longer moves what it did not move before. */
const SETTLED_PLAN = 3;

const MEAN_SLOWNESS = 1000;
/** Stage times are nanoseconds times thousandths. */
const TIME_UNITS_PER_US = 1_000_000;

/** Slowness in thousandths of the ring's mean; cost in nanoseconds on a node of mean speed. */
export interface SpeedModel {
  readonly slowness: readonly number[];
  readonly costs: readonly number[];
}

/** Same problem, same decision, on every node. A measurement that does not fit the cut keeps the cut. */
export function decideBalance(problem: BalanceProblem): Decision {
  const { measurements, layerBytes, ranges, mode } = problem;
  const nodes = measurements.length;
  assert(nodes >= 1 && ranges.length % nodes === 0, "a measurement a node, and the same number of stages on each");
  const fault = measurementFault(problem);
  if (fault !== undefined) return keep(fault);
  const { costs, slowness: measured } = speedModel(problem);
  const slowness = mode === "even" ? measured.map(() => MEAN_SLOWNESS) : measured;
  const total = costs.reduce((sum, cost) => sum + cost, 0);
  if (!Number.isSafeInteger(total * Math.max(...slowness))) return keep("the measurements are too large");

  const memory = { layerBytes, capBytes: measurements.map(({ capBytes }) => capBytes) };
  const best = partitionOrReason({ layerCosts: costs, slowness, laps: ranges.length / nodes, memory });
  if (typeof best === "string") return keep(best);
  const before = largestStageTime(ranges, costs, slowness);
  const after = best.largestTime;
  const share = sharePercent(problem);
  if (BigInt(after) * 100n > BigInt(before) * BigInt(share)) {
    return keep(`the best cut takes ${percent(after, before)} % of the present one's time: a move needs ${share} %`);
  }
  const moves = movesBetween(ranges, best.ranges, nodes);
  if (!paysBack(problem, moves, before - after)) return keep("the move would not pay back in the steps that are left");
  return { kind: "move", ranges: best.ranges, moves, beforeUs: wholeUs(before), afterUs: wholeUs(after) };
}

const keep = (reason: string): Decision => ({ kind: "keep", reason });
const percent = (part: number, whole: number): number => Math.round((part / whole) * 100);
const wholeUs = (time: number): number => Math.round(time / TIME_UNITS_PER_US);

function sharePercent({ plan, earlierMoves }: BalanceProblem): number {
  return SHARE_PERCENT - STRICTER_PERCENT * (earlierMoves + (plan >= SETTLED_PLAN ? 1 : 0));
}

/** Why the measurements are not those of the present cut. They come from other nodes. */
function measurementFault({ measurements, ranges }: BalanceProblem): string | undefined {
  const nodes = measurements.length;
  for (const [index, { node, layers, capBytes }] of measurements.entries()) {
    const held = ranges
      .filter((_, stage) => stage % nodes === index)
      .flatMap(([start, end]) => Array.from({ length: end - start }, (_, offset) => start + offset));
    const isOfCut = layers.length === held.length && layers.every(({ layer }, place) => layer === held[place]);
    if (node !== index || !isOfCut) return `the measurement of node ${index} is not of its layers`;
    const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 1;
    if (!layers.every(({ us }) => isCount(us))) return `node ${index} measured no whole time`;
    if (capBytes !== null && !isCount(capBytes)) return `the memory cap of node ${index} is not a number of bytes`;
  }
  return undefined;
}

/**
 * Slowness of a node: its measured time over its layers' reference costs, in thousandths of the same over the whole ring.
 * Cost of a layer: its measured time over the slowness of its node. Quotients are exact, rounded half up, and at least 1.
 */
export function speedModel({
  measurements,
  layerCosts,
}: Pick<BalanceProblem, "measurements" | "layerCosts">): SpeedModel {
  const sum = (values: readonly number[]): bigint => values.reduce((total, value) => total + BigInt(value), 0n);
  const ringUs = sum(measurements.flatMap(({ layers }) => layers.map(({ us }) => us)));
  const ringReference = sum(layerCosts);
  const costs = layerCosts.map(() => 0);
  const slowness = measurements.map(({ layers }) => {
    const us = sum(layers.map((entry) => entry.us));
    const reference = sum(layers.map(({ layer }) => layerCosts[layer]!));
    const slow = quotient(BigInt(MEAN_SLOWNESS) * us * ringReference, reference * ringUs);
    for (const entry of layers)
      costs[entry.layer] = quotient(BigInt(TIME_UNITS_PER_US) * BigInt(entry.us), BigInt(slow));
    return slow;
  });
  return { slowness, costs };
}

function quotient(dividend: bigint, divisor: bigint): number {
  return Math.max(1, Number((2n * dividend + divisor) / (2n * divisor)));
}

function partitionOrReason(problem: PartitionProblem): Partition | string {
  try {
    return bestPartition(problem);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
}

function largestStageTime(
  ranges: readonly LayerRange[],
  costs: readonly number[],
  slowness: readonly number[],
): number {
  const times = ranges.map(([start, end], stage) => {
    const cost = costs.slice(start, end).reduce((sum, layer) => sum + layer, 0);
    return cost * slowness[stage % slowness.length]!;
  });
  return Math.max(...times);
}

/** Every layer's bytes are counted once an edge, as if they went one after the other: seldom too optimistic. */
function paysBack(problem: BalanceProblem, moves: readonly Move[], gain: number): boolean {
  const { layerBytes, microBatches, remainingSteps } = problem;
  const { moveBytesPerSecond = MOVE_BYTES_PER_SECOND, restartUs = RESTART_US } = problem;
  const byteHops = moves.map((move) => BigInt(layerBytes[move.layer]!) * BigInt(routeOf(move).hops));
  const bytes = byteHops.reduce((sum, value) => sum + value, 0n);
  const moveUs = (bytes * 1_000_000n) / BigInt(moveBytesPerSecond) + BigInt(restartUs);
  return BigInt(gain) * BigInt(microBatches) * BigInt(remainingSteps) > moveUs * BigInt(TIME_UNITS_PER_US);
}
