/** @file Random schedules for all counts that a ring can come to have: with laps not only those that a run may begin with. */
import { SCHEDULE_KINDS, type ScheduleShape } from "../../ring/core/schedule.ts";
import type { RandomStream } from "../../src/types/random.ts";

/** Laps up to 4; micro-batches fewer than nodes or up to some multiple. */
export function drawShape(random: RandomStream, nodesMax: number): ScheduleShape {
  const nodes = 1 + random.nextBelow(nodesMax);
  const multiple = nodes * (1 + random.nextBelow(3));
  const kind = SCHEDULE_KINDS[random.nextBelow(SCHEDULE_KINDS.length)]!;
  const hasLaps = kind === "interleaved" || kind === "zero-bubble";
  // One node holds all laps as one segment.
  const laps = nodes === 1 || !hasLaps ? 1 : [1, 1, 2, 3, 4][random.nextBelow(5)]!;
  const isWhole = kind === "interleaved" || random.nextBelow(2) === 0;
  return { kind, nodes, laps, microBatches: isWhole ? multiple : 1 + random.nextBelow(12) };
}
