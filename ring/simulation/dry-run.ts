/**
 * @file The idle share that theory allows a schedule at measured costs: every node works as soon as it has its inputs, and
 * messages take no time.
 */
import type { ScheduleShape } from "../core/schedule.ts";
import { steadyTimes } from "./idle.ts";
import { RingSimulator, type NodeCosts } from "./simulator.ts";

/** The first fills the pipeline, the last drains it. */
const STEPS = 6;

/**
 * Steady idle fraction, 0..1, over all nodes.
 * @param nodeCosts any unit, the same for all; of each node of the shape
 * @param canSplit whether every layer has B and W apart
 */
export function dryRunIdle(shape: ScheduleShape, nodeCosts: readonly NodeCosts[], canSplit = true): number {
  const { nodes } = new RingSimulator({ shape, steps: STEPS, costs: nodeCosts, canSplit }).run();
  const { wall, busy } = steadyTimes(nodes);
  return wall > 0 ? Math.max(0, 1 - busy / wall) : 0;
}
