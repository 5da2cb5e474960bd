/** @file What the timelines of one run's nodes say: durations, gaps between operations, delays of messages. Pure; milliseconds. */
import type { TimelineEntry } from "../../src/metrics/timeline.ts";
import { defined } from "../../src/types/assert.ts";

export interface NodeTimeline {
  readonly node: number;
  readonly entries: readonly TimelineEntry[];
}

export type PassKind = "F" | "B" | "W";

/** Durations of one kind of pass of one segment. */
export interface PassSamples {
  readonly node: number;
  readonly lap: number;
  readonly kind: PassKind;
  readonly durations: readonly number[];
}

/** Pipeline that a timeline is of. */
export interface Stages {
  readonly nodes: number;
  readonly laps: number;
  /** B and W are one operation: no gap between them. */
  readonly fused: boolean;
}

const isPass = (entry: TimelineEntry): entry is TimelineEntry & { readonly kind: PassKind } =>
  entry.kind === "F" || entry.kind === "B" || entry.kind === "W";
const isOperation = (entry: TimelineEntry): boolean => isPass(entry) || entry.kind === "update";

/** Without the first of several steps: it also fills caches and pipeline. */
export function withoutFirstStep(timelines: readonly NodeTimeline[]): readonly NodeTimeline[] {
  const steps = new Set(timelines.flatMap(({ entries }) => entries.map(({ step }) => step)));
  if (steps.size < 2) return timelines;
  const first = [...steps].reduce((least, step) => Math.min(least, step));
  return timelines.map(({ node, entries }) => ({ node, entries: entries.filter(({ step }) => step !== first) }));
}

/** The slices of a W count as one. */
export function passSamples({ node, entries }: NodeTimeline): readonly PassSamples[] {
  const sums = new Map<string, Map<string, number>>();
  for (const entry of entries) {
    if (!isPass(entry)) continue;
    const { kind, lap, step, microBatch, startMs, endMs } = entry;
    const series = sums.get(`${lap} ${kind}`) ?? new Map<string, number>();
    sums.set(`${lap} ${kind}`, series);
    const key = `${step} ${microBatch}`;
    series.set(key, (series.get(key) ?? 0) + endMs - startMs);
  }
  return [...sums].map(([name, series]) => {
    const [lap, kind] = name.split(" ");
    return { node, lap: Number(lap), kind: kind as PassKind, durations: [...series.values()] };
  });
}

export const updateSamples = ({ entries }: NodeTimeline): readonly number[] =>
  entries.filter(({ kind }) => kind === "update").map(({ startMs, endMs }) => endMs - startMs);

/** From an operation's end to the start of the next one, where that had all it needs before. */
export function gapSamples({ node, entries }: NodeTimeline, { nodes, laps, fused }: Stages): readonly number[] {
  const inputAt = inputTimes(entries, node, nodes, nodes * laps - 1);
  const operations = entries.filter(isOperation).toSorted((a, b) => a.startMs - b.startMs);
  const gaps: number[] = [];
  for (const [index, entry] of operations.entries()) {
    const before = operations[index - 1];
    if (before === undefined || (fused && entry.kind === "W")) continue;
    if ((inputAt.get(keyOf(entry)) ?? -Infinity) <= before.endMs) gaps.push(entry.startMs - before.endMs);
  }
  return gaps;
}

const keyOf = ({ kind, step, lap, microBatch }: TimelineEntry): string => `${kind} ${step} ${lap} ${microBatch}`;

/** When the input of each F and B was there: of a stage in the middle its first and its second message of a micro-batch. */
function inputTimes(entries: readonly TimelineEntry[], node: number, nodes: number, lastStage: number) {
  const times = new Map<string, number>();
  for (const [key, received] of messageTimes(entries, "receive")) {
    const [step, lap, microBatch] = key.split(" ");
    const stage = Number(lap) * nodes + node;
    const kinds = stage === 0 ? ["B"] : stage === lastStage ? ["F"] : ["F", "B"];
    for (const [index, kind] of kinds.entries()) {
      const message = received[index];
      if (message !== undefined) times.set(`${kind} ${step} ${lap} ${microBatch}`, message.startMs);
    }
  }
  return times;
}

