/** @file What simulated nodes did when: timelines as a real run writes them, and the tasks of one step. */
import type { TimelineEntry } from "../../src/metrics/timeline.ts";
import { defined } from "../../src/types/assert.ts";
import { microBatchIndex, stageIndex } from "../../src/types/ids.ts";
import type { Task } from "../core/schedule.ts";
import { splitsWeight } from "../core/window.ts";
import type { SimulationPlan } from "./plan.ts";
import type { SimulatedMessage, SimulatedTask } from "./simulator.ts";

/** Collects the entries of all steps from one on. */
export class Recording {
  readonly #firstStep: number;
  readonly #plan: SimulationPlan;
  readonly #nodes: readonly TimelineEntry[][];

  constructor(plan: SimulationPlan, firstStep: number) {
    this.#plan = plan;
    this.#firstStep = firstStep;
    this.#nodes = Array.from({ length: plan.shape.nodes }, () => []);
  }

  task({ node, kind, step, lap, microBatch, start, end }: SimulatedTask): void {
    this.#add(node, { kind, step, lap, microBatch, startMs: start, endMs: end, bytes: 0 });
  }

  message({ from, to, step, microBatch, sent, received }: SimulatedMessage): void {
    const { shape, model, link } = this.#plan;
    const { nodes } = shape;
    const bytes = model?.messageBytes[Math.min(from, to)] ?? 0;
    const of = (stage: number) => ({ step, lap: Math.floor(stage / nodes), microBatch, bytes });
    const leftAt = sent + (link.sendCpu ?? 0);
    this.#add(from % nodes, { kind: "send", ...of(from), startMs: sent, endMs: leftAt });
    this.#add(to % nodes, { kind: "receive", ...of(to), startMs: received, endMs: received });
  }

  #add(node: number, entry: TimelineEntry): void {
    if (entry.step >= this.#firstStep) defined(this.#nodes[node], "a node").push(entry);
  }

  /** Of one node, in the order of their ends. */
  entries(node: number): readonly TimelineEntry[] {
    return defined(this.#nodes[node], "a node").toSorted((a, b) => a.endMs - b.endMs);
  }
}

/** Operations of a step on all nodes together, a fused one as two. */
export function tasksPerStep({ shape, slices, canSplit }: SimulationPlan): number {
  const { nodes, laps, microBatches } = shape;
  const stages = nodes * laps;
  const weights = splitsWeight(shape, canSplit) && slices !== undefined ? sumOf(slices.flat()) : stages;
  return microBatches * (2 * stages + weights) + nodes;
}

/** Entries of a step in all timelines together: operations, and messages at both ends. */
export function entriesPerStep(plan: SimulationPlan): number {
  const { nodes, laps, microBatches } = plan.shape;
  return tasksPerStep(plan) + 4 * microBatches * (nodes * laps - 1);
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

/** The tasks of one step in the order of their ends; a W in slices ends with its last one. */
export class TaskOrder {
  readonly #step: number;
  readonly #nodes: readonly Map<string, Task>[];

  constructor(nodes: number, step: number) {
    this.#step = step;
    this.#nodes = Array.from({ length: nodes }, () => new Map());
  }

  task({ node, kind, step, lap, microBatch }: SimulatedTask): void {
    if (step !== this.#step || kind === "update") return;
    const tasks = defined(this.#nodes[node], "a node");
    const stage = stageIndex(lap * this.#nodes.length + node);
    const name = `${stage}${kind}${microBatch}`;
    tasks.delete(name);
    tasks.set(name, { stage, kind, microBatch: microBatchIndex(microBatch) });
  }

  get tasks(): readonly (readonly Task[])[] {
    return this.#nodes.map((tasks) => [...tasks.values()]);
  }
}
