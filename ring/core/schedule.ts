/**
 * @file Schedules as data: the order of F, B and W that a node derives alone from (nodes, laps, micro-batches, node).
 * `zero-bubble` is no list but the local rule of `pipeline.ts`. In the other lists but `zb-h1` B and W are one operation, and the
 * gradient leaves after W: only so do the closed forms hold.
 * Sources: GPipe (Huang 2019, section 2.3), 1F1B (Narayanan 2019, PipeDream, section 3.2), interleaved 1F1B (Narayanan 2021,
 * section 2.2), ZB-H1 (Qi 2024, section 2.2).
 */
import { UsageError } from "../../src/types/errors.ts";
import { microBatchIndex, stageIndex, type MicroBatchIndex, type StageIndex } from "../../src/types/ids.ts";

export const SCHEDULE_KINDS = ["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zero-bubble"] as const;
export type ScheduleKind = (typeof SCHEDULE_KINDS)[number];
/** Schedules that are lists. */
export type ListKind = Exclude<ScheduleKind, "zero-bubble">;

export const TASK_KINDS = ["F", "B", "W"] as const;
export type TaskKind = (typeof TASK_KINDS)[number];

/** One operation of one stage on one micro-batch; prints as `2F0`: stage 2, forward, micro-batch 0. */
export interface Task {
  readonly stage: StageIndex;
  readonly kind: TaskKind;
  readonly microBatch: MicroBatchIndex;
}

/** What a schedule depends on. With `laps` v there are v·nodes stages; node i holds stages i, nodes+i, … */
export interface ScheduleShape {
  readonly kind: ScheduleKind;
  readonly nodes: number;
  readonly laps: number;
  readonly microBatches: number;
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

/** Whether B and W are one operation, so that a list names W right behind its B. */
export function isFused(kind: ScheduleKind): boolean {
  return kind !== "zb-h1" && kind !== "zero-bubble";
}

/**
 * Throws UsageError where a run should not begin with these counts; it goes on with whatever number of nodes it comes to have.
 * @param canSplit every layer has B and W apart
 */
export function checkSchedule({ kind, nodes, laps, microBatches }: ScheduleShape, canSplit = true): void {
  const usage = (cause: string, remedy: string): UsageError => new UsageError(`--schedule ${kind}: ${cause}`, remedy);
  const multiple = Math.max(1, Math.round(microBatches / nodes)) * nodes;
  if (laps > 1 && kind !== "interleaved" && kind !== "zero-bubble") {
    throw usage(`it has no laps, and --laps is ${laps}`, "use --schedule zero-bubble or interleaved, or --laps 1");
  }
  if ((laps > 1 || kind === "interleaved") && microBatches % nodes !== 0) {
    throw usage(
      `${laps > 1 ? `${laps} laps need` : "it needs"} --micro-batches divisible by the ${nodes} nodes, not ${microBatches}`,
      `use for example --micro-batches ${multiple}`,
    );
  }
  if (kind === "zb-h1" && microBatches < nodes) {
    throw usage(
      `it needs at least as many micro-batches as nodes, not ${microBatches} for ${nodes}`,
      `use --micro-batches ${nodes} or more, or --schedule zero-bubble`,
    );
  }
  if (kind === "zb-h1" && !canSplit) {
    throw usage("a layer of this model cannot compute B and W apart", "use --schedule 1f1b");
  }
}

/** The tasks of `node` in one step, in order: each micro-batch's F, B and W exactly once in each lap. */
export function scheduleOf(shape: ScheduleShape & { readonly kind: ListKind }, node: number): readonly Task[] {
  const { nodes, laps, microBatches } = shape;
  const total = laps * microBatches;
  const { warmup, deferred } = depthsOf(shape, node);
  const tasks: Task[] = [];
  const add = (kind: TaskKind, [lap, microBatch]: readonly [number, number]): void => {
    tasks.push({ stage: stageIndex(lap * nodes + node), kind, microBatch: microBatchIndex(microBatch) });
  };
  const forward = (position: number): void => add("F", forwardAt(shape, position));
  for (let position = 0; position < warmup; position += 1) forward(position);
  for (let position = 0; position < total; position += 1) {
    add("B", backwardAt(shape, position));
    if (position >= deferred) add("W", backwardAt(shape, position - deferred));
    if (warmup + position < total) forward(warmup + position);
  }
  for (let position = total - deferred; position < total; position += 1) add("W", backwardAt(shape, position));
  return tasks;
}

/** Forwards before the first backward, and how many W are left behind their B. */
function depthsOf(
  { kind, nodes, laps, microBatches }: ScheduleShape & { readonly kind: ListKind },
  node: number,
): { readonly warmup: number; readonly deferred: number } {
  switch (kind) {
    case "naive":
      return { warmup: 1, deferred: 0 };
    case "gpipe":
      return { warmup: microBatches, deferred: 0 };
    case "1f1b":
      return { warmup: Math.min(microBatches, nodes - node), deferred: 0 };
    case "interleaved":
      return { warmup: Math.min(laps * microBatches, lapsInFlight(nodes, laps, node)), deferred: 0 };
    case "zb-h1":
      return { warmup: Math.min(microBatches, nodes - node), deferred: Math.min(microBatches, node) };
  }
}

/** Segments' micro-batches in flight at `node` under laps: those of interleaved 1F1B. */
export function lapsInFlight(nodes: number, laps: number, node: number): number {
  return 2 * (nodes - node - 1) + (laps - 1) * nodes + 1;
}

/**
 * `[lap, micro-batch]` of the forward at `position` of a step: by group of `nodes` micro-batches, lap, micro-batch. The last group is smaller
 * where a node has gone or come since the counts were chosen.
 */
export function forwardAt({ nodes, laps, microBatches }: ScheduleShape, position: number): readonly [number, number] {
  const group = Math.floor(position / (laps * nodes));
  const size = Math.min(nodes, microBatches - group * nodes);
  const inGroup = position - group * laps * nodes;
  return [Math.floor(inGroup / size), group * nodes + (inGroup % size)];
}

/** The same of the backward: by group, lap descending, micro-batch. */
export function backwardAt(shape: ScheduleShape, position: number): readonly [number, number] {
  const [lap, microBatch] = forwardAt(shape, position);
  return [shape.laps - 1 - lap, microBatch];
}

/**
 * Idle fraction of the closed form, 0..1, for uniform stages with tF = tB = tW and no latency; null where there is none.
 * `zero-bubble`: a step shorter than the window lacks 2p-1-m micro-batches' worth of one operation.
 */
export function idleFormula({ kind, nodes, laps, microBatches }: ScheduleShape): number | null {
  const missing = Math.max(0, 2 * nodes - 1 - microBatches);
  switch (kind) {
    case "naive":
      return 1 - 1 / nodes;
    case "gpipe":
    case "1f1b":
    case "interleaved":
      return (nodes - 1) / (laps * microBatches + nodes - 1);
    case "zb-h1":
      return (nodes - 1) / (3 * microBatches + nodes - 1);
    case "zero-bubble":
      return laps > 1 && missing > 0 ? null : missing / (3 * microBatches + missing);
  }
}
