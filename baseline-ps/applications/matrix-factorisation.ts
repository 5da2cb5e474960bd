/**
 * @file Matrix factorisation by stochastic gradient descent on dynamically allocated keys, with parameter blocking (Gemulla 2011; Renz-Wieland 2020, section
 * 2.2): each worker has a block of rows to itself, and one block of columns at a time, which it gives on when it is done. So no two workers ever use the
 * same key in a step, and the result is that of one process.
 *
 * There are two blocks of columns for each worker. In step s, worker w uses block 2w + s; block 2w + s + 1, which is its next one, was given up by worker w + 1
 * at the end of step s - 1, and nobody else uses it in step s: it may come while this one is computed with.
 */
import { setImmediate } from "node:timers/promises";
import type { KeyRange } from "../core/ranges.ts";
import type { KeyNode } from "../localize/key-node.ts";
import { CopiedKeys } from "./copied-keys.ts";
import { columnKey, drawRow, type Entry, factorKeys, initialFactor, type MatrixTask } from "./matrix-entries.ts";
import { blockOf } from "./sparse-samples.ts";

/**
 * `home`: keys stay where they are at first, as in a classic parameter server, and each use is a message. `copies`: they stay there too; rows are pulled at
 * the start and pushed at the end, a block of columns in each step. `localize`: rows come to their worker at the start, a block of columns when its step
 * begins. `ahead`: a block of columns comes one step ahead.
 */
export type Placement = "home" | "copies" | "localize" | "ahead";

export interface FactorisationInit {
  /** With `rank` values a key, and a node for each worker. */
  readonly node: Pick<KeyNode, "pull" | "push" | "localize" | "isFinished" | "wait" | "barrier" | "accesses">;
  readonly task: MatrixTask;
  readonly worker: number;
  readonly workers: number;
  readonly epochs: number;
  readonly rate: number;
  /** Of the factors, at each use. */
  readonly decay: number;
  readonly placement: Placement;
  readonly onEpoch: (record: EpochRecord) => void;
}

/** A worker's, of one pass over its entries. */
export interface EpochRecord {
  /** Each error before its update, squared, added up in their order. */
  readonly squaredErrors: number;
  /** Keys pulled and pushed: those that were at this node, and the others. */
  readonly local: number;
  readonly remote: number;
  /** Steps that began before their block of columns was here. */
  readonly lateSteps: number;
}

/** A step's work goes on for so many entries before messages of others are heard. */
const ENTRIES_IN_A_ROW = 256;

/** `epochs` passes over all entries, to the end of all workers. Rejects where a node is gone. */
export async function factorise(init: FactorisationInit): Promise<void> {
  const { node, task, workers, epochs, onEpoch } = init;
  const blocks = entriesByBlock(init);
  const columns = (step: number): KeyRange => keysOf(task, workers, blockInStep(init, step));
  const copies = init.placement === "copies" ? new CopiedKeys(node, factorKeys(task), task.rank) : undefined;
  await begin(init, copies);
  for (let epoch = 0; epoch < epochs; epoch += 1) {
    const before = { ...node.accesses };
    let [squaredErrors, lateSteps] = [0, 0];
    for (let step = 0; step < 2 * workers; step += 1) {
      await copies?.fetch(columns(step));
      if (await come(init, columns(step))) lateSteps += 1;
      if (init.placement === "ahead") node.localize(columns(step + 1));
      squaredErrors = await descend(init, copies, blocks[blockInStep(init, step)]!, squaredErrors);
      copies?.giveBack(columns(step));
      await node.barrier();
    }
    const { local, remote } = node.accesses;
    onEpoch({ squaredErrors, local: local - before.local, remote: remote - before.remote, lateSteps });
  }
  copies?.giveBack(rowsOf(init));
  await node.barrier();
}

export const blockInStep = ({ worker, workers }: { readonly worker: number; readonly workers: number }, step: number) =>
  (2 * worker + step) % (2 * workers);

function keysOf(task: MatrixTask, workers: number, block: number): KeyRange {
  const { from, to } = blockOf(task.columns, 2 * workers, block);
  return { start: columnKey(task, from), end: columnKey(task, to) };
}

function rowsOf({ task, worker, workers }: Pick<FactorisationInit, "task" | "worker" | "workers">): KeyRange {
  const { from, to } = blockOf(task.rows, workers, worker);
  return { start: from, end: to };
}

/** The worker's entries by block of columns, each by row and then by column. */
export function entriesByBlock({
  task,
  worker,
  workers,
}: Pick<FactorisationInit, "task" | "worker" | "workers">): readonly (readonly Entry[])[] {
  const { from, to } = blockOf(task.rows, workers, worker);
  const entries = Array.from({ length: to - from }, (_, place) => drawRow(task, from + place)).flat();
  return Array.from({ length: 2 * workers }, (_, block) => {
    const columns = blockOf(task.columns, 2 * workers, block);
    return entries.filter(({ column }) => column >= columns.from && column < columns.to);
  });
}

/** Gives its rows and its first two blocks of columns their initial factors. Its rows then come here for good (data clustering), unless keys stay at home. */
async function begin(init: FactorisationInit, copies: CopiedKeys | undefined): Promise<void> {
  const { node, task, worker, workers, placement } = init;
  const rows = rowsOf(init);
  for (const range of [rows, keysOf(task, workers, 2 * worker), keysOf(task, workers, 2 * worker + 1)]) {
    const { start, end } = range;
    const factors = Array.from({ length: end - start }, (_, place) => [...initialFactor(task, start + place)]).flat();
    node.push(range, Float32Array.from(factors));
  }
  if (isLocalized(placement)) node.localize(rows);
  await node.barrier();
  await copies?.fetch(rows);
}

const isLocalized = (placement: Placement): boolean => placement === "localize" || placement === "ahead";

/** Until a step's columns may be used; whether that took a wait. */
async function come({ node, placement }: FactorisationInit, columns: KeyRange): Promise<boolean> {
  if (!isLocalized(placement)) return false;
  const request = node.localize(columns);
  if (node.isFinished(request)) return false;
  await node.wait(request);
  return true;
}

/** One pass over the entries of a block. @returns `squaredErrors` and those of the entries */
async function descend(
  { node, task, rate, decay }: FactorisationInit,
  copies: CopiedKeys | undefined,
  entries: readonly Entry[],
  squaredErrors: number,
): Promise<number> {
  const { rank } = task;
  const [factors, changes] = [new Float32Array(2 * rank), new Float32Array(2 * rank)];
  let sum = squaredErrors;
  for (const [place, { row, column, value }] of entries.entries()) {
    const keys = [row, columnKey(task, column)];
    if (copies === undefined) {
      const request = node.pull(keys, factors);
      if (!node.isFinished(request)) await node.wait(request);
    } else copies.read(keys, factors);
    let error = value;
    for (let index = 0; index < rank; index += 1) error -= factors[index]! * factors[rank + index]!;
    for (let index = 0; index < rank; index += 1) {
      const [ofRow, ofColumn] = [factors[index]!, factors[rank + index]!];
      changes[index] = rate * (error * ofColumn - decay * ofRow);
      changes[rank + index] = rate * (error * ofRow - decay * ofColumn);
    }
    // The next pull of these keys sees it, wherever they are: a node's operations on a key keep their order.
    if (copies === undefined) node.push(keys, changes);
    else copies.add(keys, changes);
    sum += error * error;
    if (place % ENTRIES_IN_A_ROW === ENTRIES_IN_A_ROW - 1) await setImmediate();
  }
  return sum;
}
