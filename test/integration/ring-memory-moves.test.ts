/**
 * @file Rings in one process whose layers move in mid-run, because the nodes are said to be of unequal speed: the same bits as one
 * process that moves nothing, before, across and after the move.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { checkpointSteps } from "../../src/runtime/checkpoint.ts";
import { bits, type Outcome, resumeRing, runRing, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

const LIMIT_MS = 30_000;
/** Eight equal layers, and a step long enough that a move pays back within a few of them. */
const EQUAL = {
  ...{ model: "mlp:32-32-32-32-32-32-32-32-32", data: "synthetic:classes=32,features=32,samples=240,test=40" },
  ...{ batch: 24, microBatches: 4, steps: 17, lr: 0.01, seed: 6 },
};
/** The last node is a quarter as fast as the first. */
const PACES: Readonly<Record<number, string>> = {
  2: "0.02,0.005GFLOP/s",
  3: "0.02,0.01,0.005GFLOP/s",
  4: "0.02,0.01,0.01,0.005GFLOP/s",
};
const uneven = (nodes: number, changes: Readonly<Record<string, unknown>> = {}) =>
  tinySettings({ ...EQUAL, nodes, pace: PACES[nodes], ...changes });

type Event = Readonly<Record<string, unknown>> & { readonly kind: string; readonly step: number };
const events = (folder: RunFolder, kind: string): Event[] =>
  (folder.readLines(RUN_FILES.events) as Event[]).filter((event) => event.kind === kind);

/** Within the only view where there are no replicas; else a view was decided that has the same nodes and another cut. */
function expectMoved(folder: RunFolder, { summary }: Outcome): void {
  const views = events(folder, "view").filter(({ removed }) => (removed as unknown[]).length === 0);
  const moved = [...events(folder, "migrated"), ...views];
  expect(moved.length, "layers moved").toBeGreaterThanOrEqual(1);
  const cut = moved.at(-1)!["cut"] as [number, number][];
  const held = (summary["perNode"] as { layers: [number, number][] }[]).map(({ layers }) => layers);
  expect(held[0]!.flatMap((_, lap) => held.map((layers) => layers[lap]))).toEqual(cut);
  const sizes = held.map((layers) => layers.reduce((sum, [start, end]) => sum + end - start, 0));
  expect(sizes[0], "the fast node has more than the slow one").toBeGreaterThan(sizes.at(-1)!);
}

describe("layers that move change no bit", () => {
  let serial: Outcome;
  beforeAll(async () => {
    serial = await runSerial(tinySettings(EQUAL), scratch.folder());
  });

  test.each([
    ["naive", 2, 1, 0],
    ["gpipe", 3, 1, 0],
    ["1f1b", 3, 1, 0],
    ["interleaved", 2, 2, 0],
    ["zb-h1", 3, 1, 0],
    ["zero-bubble", 3, 1, 0],
    ["zero-bubble", 4, 1, 0],
    ["zero-bubble", 2, 2, 0],
    ["zero-bubble", 4, 2, 0],
    ["zero-bubble", 2, 4, 0],
    ["gpipe", 3, 1, 1],
    ["interleaved", 2, 2, 1],
    ["zero-bubble", 4, 1, 2],
    ["zero-bubble", 2, 4, 1],
  ])(
    "%s, %i nodes, %i laps, %i replicas",
    async (schedule, nodes, laps, replicas) => {
      const folder = scratch.folder();
      const outcome = await runRing(uneven(nodes, { schedule, laps, replicas }), folder);
      expect(bits(outcome)).toEqual(bits(serial));
      if (nodes * laps < 8) expectMoved(folder, outcome);
      else expect(events(folder, "migrated"), "one layer a stage cannot move").toEqual([]);
    },
    LIMIT_MS,
  );

  test.each([
    ["momentum", 0],
    ["adamw", 0],
    ["sgd", 0],
    ["momentum", 1],
    ["sgd", 1],
  ])(
    "with %s, whose state moves with them, %i replicas",
    async (optimizer, replicas) => {
      const alone = await runSerial(tinySettings({ ...EQUAL, optimizer }), scratch.folder());
      const folder = scratch.folder();
      const outcome = await runRing(uneven(2, { optimizer, replicas, laps: optimizer === "momentum" ? 2 : 1 }), folder);
      expect(bits(outcome)).toEqual(bits(alone));
      expectMoved(folder, outcome);
    },
    LIMIT_MS,
  );

  test.each([0, 1])(
    "where checkpoints and evaluations fall on the steps around the move, %i replicas",
    async (replicas) => {
      const folder = scratch.folder();
      const outcome = await runRing(uneven(3, { checkpointEvery: 1, validateEvery: 1, replicas }), folder);
      expect(bits(outcome)).toEqual(bits(serial));
      expectMoved(folder, outcome);
      const all = Array.from({ length: 17 }, (_, step) => step + 1);
      expect(events(folder, "checkpoint").map(({ step }) => step)).toEqual(all);
      expect(events(folder, "evaluated").map(({ step }) => step)).toEqual(all);
    },
    LIMIT_MS,
  );

  test.each([0, 1])(
    "nor does a resume by other nodes, from a checkpoint behind the move, %i replicas",
    async (replicas) => {
      const folder = scratch.folder();
      const before = await runRing(uneven(3, { steps: 10, checkpointEvery: 4, replicas }), folder);
      expectMoved(folder, before);
      expect(checkpointSteps(folder)).toEqual([4, 8, 10]);
      const resumed = await resumeRing(uneven(2, { laps: 2, steps: 17, replicas }), folder);
      const { initialWeightsSha256: _, ...same } = bits(serial) as Record<string, unknown>;
      expect(bits(resumed)).toMatchObject(same);
    },
    LIMIT_MS,
  );
});

describe("a run ends in order", () => {
  test(
    "where its last step comes while a plan that moves layers is under way: nothing moves",
    async () => {
      const plain = await runSerial(tinySettings(EQUAL), scratch.folder());
      // The first plan starts with step 2, and would take effect before step 3.
      const stopAtLoss = plain.losses[2]!;
      expect(plain.losses.slice(0, 2).every((loss) => loss > stopAtLoss)).toBe(true);
      const folder = scratch.folder();
      const outcome = await runRing(uneven(3, { stopAtLoss, replicas: 0 }), folder);
      expect(outcome.summary["steps"]).toBe(3);
      expect(events(folder, "balance").map(({ decision }) => (decision as Event).kind)).toEqual(["move"]);
      expect(events(folder, "migrated")).toEqual([]);
      expect(bits(outcome)).toEqual(bits(await runSerial(tinySettings({ ...EQUAL, stopAtLoss }), scratch.folder())));
    },
    LIMIT_MS,
  );

  test.each([
    [1, 0],
    [2, 1],
    [3, 0],
    [3, 1],
    [4, 0],
    [4, 1],
  ])(
    "when the last node is asked to stop after step %i, %i replicas",
    async (wanted, replicas) => {
      const folder = scratch.folder();
      const { summary, losses } = await runRing(uneven(3, { steps: 1_000, replicas }), folder, {
        onCommitted: (step, rings) => {
          if (step === wanted) rings.at(-1)?.requestStop();
        },
      });
      expect(summary["steps"]).toBe(losses.length);
      expect(losses.length).toBeGreaterThan(wanted);
      const alone = await runSerial(tinySettings({ ...EQUAL, steps: losses.length }), scratch.folder());
      expect(summary["weightsSha256"]).toBe(alone.summary["weightsSha256"]);
    },
    LIMIT_MS,
  );
});
