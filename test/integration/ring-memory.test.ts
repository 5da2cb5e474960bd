/** @file Rings in one process against the same training without a ring: the same bits, however it is cut, scheduled or resumed. */
import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lossCurveSha256 } from "../../src/metrics/summary.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { checkpointSteps } from "../../src/runtime/checkpoint.ts";
import { bits, type Outcome, resumeRing, runRing, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

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
    [1, "zero-bubble"],
    [2, "zero-bubble"],
    [2, "gpipe"],
    [3, "zb-h1"],
    [3, "naive"],
    [4, "interleaved"],
    [4, "1f1b"],
    [4, "zero-bubble"],
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

describe("a deep model has the same bits under every schedule and cut", () => {
  const DEEP = { model: "mlp:6-9-5-7-8-6-9-5-4", steps: 4 };
  const serial = new Map<number, Outcome>();
  beforeAll(async () => {
    for (const microBatches of [2, 4, 12]) {
      serial.set(microBatches, await runSerial(tinySettings({ ...DEEP, microBatches }), scratch.folder()));
    }
  });

  /** Micro-batches, schedule, nodes by laps. */
  const RINGS = [
    [2, "naive", ["1x1", "3x1", "8x1"]],
    [2, "gpipe", ["5x1"]],
    [2, "1f1b", ["5x1"]],
    [2, "interleaved", ["2x1", "2x4"]],
    [2, "zb-h1", ["1x1", "2x1"]],
    [2, "zero-bubble", ["5x1", "8x1", "2x2", "2x4"]],
    [4, "naive", ["2x1", "4x1"]],
    [4, "gpipe", ["1x1", "2x1", "4x1", "5x1"]],
    [4, "1f1b", ["1x1", "2x1", "4x1", "5x1"]],
    [4, "interleaved", ["1x2", "2x1", "2x2", "2x3", "4x2"]],
    [4, "zb-h1", ["1x1", "2x1", "3x1", "4x1"]],
    [4, "zero-bubble", ["1x1", "1x3", "2x1", "2x2", "2x3", "4x1", "4x2", "5x1", "8x1"]],
    [12, "zb-h1", ["5x1"]],
    [12, "interleaved", ["3x2"]],
    [12, "zero-bubble", ["2x3", "3x1", "3x2", "4x2"]],
  ] as const;
  const cases = RINGS.flatMap(([microBatches, schedule, sizes]) =>
    sizes.map((size) => {
      const [nodes, laps] = size.split("x").map(Number) as [number, number];
      return [microBatches, schedule, nodes, laps] as const;
    }),
  );

  test.each(cases)("%i micro-batches, %s, %i nodes, %i laps", async (microBatches, schedule, nodes, laps) => {
    const settings = tinySettings({ ...DEEP, microBatches, schedule, nodes, laps });
    const outcome = await runRing(settings, scratch.folder());
    expect(bits(outcome)).toEqual(bits(serial.get(microBatches)!));
    const held = (outcome.summary["perNode"] as { layers: [number, number][] }[]).map((node) => node.layers);
    expect(held.map((layers) => layers.length)).toEqual(Array(nodes).fill(nodes === 1 ? 1 : laps));
    const inOrder = held[0]!.flatMap((_, lap) => held.map((layers) => layers[lap]!));
    expect([0, ...inOrder.map(([, end]) => end)]).toEqual([...inOrder.map(([start]) => start), 8]);
  });
});

test("a slow link changes no bit", async () => {
  const alone = await runSerial(tinySettings(), scratch.folder());
  const outcome = await runRing(tinySettings({ nodes: 3, link: "100mbit,2ms" }), scratch.folder());
  expect(bits(outcome)).toEqual(bits(alone));
  const { link, shapedParts } = outcome.summary["emulated"] as Record<string, unknown>;
  expect(link).toBe("100mbit,2ms");
  // Two edges carry 4 activations and 4 gradients a step.
  expect(shapedParts).toBeGreaterThanOrEqual(2 * 2 * 4 * 5);
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
