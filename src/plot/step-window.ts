/**
 * @file One step of every node, cut out of the timelines: what is drawn of a run. Pure.
 */
import type { TimelineEntry } from "../metrics/timeline.ts";

/** What is drawn as a bar; where a node has none, it computes nothing. */
export const BAR_KINDS = ["F", "B", "W", "update", "recover"] as const;
export type BarKind = (typeof BAR_KINDS)[number];

export interface NodeTimeline {
  readonly node: number;
  readonly entries: readonly TimelineEntry[];
}

/** One operation, cut at the window's ends. Times are from the window's start. */
export interface Bar {
  readonly node: number;
  readonly kind: BarKind;
  readonly lap: number;
  readonly microBatch: number;
  readonly start: number;
  readonly end: number;
  /** It belongs to another step that reaches into the window. */
  readonly isNeighbour: boolean;
}

export interface StepWindow {
  readonly step: number;
  /** From the step's first operation at any node to its last: a forward and an update. */
  readonly length: number;
  /** Ascending. */
  readonly nodes: readonly number[];
  readonly bars: readonly Bar[];
}

type Operation = TimelineEntry & { readonly kind: BarKind };

const isOperation = (entry: TimelineEntry): entry is Operation => BAR_KINDS.some((kind) => kind === entry.kind);

/** The middle one of the steps that most nodes kept: never the first of several. */
function middleStep(nodes: readonly { readonly operations: readonly Operation[] }[]): number | undefined {
  const nodesOf = new Map<number, number>();
  for (const { operations } of nodes) {
    for (const step of new Set(operations.map((operation) => operation.step))) {
      nodesOf.set(step, (nodesOf.get(step) ?? 0) + 1);
    }
  }
  const most = Math.max(...nodesOf.values());
  const steps = [...nodesOf.keys()].filter((step) => nodesOf.get(step) === most).toSorted((a, b) => a - b);
  return steps[steps.length >> 1];
}

/** Undefined where no operation was kept. */
export function stepWindow(timelines: readonly NodeTimeline[]): StepWindow | undefined {
  const nodes = timelines
    .map(({ node, entries }) => ({ node, operations: entries.filter(isOperation) }))
    .filter(({ operations }) => operations.length > 0)
    .toSorted((a, b) => a.node - b.node);
  const step = middleStep(nodes);
  if (step === undefined) return undefined;
  const own = nodes.flatMap(({ operations }) => operations.filter((operation) => operation.step === step));
  const start = own.reduce((earliest, { startMs }) => Math.min(earliest, startMs), Infinity);
  const end = own.reduce((latest, { endMs }) => Math.max(latest, endMs), -Infinity);
  const bars = nodes.flatMap(({ node, operations }) =>
    operations
      .filter(({ startMs, endMs }) => endMs > start && startMs < end)
      .map(({ kind, lap, microBatch, startMs, endMs, step: ofStep }) => ({
        ...{ node, kind, lap, microBatch, isNeighbour: ofStep !== step },
        ...{ start: Math.max(startMs, start) - start, end: Math.min(endMs, end) - start },
      })),
  );
  return { step, length: end - start, nodes: nodes.map(({ node }) => node), bars };
}
