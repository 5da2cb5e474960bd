/**
 * @file What a run's user sees of it while it runs: steps from whichever node writes them, and one line for each thing that happens to the
 * ring. Nodes tell everything several times and in no common order; each thing is told once.
 */
import { nowMs } from "../runtime/clock.ts";
import { formatSeconds, type Progress } from "./progress.ts";
import type { NodeEvent } from "./run-node.ts";

type Viewed = Extract<NodeEvent, { kind: "viewed" }>;

/** Nodes that a view went on without, until its first step is committed. */
interface Loss {
  readonly nodes: readonly number[];
  readonly view: number;
  readonly restoreStep: number;
  readonly sinceMs: number;
}

export class Story {
  readonly #steps: number;
  readonly #progress: Progress;
  /** When a local process was seen to end, by node. */
  readonly #diedMs = new Map<number, number>();
  readonly #away = new Set<number>();
  #losses: Loss[] = [];
  #view = 0;
  #step = -1;
  #warning = "";

  constructor(steps: number, progress: Progress) {
    this.#steps = steps;
    this.#progress = progress;
  }

  /** A local process has ended. */
  died(node: number, how: string): void {
    if (!this.#diedMs.has(node)) this.#progress.say(`node ${node} died (${how})`);
    this.#diedMs.set(node, nowMs());
  }

  viewed({ view, members, removed, restoreStep }: Viewed): void {
    if (view <= this.#view) return;
    this.#view = view;
    for (const node of members) {
      const isBack = this.#away.delete(node);
      if (isBack) this.#progress.say(`node ${node} is back`);
      if (isBack) this.#diedMs.delete(node);
    }
    for (const { node, cause } of removed) {
      this.#away.add(node);
      if (cause === "left") this.#progress.say(`node ${node} has left (view ${view})`);
    }
    const nodes = removed.filter(({ cause }) => cause !== "left").map(({ node }) => node);
    const sinceMs = Math.min(nowMs(), ...nodes.flatMap((node) => this.#diedMs.get(node) ?? []));
    if (nodes.length > 0) this.#losses.push({ nodes, view, restoreStep, sinceMs });
  }

  /** Older ones than known, of a writer before, say nothing new. */
  committed(step: number, loss: number): void {
    if (step <= this.#step) return;
    this.#step = step;
    for (const { nodes, view, sinceMs } of this.#losses.filter(({ restoreStep }) => step >= restoreStep)) {
      const who = nodes.length === 1 ? `node ${nodes[0]} is` : `nodes ${nodes.join(", ")} are`;
      const them = nodes.length === 1 ? "it" : "them";
      const seconds = formatSeconds((nowMs() - sinceMs) / 1000);
      this.#progress.say(`${who} gone, the ring goes on without ${them} (view ${view}, ${seconds})`);
    }
    this.#losses = this.#losses.filter(({ restoreStep }) => step < restoreStep);
    this.#progress.step(step, this.#steps, loss);
  }

  /** Several nodes see the same. */
  warned(text: string): void {
    if (text !== this.#warning) this.#progress.say(text);
    this.#warning = text;
  }
}
