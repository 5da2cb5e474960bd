/**
 * @file A dry run of a schedule: every stage works through its list as soon as its inputs are there, messages take no
 * time. Gives the idle share that theory allows at measured costs.
 */
import { assert } from "../../src/types/assert.ts";
import { stageIndex } from "../../src/types/ids.ts";
import { scheduleOf, type ScheduleKind, type Task } from "./schedule.ts";

/** One stage's time for one micro-batch, and for its update: any unit, the same for all. */
export interface StageCosts {
  readonly forward: number;
  readonly backward: number;
  readonly weight: number;
  readonly update: number;
}

interface StageClock {
  readonly tasks: readonly Task[];
  next: number;
  freeAt: number;
  /** When the step's first task started: the period is counted from here. */
  startedAt: number;
}

/**
 * Idle fraction, 0..1, from each stage's second step's start to its last step's start, over `steps` steps.
 * A step's update follows its last W; there is no barrier over the ring.
 */
export function dryRunIdle(kind: ScheduleKind, microBatches: number, costs: readonly StageCosts[], steps = 6): number {
  assert(steps >= 3, "a steady period needs three steps");
  const stages = costs.length;
  const clocks: StageClock[] = costs.map((_, stage) => ({
    tasks: scheduleOf(kind, stages, microBatches, stageIndex(stage)),
    next: 0,
    freeAt: 0,
    startedAt: 0,
  }));
  let steadyStart = clocks.map(() => 0);
  for (let step = 0; step < steps; step += 1) {
    runStep(clocks, costs, microBatches);
    if (step === 1) steadyStart = clocks.map((clock) => clock.startedAt);
  }
  let wall = 0;
  let busy = 0;
  for (const [stage, clock] of clocks.entries()) {
    const cost = costs[stage]!;
    wall += clock.startedAt - steadyStart[stage]!;
    busy += (steps - 2) * (microBatches * (cost.forward + cost.backward + cost.weight) + cost.update);
  }
  return wall === 0 ? 0 : Math.max(0, 1 - busy / wall);
}

/** Advances every stage by one step; a task starts when its stage is free and its input has been made. */
function runStep(clocks: readonly StageClock[], costs: readonly StageCosts[], microBatches: number): void {
  const made = (): number[][] => clocks.map(() => Array<number>(microBatches).fill(Infinity));
  const forwardDone = made();
  const gradientDone = made();
  for (const clock of clocks) clock.next = 0;
  for (let progress = true; progress;) {
    progress = false;
    for (const [stage, clock] of clocks.entries()) {
      for (; clock.next < clock.tasks.length; clock.next += 1) {
        const task = clock.tasks[clock.next]!;
        const inputAt = inputTime(task, stage, forwardDone, gradientDone);
        if (inputAt === Infinity) break;
        const startsAt = Math.max(clock.freeAt, inputAt);
        if (clock.next === 0) clock.startedAt = startsAt;
        const cost = costs[stage]!;
        clock.freeAt = startsAt + (task.kind === "F" ? cost.forward : task.kind === "B" ? cost.backward : cost.weight);
        if (task.kind === "F") forwardDone[stage]![task.microBatch] = clock.freeAt;
        if (task.kind === "W") gradientDone[stage]![task.microBatch] = clock.freeAt;
        progress = true;
      }
    }
  }
  for (const [stage, clock] of clocks.entries()) {
    assert(clock.next === clock.tasks.length, "the schedule runs to its end");
    clock.freeAt += costs[stage]!.update;
  }
}

function inputTime(task: Task, stage: number, forwardDone: number[][], gradientDone: number[][]): number {
  switch (task.kind) {
    case "F":
      return stage === 0 ? 0 : forwardDone[stage - 1]![task.microBatch]!;
    case "B":
      return (gradientDone[stage + 1] ?? forwardDone[stage]!)[task.microBatch]!;
    case "W":
      return 0;
  }
}
