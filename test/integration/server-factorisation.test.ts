/** @file Matrix factorisation on nodes in memory: bits of one process, wherever the keys are; and where they are. */
import { expect, test } from "vitest";
import {
  blockInStep,
  entriesByBlock,
  type EpochRecord,
  factorise,
  type Placement,
} from "../../baseline-ps/applications/matrix-factorisation.ts";
import { drawRow, factorKeys, type MatrixTask } from "../../baseline-ps/applications/matrix-entries.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { KeyNodes } from "../helpers/key-nodes.ts";
import { soon } from "../helpers/memory-ring.ts";
import { plainFactorisation } from "../helpers/plain-factorisation.ts";

const TASK: MatrixTask = { seed: 4, rows: 60, columns: 40, rank: 4, draws: 12 };
const RUN = { epochs: 6, rate: 0.15, decay: 0.01 };
const network = new MemoryNetwork();
let members = 0;
const create = async (): Promise<Transport> => network.join(`peer${members++}`);

async function run(
  workers: number,
  placement: Placement,
): Promise<{ readonly records: readonly (readonly EpochRecord[])[]; readonly factors: Float32Array }> {
  await using group = await KeyNodes.start({ create, nodes: workers, keys: factorKeys(TASK), length: TASK.rank });
  const records = group.nodes.map((): EpochRecord[] => []);
  const working = group.nodes.map((node, worker) =>
    factorise({
      ...RUN,
      node,
      task: TASK,
      worker,
      workers,
      placement,
      onEpoch: (record) => records[worker]!.push(record),
    }),
  );
  await soon(Promise.all(working), "the factorisation");
  return { records, factors: await group.values(factorKeys(TASK), TASK.rank) };
}

const PLACEMENTS: readonly Placement[] = ["home", "localize", "ahead"];

test.each(PLACEMENTS.flatMap((placement) => [1, 2, 3].map((workers) => [placement, workers] as const)))(
  "%s, %i workers: the bits of one process",
  async (placement, workers) => {
    const { records, factors } = await run(workers, placement);
    const plain = plainFactorisation(TASK, { workers, ...RUN });
    const sums = Array.from({ length: RUN.epochs }, (_, epoch) => records.map((own) => own[epoch]!.squaredErrors));
    expect(sums).toEqual(plain.squaredErrors);
    expect([...factors]).toEqual([...plain.factors]);
    const total = (epoch: number): number => sums[epoch]!.reduce((sum, part) => sum + part, 0);
    expect(total(RUN.epochs - 1)).toBeLessThan(0.8 * total(0));
  },
);

test("copies: one process, but for the rounding of what is pushed at once", async () => {
  const { records, factors } = await run(3, "copies");
  const plain = plainFactorisation(TASK, { workers: 3, ...RUN });
  // Factors are below 2, and each of 36 steps rounds a change and a sum to 2^-24 of it.
  for (const [place, factor] of factors.entries()) {
    expect(Math.abs(factor - plain.factors[place]!), `factor ${place}`).toBeLessThan(36 * 2 * 2 ** -23);
  }
  // In each epoch every worker pulls and pushes every column once. The access to copies is none.
  expect(records.flat().reduce((sum, { local, remote }) => sum + local + remote, 0)).toBe(RUN.epochs * 3 * 2 * 40);
});

test.each(["localize", "ahead"] as const)("%s: every access is local", async (placement) => {
  const { records } = await run(3, placement);
  const { entries } = plainFactorisation(TASK, { workers: 3, ...RUN });
  const all = records.flat();
  expect(all.reduce((sum, { remote }) => sum + remote, 0)).toBe(0);
  // A row and a column, pulled and pushed.
  expect(all.reduce((sum, { local }) => sum + local, 0)).toBe(RUN.epochs * 4 * entries);
  const late = all.reduce((sum, { lateSteps }) => sum + lateSteps, 0);
  // Each worker's very first block may come at the start of its step, as all do where none comes ahead.
  if (placement === "ahead") expect(late).toBeLessThanOrEqual(3);
  else expect(late).toBe(RUN.epochs * 2 * 3 * 3);
});

test("where keys stay at home, accesses are local as it happens", async () => {
  const { records } = await run(3, "home");
  const [local, remote] = [records.flat().map((each) => each.local), records.flat().map((each) => each.remote)];
  const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);
  expect(sum(local) / (sum(local) + sum(remote))).toBeCloseTo(1 / 3, 1);
});

test("blocks of entries are disjoint and complete; in a step no two workers have the same columns", () => {
  const workers = 3;
  const blocks = Array.from({ length: workers }, (_, worker) => entriesByBlock({ task: TASK, worker, workers }));
  const whole = Array.from({ length: TASK.rows }, (_, row) => drawRow(TASK, row)).flat();
  const nameOf = ({ row, column, value }: (typeof whole)[number]): string => `${row} ${column} ${value}`;
  expect(blocks.flat(2).map(nameOf).toSorted()).toEqual(whole.map(nameOf).toSorted());
  for (let step = 0; step < 2 * workers; step += 1) {
    const next = [0, 1, 2].map((worker) => blockInStep({ worker, workers }, step + 1));
    const used = [0, 1, 2].map((worker) => blockInStep({ worker, workers }, step));
    expect(new Set([...used, ...next]).size).toBe(2 * workers);
  }
});
