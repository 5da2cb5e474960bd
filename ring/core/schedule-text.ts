/**
 * @file Schedules as text, one line of `2F0 2B0 2W0 …` a node: read, checked, and run dry to see that no node waits for ever.
 * Limits: 4096 nodes, 10 million tasks.
 */
import { defined } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { microBatchIndex, stageIndex } from "../../src/types/ids.ts";
import { parseTask, printTask, TASK_KINDS, type Task } from "./schedule.ts";

const NODES_MAX = 4096;
const TASKS_MAX = 10_000_000;

/** One step's tasks of every node, and what follows from them. */
export interface GivenSchedule {
  readonly nodes: number;
  readonly laps: number;
  readonly microBatches: number;
  readonly tasks: readonly (readonly Task[])[];
}

/** One line a node. Throws UsageError that names the line of anything that is no task. */
export function parseSchedule(text: string): readonly (readonly Task[])[] {
  const lines = text.trimEnd().split("\n");
  if (lines.length > NODES_MAX) throw fault(`${lines.length} nodes`, `at most ${NODES_MAX} are possible`);
  let count = 0;
  return lines.map((line, index) => {
    const words = line.trim().split(/\s+/);
    count += words.length;
    if (count > TASKS_MAX) throw fault(`more than ${TASKS_MAX} tasks`, "give a schedule of fewer micro-batches");
    return words.map((word) => parseWord(word, index + 1));
  });
}

export function printSchedule(tasks: readonly (readonly Task[])[]): string {
  return tasks.map((line) => line.map(printTask).join(" ")).join("\n");
}

function parseWord(word: string, line: number): Task {
  try {
    return parseTask(word);
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new UsageError(`schedule: line ${line}: ${cause.message}`, cause.remedy, { cause });
  }
}

/**
 * Checks that the tasks are a schedule: every stage on its node, each micro-batch's F, B and W once in each stage, F before B
 * before W, each kind in micro-batch order (links keep their order, and gradients are summed in it). With `fused` B and W
 * are one operation, and W stands right behind its B. Throws UsageError that names task and line, also where nodes would
 * wait for each other for ever.
 */
export function validateSchedule(tasks: readonly (readonly Task[])[], fused = false): GivenSchedule {
  const nodes = tasks.length;
  let [stages, microBatches] = [0, 0];
  for (const line of tasks) {
    for (const { stage, microBatch } of line) {
      stages = Math.max(stages, stage + 1);
      microBatches = Math.max(microBatches, microBatch + 1);
    }
  }
  const laps = stages / nodes;
  if (!Number.isInteger(laps)) {
    throw fault(`${stages} stages on ${nodes} nodes`, "give each node a line, and as many stages as every other");
  }
  if (3 * stages * microBatches > TASKS_MAX) {
    throw fault(`${stages} stages with ${microBatches} micro-batches`, "number both from 0, without gaps");
  }
  for (const [node, line] of tasks.entries()) checkLine(line, node, { nodes, laps, microBatches }, fused);
  const given = { nodes, laps, microBatches, tasks };
  runDry(given, fused);
  return given;
}

type Counts = Omit<GivenSchedule, "tasks">;
/** How many of each kind one stage has done. */
type Done = Record<Task["kind"], number>;

function checkLine(line: readonly Task[], node: number, { nodes, laps, microBatches }: Counts, fused: boolean): void {
  const done = Array.from({ length: laps }, (): Done => ({ F: 0, B: 0, W: 0 }));
  const where = `line ${node + 1}`;
  for (const [index, task] of line.entries()) {
    const { stage, kind } = task;
    if (stage % nodes !== node) {
      const owner = `stage ${stage} of ${nodes} nodes belongs in line ${(stage % nodes) + 1}`;
      throw fault(`${where}: ${printTask(task)} is not node ${node}'s`, owner);
    }
    const counts = defined(done[(stage - node) / nodes], "a lap");
    checkOrder(task, counts, where);
    if (fused && kind === "W" && !isBackwardOf(line[index - 1], task)) {
      const remedy = "use --schedule zb-h1: it has B and W apart";
      throw fault(`${where}: ${printTask(task)} does not stand right behind its B`, remedy);
    }
    counts[kind] += 1;
  }
  for (const [lap, counts] of done.entries()) {
    for (const kind of TASK_KINDS) {
      if (counts[kind] === microBatches) continue;
      const missing = `${lap * nodes + node}${kind}${counts[kind]}`;
      throw fault(
        `${where}: ${missing} is missing`,
        `${microBatches} micro-batches each need F, B and W in every stage`,
      );
    }
  }
}

function checkOrder(task: Task, counts: Done, where: string): void {
  const { kind, microBatch } = task;
  const name = printTask(task);
  if (microBatch < counts[kind]) throw fault(`${where}: ${name} stands twice`, "each task of a step comes once");
  if (microBatch > counts[kind]) {
    const next = printTask({ ...task, microBatch: microBatchIndex(counts[kind]) });
    throw fault(`${where}: ${name} comes before ${next}`, "name F, B and W of a stage in micro-batch order, each once");
  }
  const needed = kind === "F" ? undefined : kind === "B" ? "F" : "B";
  if (needed === undefined || counts[needed] > microBatch) return;
  const cause = `${where}: ${name} comes before ${printTask({ ...task, kind: needed })}`;
  throw fault(cause, "each micro-batch goes through F, then B, then W");
}

const isBackwardOf = (last: Task | undefined, { stage, microBatch }: Task): boolean =>
  last?.kind === "B" && last.stage === stage && last.microBatch === microBatch;

/** Plays the tasks without time: a node goes on as soon as its next task has its input. */
function runDry({ nodes, laps, tasks }: GivenSchedule, fused: boolean): void {
  const stages = nodes * laps;
  const next = new Int32Array(nodes);
  /** By stage: F done, and gradients that have left. */
  const [forwarded, left] = [new Int32Array(stages), new Int32Array(stages)];
  const isReady = ({ stage, kind, microBatch }: Task): boolean => {
    if (kind === "W") return true;
    if (kind === "F") return stage === 0 || forwarded[stage - 1]! > microBatch;
    return stage === stages - 1 || left[stage + 1]! > microBatch;
  };
  const waiting = Array.from({ length: nodes }, (_, node) => node);
  for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
    const line = tasks[node]!;
    for (let task = line[next[node]!]; task !== undefined && isReady(task); task = line[next[node]!]) {
      next[node]! += 1;
      const { stage, kind } = task;
      if (kind === "F") forwarded[stage]! += 1;
      if (kind === (fused ? "W" : "B")) left[stage]! += 1;
      if (kind === "F") waiting.push((stage + 1) % nodes);
      else waiting.push((stage - 1 + nodes) % nodes);
    }
  }
  const stuck = tasks.findIndex((line, node) => next[node]! < line.length);
  if (stuck === -1) return;
  const task = tasks[stuck]![next[stuck]!]!;
  const needed = printTask({ ...task, stage: stageIndex(task.stage + (task.kind === "F" ? -1 : 1)) });
  const owner = (task.stage + (task.kind === "F" ? nodes - 1 : 1)) % nodes;
  const stop = printTask(tasks[owner]![next[owner]!]!);
  throw fault(
    `line ${stuck + 1} waits at ${printTask(task)} for ${needed}, and line ${owner + 1} has stopped at ${stop}`,
    `name ${needed} before ${stop} in line ${owner + 1}, or ${printTask(task)} later in line ${stuck + 1}`,
  );
}

function fault(cause: string, remedy: string): UsageError {
  return new UsageError(`schedule: ${cause}`, remedy);
}
