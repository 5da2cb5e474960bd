/** @file How many slots a segment needs at least, and at most has a use for. */
import { scheduleOf, type ScheduleShape } from "./schedule.ts";

/**
 * The fewest slots a lap with which `node` can run its schedule. A list holds what it holds; the local rule works with less
 * memory for more waiting: one micro-batch, or with laps a group of one for each node.
 */
export function leastSlots(shape: ScheduleShape, node: number): number {
  const { kind, nodes, laps, microBatches } = shape;
  if (kind === "zero-bubble") return laps > 1 ? nodes : 1;
  const held = Array<number>(laps).fill(0);
  let most = 1;
  for (const task of scheduleOf({ ...shape, kind }, node)) {
    const lap = (task.stage - node) / nodes;
    if (task.kind === "F") most = Math.max(most, (held[lap]! += 1));
    if (task.kind === "W") held[lap]! -= 1;
  }
  return Math.min(most, microBatches);
}

/** Beyond eight micro-batches a node: what latency may put in flight. */
const IN_FLIGHT_SPARE = 256;

/**
 * A step under way, and the next one's activations that arrive while this one's W are still to do; of long steps as many as
 * windows ever ask for.
 */
export function mostSlots({ microBatches, nodes }: ScheduleShape): number {
  return Math.min(2 * microBatches, 8 * nodes + IN_FLIGHT_SPARE);
}
