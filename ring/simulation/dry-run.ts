/**
 * @file The idle share that theory allows a schedule at measured costs: every node works as soon as it has its inputs, and
 * messages take no time.
 */
import type { ScheduleShape, Task } from "../core/schedule.ts";
import { steadyTimes } from "./idle.ts";
import { RingSimulator, type NodeCosts } from "./simulator.ts";

/** The first fills the pipeline, the last drains it. */
const STEPS = 6;

/**
 * Steady idle fraction, 0..1, over all nodes.
 * @param nodeCosts any unit, the same for all; of each node of the shape
 * @param canSplit whether every layer has B and W apart
 * @param tasks of each node, in place of the shape's list
 */
export function dryRunIdle(
  shape: ScheduleShape,
  nodeCosts: readonly NodeCosts[],
  canSplit = true,
  tasks?: readonly (readonly Task[])[],
): number {
  const given = tasks === undefined ? {} : { tasks };
  const { nodes } = new RingSimulator({ shape, steps: STEPS, costs: nodeCosts, canSplit, ...given }).run();
  const { wall, busy } = steadyTimes(nodes);
  return wall > 0 ? Math.max(0, 1 - busy / wall) : 0;
}
