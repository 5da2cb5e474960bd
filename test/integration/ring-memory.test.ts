/** @file Rings in one process against the same training without a ring: the same bits, however it is cut, scheduled or resumed. */
import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lossCurveSha256 } from "../../src/metrics/summary.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { checkpointSteps } from "../../src/runtime/checkpoint.ts";
import { type Outcome, resumeRing, runRing, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

/** What must not depend on how the work was done. */
const bits = ({ summary, losses }: Outcome) => ({
  losses,
  ...Object.fromEntries(
    ["steps", "weightsSha256", "initialWeightsSha256", "lossCurveSha256", "testAccuracy", "firstLoss", "finalLoss"].map(
      (name) => [name, summary[name]],
    ),
  ),
});
const events = (folder: ReturnType<Scratch["folder"]>, kind: string): number[] =>
  (folder.readLines(RUN_FILES.events) as { readonly kind: string; readonly step: number }[])
    .filter((event) => event.kind === kind)
    .map(({ step }) => step);

describe("the same bits as one process", () => {
  let expected: Outcome;
  beforeAll(async () => {
    expected = await runSerial(tinySettings(), scratch.folder());
  });

  test("which learns, and whose curve has the stated digest", () => {
    expect(expected.losses.length).toBe(5);
    expect(expected.losses.at(-1)!).toBeLessThan(expected.losses[0]!);
    expect(expected.summary["lossCurveSha256"]).toBe(lossCurveSha256(expected.losses));
    expect(expected.summary["weightsSha256"]).not.toBe(expected.summary["initialWeightsSha256"]);
  });

  test.each([
    [1, "1f1b"],
    [2, "1f1b"],
    [2, "gpipe"],
    [3, "1f1b"],
    [3, "gpipe"],
    [4, "1f1b"],
  ])("on %i nodes, %s", async (nodes, schedule) => {
    const folder = scratch.folder();
    const outcome = await runRing(tinySettings({ nodes, schedule }), folder);
    expect(bits(outcome)).toEqual(bits(expected));
    expect(outcome.summary).toMatchObject({ nodes, schedule, system: "ring" });
    const layers = (outcome.summary["perNode"] as { layers: [number, number][] }[]).map((node) => node.layers[0]!);
    expect([layers[0]![0], layers.at(-1)![1]]).toEqual([0, 4]);
    expect(layers.slice(1).map(([start]) => start)).toEqual(layers.slice(0, -1).map(([, end]) => end));
    expect(checkpointSteps(folder)).toEqual([5]);
  });

  test.each(["sgd", "momentum", "adamw", "adagrad"])("with %s", async (optimizer) => {
    const settings = tinySettings({ optimizer, steps: 3 });
    const alone = await runSerial(settings, scratch.folder());
    expect(bits(await runRing(settings, scratch.folder()))).toEqual(bits(alone));
  });

  test("with other micro-batches it is the same sum in another order: close, not equal", async () => {
    const outcome = await runRing(tinySettings({ microBatches: 3 }), scratch.folder());
    expect(outcome.summary["weightsSha256"]).not.toBe(expected.summary["weightsSha256"]);
    outcome.losses.forEach((loss, step) => expect(loss).toBeCloseTo(expected.losses[step]!, 5));
  });
});

test("an uneven model: one wide layer, more micro-batches than one node holds, one row each", async () => {
  const settings = tinySettings({
    model: "mlp:6-70-3-2-4,activation=gelu",
    nodes: 3,
    batch: 7,
    microBatches: 7,
    steps: 4,
  });
  const alone = await runSerial(settings, scratch.folder());
  expect(bits(await runRing(settings, scratch.folder()))).toEqual(bits(alone));
});

describe("a run ends", () => {
  test("after the first step whose loss is low enough, wherever it is computed", async () => {
    const { losses } = await runSerial(tinySettings({ steps: 8 }), scratch.folder());
    const stopAtLoss = losses[3]!;
    const wanted = losses.findIndex((loss) => loss <= stopAtLoss) + 1;
    const settings = tinySettings({ steps: 8, stopAtLoss });
    const alone = await runSerial(settings, scratch.folder());
    const outcome = await runRing({ ...settings, nodes: 3 }, scratch.folder());
    expect(outcome.summary["steps"]).toBe(wanted);
    expect(bits(outcome)).toEqual(bits(alone));
  });

  test("after the step under way when the last node is asked to stop", async () => {
    const folder = scratch.folder();
    const settings = tinySettings({ nodes: 3, steps: 100_000 });
    const { summary, losses } = await runRing(settings, folder, {
      onCommitted: (step, rings) => {
        if (step === 2) rings.at(-1)?.requestStop();
      },
    });
    expect(losses.length).toBeGreaterThan(2);
    expect(summary["steps"]).toBe(losses.length);
    expect(checkpointSteps(folder)).toEqual([losses.length]);
    const alone = await runSerial(tinySettings({ steps: losses.length }), scratch.folder());
    expect(summary["weightsSha256"]).toBe(alone.summary["weightsSha256"]);
  });
});

test("checkpoints and evaluations come when they are due, and change no bit", async () => {
  const every = { steps: 6, checkpointEvery: 2, validateEvery: 3 };
  const folder = scratch.folder();
  const plain = await runSerial(tinySettings({ steps: 6 }), scratch.folder());
  const alone = scratch.folder();
  expect(bits(await runSerial(tinySettings(every), alone))).toEqual(bits(plain));
  expect(bits(await runRing(tinySettings({ ...every, nodes: 3 }), folder))).toEqual(bits(plain));
  for (const each of [folder, alone]) {
    expect(events(each, "checkpoint")).toEqual([2, 4, 6]);
    expect(events(each, "evaluated")).toEqual([3, 6]);
    expect(checkpointSteps(each)).toEqual([2, 4, 6]);
    expect(existsSync(each.file(RUN_FILES.summary))).toBe(true);
  }
});

test("a run that is resumed by another number of nodes goes on with the same bits", async () => {
  const whole = await runSerial(tinySettings({ steps: 7 }), scratch.folder());
  const folder = scratch.folder();
  await runRing(tinySettings({ nodes: 3, steps: 3 }), folder);
  await resumeRing(tinySettings({ nodes: 2, steps: 5, schedule: "gpipe" }), folder);
  const resumed = await resumeRing(tinySettings({ nodes: 4, steps: 7 }), folder);
  // The initial digest is that of the weights with which this run began.
  const { initialWeightsSha256: _, ...same } = bits(whole) as Record<string, unknown>;
  expect(bits(resumed)).toMatchObject(same);
});