/** Messages by step, lap and micro-batch, in their order. */
function messageTimes(entries: readonly TimelineEntry[], kind: "send" | "receive") {
  const messages = new Map<string, TimelineEntry[]>();
  for (const entry of entries
    .filter((candidate) => candidate.kind === kind)
    .toSorted((a, b) => a.startMs - b.startMs)) {
    const key = `${entry.step} ${entry.lap} ${entry.microBatch}`;
    const earlier = messages.get(key);
    if (earlier === undefined) messages.set(key, [entry]);
    else earlier.push(entry);
  }
  return messages;
}

export interface Delay {
  readonly bytes: number;
  readonly sender: number;
  readonly receiver: number;
  /** Handed to the link, and handled. */
  readonly sentMs: number;
  readonly receivedMs: number;
}

/** Of all messages whose both ends are here: a stage sends the activation before the gradient, and receives it before. */
export function delaySamples(timelines: readonly NodeTimeline[], { nodes, laps }: Stages): readonly Delay[] {
  const sends = new Map(timelines.map(({ node, entries }) => [node, messageTimes(entries, "send")]));
  const delays: Delay[] = [];
  for (const { node: receiver, entries } of timelines) {
    for (const [key, received] of messageTimes(entries, "receive")) {
      const [step, lap, microBatch] = key.split(" ");
      const stage = Number(lap) * nodes + receiver;
      const sentBy = (other: number): readonly TimelineEntry[] =>
        sends.get(other % nodes)?.get(`${step} ${Math.floor(other / nodes)} ${microBatch}`) ?? [];
      const add = (from: number, sent: TimelineEntry | undefined, arrived: TimelineEntry | undefined): void => {
        if (sent === undefined || arrived === undefined) return;
        const [sentMs, receivedMs] = [sent.startMs, arrived.startMs];
        delays.push({ bytes: sent.bytes, sender: from % nodes, receiver, sentMs, receivedMs });
      };
      if (stage > 0) add(stage - 1, sentBy(stage - 1)[0], received[0]);
      if (stage < nodes * laps - 1) add(stage + 1, sentBy(stage + 1).at(-1), received.at(-1));
    }
  }
  return delays;
}

/** Those with no other message at their sender or receiver within `ms`: they waited for none. */
export function loneDelays(delays: readonly Delay[], timelines: readonly NodeTimeline[], ms: number): readonly Delay[] {
  const times = new Map(
    timelines.map(({ node, entries }) => {
      const messages = entries.filter(({ kind }) => kind === "send" || kind === "receive");
      return [node, Float64Array.from(messages, ({ startMs }) => startMs).toSorted()] as const;
    }),
  );
  const isLone = (node: number, at: number): boolean => {
    const ofNode = times.get(node) ?? new Float64Array();
    const place = lowerBound(ofNode, at);
    return at - (ofNode[place - 1] ?? -Infinity) > ms && (ofNode[place + 1] ?? Infinity) - at > ms;
  };
  return delays.filter(
    ({ sender, receiver, sentMs, receivedMs }) => isLone(sender, sentMs) && isLone(receiver, receivedMs),
  );
}

/** The first place whose value is at least `value`. */
function lowerBound(values: Float64Array, value: number): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** By key, the values of all items with it. */
export function grouped<Item>(
  items: readonly Item[],
  keyed: (item: Item) => number,
): ReadonlyMap<number, readonly Item[]> {
  const groups = new Map<number, Item[]>();
  for (const item of items) {
    if (!groups.has(keyed(item))) groups.set(keyed(item), []);
    defined(groups.get(keyed(item)), "a group").push(item);
  }
  return groups;
}
