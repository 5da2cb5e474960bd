/**
 * @file What one node did when, for the last steps or for all of them, and the same in Chrome's trace-event form.
 */
import type { RunFolder } from "./run-folder.ts";

export interface TimelineEntry {
  readonly kind: "F" | "B" | "W" | "update" | "send" | "receive" | "wait" | "recover";
  readonly step: number;
  readonly lap: number;
  readonly microBatch: number;
  /** On the common clock. */
  readonly startMs: number;
  readonly endMs: number;
  /** Of a message; 0 otherwise. */
  readonly bytes: number;
}

/** Collects one node's entries; memory is bounded by the steps that are kept. */
export class Timeline {
  readonly #folder: RunFolder;
  readonly #name: string;
  readonly #keptSteps: number;
  #steps: { readonly step: number; readonly entries: TimelineEntry[] }[] = [];

  /** @param keptSteps 0 for none, Infinity for all (written as the run goes on). */
  constructor(folder: RunFolder, node: number, keptSteps: number) {
    this.#folder = folder;
    this.#name = `timeline/${node}.jsonl`;
    this.#keptSteps = keptSteps;
  }

  add(kind: TimelineEntry["kind"], step: number, microBatch: number, startMs: number, endMs: number, bytes = 0): void {
    if (this.#keptSteps === 0) return;
    if (this.#steps.at(-1)?.step !== step) this.#beginStep(step);
    this.#steps.at(-1)?.entries.push({ kind, step, lap: 0, microBatch, startMs, endMs, bytes });
  }

  #beginStep(step: number): void {
    if (this.#keptSteps === Infinity) this.flush();
    else if (this.#steps.length >= this.#keptSteps) this.#steps.shift();
    this.#steps.push({ step, entries: [] });
  }

  /** Writes what is held, and holds nothing afterwards. */
  flush(): void {
    const entries = this.#steps.flatMap((step) => step.entries);
    this.#steps = [];
    this.#folder.appendLines(this.#name, entries);
  }
}

/** Chrome's trace-event form: one process a node, one row each for compute and for messages; microseconds. */
export function chromeTrace(
  nodes: readonly { readonly node: number; readonly entries: readonly TimelineEntry[] }[],
): unknown {
  // Not `Math.min(...)`: a long run has more entries than a call takes arguments.
  let origin = Infinity;
  for (const { entries } of nodes) for (const entry of entries) origin = Math.min(origin, entry.startMs);
  const traceEvents = nodes.flatMap(({ node, entries }) => [
    { ph: "M", name: "process_name", pid: node, args: { name: `node ${node}` } },
    ...entries.map((entry) => ({
      ph: "X",
      name: entry.kind === "update" || entry.kind === "wait" ? entry.kind : `${node}${entry.kind}${entry.microBatch}`,
      cat: entry.kind,
      pid: node,
      tid: entry.kind === "send" || entry.kind === "receive" ? 1 : 0,
      ts: (entry.startMs - origin) * 1000,
      dur: (entry.endMs - entry.startMs) * 1000,
      args: { step: entry.step, microBatch: entry.microBatch, bytes: entry.bytes },
    })),
  ]);
  return { displayTimeUnit: "ms", traceEvents };
}
