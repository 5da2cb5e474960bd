/** @file Random schedules for counts for which they exist. */
import { checkSchedule, SCHEDULE_KINDS, type ScheduleShape } from "../../ring/core/schedule.ts";
import type { RandomStream } from "../../src/types/random.ts";
import { UsageError } from "../../src/types/errors.ts";

/** Laps up to 4; micro-batches fewer than nodes or up to some multiple. */
export function drawShape(random: RandomStream, nodesMax: number): ScheduleShape {
  for (;;) {
    const nodes = 1 + random.nextBelow(nodesMax);
    const multiple = nodes * (1 + random.nextBelow(3));
    const shape = {
      kind: SCHEDULE_KINDS[random.nextBelow(SCHEDULE_KINDS.length)]!,
      nodes,
      // One node holds all laps as one segment.
      laps: nodes === 1 ? 1 : [1, 1, 2, 3, 4][random.nextBelow(5)]!,
      microBatches: random.nextBelow(2) === 0 ? multiple : 1 + random.nextBelow(12),
    };
    if (exists(shape)) return shape;
  }
}

function exists(shape: ScheduleShape): boolean {
  try {
    checkSchedule(shape);
    return true;
  } catch (error) {
    if (error instanceof UsageError) return false;
    throw error;
  }
}
