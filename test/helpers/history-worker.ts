/** @file A worker that uses a few keys at random, and records what it saw: its part of a history. */
import { setImmediate } from "node:timers/promises";
import type { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import type { RandomStream } from "../../src/types/random.ts";
import { addendOf, type KeyOperation, seenIn } from "./key-history.ts";

export interface HistoryTask {
  readonly worker: number;
  /** All that any worker uses. */
  readonly keys: readonly number[];
  /** Values of a key: `valuesFor` the pushes of all workers. */
  readonly length: number;
  /** Of this worker; it pulls twice as often, and localizes as often. */
  readonly pushes: number;
}

/** Half of the operations are synchronous. */
export async function recordHistory(
  node: KeyNode,
  random: RandomStream,
  { worker, keys, length, pushes }: HistoryTask,
): Promise<readonly KeyOperation[]> {
  const pulls: { readonly key: number; readonly into: Float32Array; readonly place: number }[] = [];
  const history: KeyOperation[] = [];
  const issue = (key: number, what: number): number => {
    if (what === 0) return node.localize([key]);
    if (what === 1) {
      const id = worker * pushes + history.filter(({ kind }) => kind === "push").length;
      history.push({ kind: "push", worker, key, id });
      return node.push([key], addendOf(id, length));
    }
    const into = new Float32Array(length);
    pulls.push({ key, into, place: history.push({ kind: "pull", worker, key, seen: [] }) - 1 });
    return node.pull([key], into);
  };
  for (let pushed = 0; pushed < pushes;) {
    const what = random.nextBelow(4);
    const request = issue(keys[random.nextBelow(keys.length)]!, what);
    if (what === 1) pushed += 1;
    if (random.nextBelow(2) === 0) await node.wait(request);
    if (random.nextBelow(4) === 0) await setImmediate();
  }
  await node.waitForAll();
  for (const { key, into, place } of pulls) history[place] = { kind: "pull", worker, key, seen: seenIn(into) };
  return history;
}

/** What one more worker sees when all others are done. */
export async function lastState(
  node: KeyNode,
  { worker, keys, length }: Omit<HistoryTask, "pushes">,
): Promise<readonly KeyOperation[]> {
  const into = new Float32Array(keys.length * length);
  await node.wait(node.pull(keys, into));
  return keys.map((key, place) => {
    return { kind: "pull", worker, key, seen: seenIn(into.subarray(place * length, (place + 1) * length)) };
  });
}

/** How many pushes the last state of a history lacks: an update that is lost where nobody looks again is consistent otherwise. */
export function lostPushes(history: readonly KeyOperation[], last: readonly KeyOperation[]): number {
  const seen = last.flatMap((operation) => (operation.kind === "pull" ? operation.seen : []));
  return history.filter(({ kind }) => kind === "push").length - seen.length;
}
