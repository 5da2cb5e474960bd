/**
 * @file What one node did when, for the last steps or for all of them, and the same in Chrome's trace-event form.
 */
import { isDiskFault, type RunFolder } from "./run-folder.ts";

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

interface KeptStep {
  readonly step: number;
  readonly entries: TimelineEntry[];
}

/** Collects one node's entries; memory is bounded by the steps that are kept. */
export class Timeline {
  readonly #folder: RunFolder;
  readonly #node: () => number;
  readonly #keptSteps: number;
  #steps: KeptStep[] = [];
  /** A process of this node before this one may have been killed within a line, and a full disk takes a part of one. */
  #mayBeTorn = true;

  /**
   * @param node its number, known when there is something to write
   * @param keptSteps 0 for none, Infinity for all (written as the run goes on)
   */
  constructor(folder: RunFolder, node: () => number, keptSteps: number) {
    this.#folder = folder;
    this.#node = node;
    this.#keptSteps = keptSteps;
  }

  add(entry: TimelineEntry): void {
    if (this.#keptSteps === 0) return;
    // The next step's first message may come before this step's end.
    const held = this.#steps.findLast((one) => one.step === entry.step) ?? this.#beginStep(entry.step);
    held.entries.push(entry);
  }

  #beginStep(step: number): KeptStep {
    if (this.#keptSteps === Infinity) this.flush();
    else if (this.#steps.length >= this.#keptSteps) this.#steps.shift();
    const begun = { step, entries: [] };
    this.#steps.push(begun);
    return begun;
  }

  /** Writes what is held, and holds nothing afterwards. */
  flush(): void {
    const entries = this.#steps.flatMap((step) => step.entries);
    this.#steps = [];
    if (entries.length === 0) return;
    const file = `timeline/${this.#node()}.jsonl`;
    try {
      if (this.#mayBeTorn) this.#folder.cutTornLine(file);
      this.#mayBeTorn = true;
      this.#folder.appendLines(file, entries);
      this.#mayBeTorn = false;
    } catch (error) {
      // A full disk ends no run: then there is no drawing of these steps.
      if (!isDiskFault(error)) throw error;
    }
  }
}

/**
 * Chrome's trace-event form: one process a node, one row each for compute and for messages; microseconds. An operation is named as
 * everywhere, `2F0`: stage, kind, micro-batch.
 * @param nodes those whose timelines are on this machine
 * @param nodeCount all nodes of the ring, by which a lap's stages follow the one before
 */
export function chromeTrace(
  nodes: readonly { readonly node: number; readonly entries: readonly TimelineEntry[] }[],
  nodeCount: number,
): unknown {
  // Not `Math.min(...)`: a long run has more entries than a call takes arguments.
  let origin = Infinity;
  for (const { entries } of nodes) for (const entry of entries) origin = Math.min(origin, entry.startMs);
  const traceEvents = nodes.flatMap(({ node, entries }) => [
    { ph: "M", name: "process_name", pid: node, args: { name: `node ${node}` } },
    ...entries.map((entry) => ({
      ph: "X",
      name: traceName(entry, entry.lap * nodeCount + node),
      cat: entry.kind,
      pid: node,
      tid: entry.kind === "send" || entry.kind === "receive" ? 1 : 0,
      ts: (entry.startMs - origin) * 1000,
      dur: (entry.endMs - entry.startMs) * 1000,
      args: { step: entry.step, lap: entry.lap, microBatch: entry.microBatch, bytes: entry.bytes },
    })),
  ]);
  return { displayTimeUnit: "ms", traceEvents };
}

function traceName({ kind, microBatch }: TimelineEntry, stage: number): string {
  const isOfNode = kind === "update" || kind === "wait" || kind === "recover";
  return isOfNode ? kind : `${stage}${kind}${microBatch}`;
}
