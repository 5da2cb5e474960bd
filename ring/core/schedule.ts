/**
 * @file Schedules as data: the order of F, B and W that a stage derives alone from (stages, micro-batches, stage).
 * In `gpipe` and `1f1b` B and W are one operation, and the gradient leaves after W: only so do the closed forms hold.
 * Sources: GPipe (Huang 2019, section 2.3), 1F1B (Narayanan 2019, PipeDream, section 3.2).
 */
import { UsageError } from "../../src/types/errors.ts";
import { microBatchIndex, stageIndex, type MicroBatchIndex, type StageIndex } from "../../src/types/ids.ts";

export const SCHEDULE_KINDS = ["gpipe", "1f1b"] as const;
export type ScheduleKind = (typeof SCHEDULE_KINDS)[number];

export const TASK_KINDS = ["F", "B", "W"] as const;
export type TaskKind = (typeof TASK_KINDS)[number];

/** One operation of one stage on one micro-batch; prints as `2F0`: stage 2, forward, micro-batch 0. */
export interface Task {
  readonly stage: StageIndex;
  readonly kind: TaskKind;
  readonly microBatch: MicroBatchIndex;
}

export function printTask(task: Task): string {
  return `${task.stage}${task.kind}${task.microBatch}`;
}

/** Inverse of `printTask`. Throws UsageError on any other text. */
export function parseTask(text: string): Task {
  const match = /^(\d{1,9})([FBW])(\d{1,9})$/.exec(text);
  if (match === null) throw new UsageError(`"${text}" is not a task`, "write stage, F, B or W, micro-batch: 2F0");
  return {
    stage: stageIndex(Number(match[1])),
    kind: match[2] as TaskKind,
    microBatch: microBatchIndex(Number(match[3])),
  };
}

/** The tasks of `stage` in one step, in order: each micro-batch's F, B and W exactly once. */
export function scheduleOf(
  kind: ScheduleKind,
  stages: number,
  microBatches: number,
  stage: StageIndex,
): readonly Task[] {
  const warmup = warmupForwards(kind, stages, microBatches, stage);
  const tasks: Task[] = [];
  const add = (taskKind: TaskKind, microBatch: number): void => {
    tasks.push({ stage, kind: taskKind, microBatch: microBatchIndex(microBatch) });
  };
  for (let forward = 0; forward < warmup; forward += 1) add("F", forward);
  for (let backward = 0; backward < microBatches; backward += 1) {
    add("B", backward);
    add("W", backward);
    if (warmup + backward < microBatches) add("F", warmup + backward);
  }
  return tasks;
}

/** Forwards before the first backward: also the most micro-batches held from F's start to W's end. */
function warmupForwards(kind: ScheduleKind, stages: number, microBatches: number, stage: StageIndex): number {
  switch (kind) {
    case "gpipe":
      return microBatches;
    case "1f1b":
      return Math.min(microBatches, stages - stage);
  }
}

/**
 * Places for micro-batches at `stage`: those held, and one that may arrive while all of them are busy. The predecessor
 * starts a step with this many credits.
 */
export function slotCount(kind: ScheduleKind, stages: number, microBatches: number, stage: StageIndex): number {
  return Math.min(microBatches, warmupForwards(kind, stages, microBatches, stage) + 1);
}

/** Idle fraction of the closed form for uniform stages, 0..1: (p-1)/(m+p-1) for both schedules. */
export function idleFormula(_kind: ScheduleKind, stages: number, microBatches: number): number {
  return (stages - 1) / (microBatches + stages - 1);
}
