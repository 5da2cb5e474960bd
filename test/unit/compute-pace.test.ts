/** @file Paced compute and measured layer costs: the arithmetic of deadlines on a clock of the test's, then a real thread. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { LAYER_PASSES, operationFlops } from "../../src/nn/flops.ts";
import { LayerTimes } from "../../src/runtime/compute-layer-times.ts";
import { Pacer } from "../../src/runtime/compute-pace.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import * as stages from "../helpers/compute-stages.ts";
import { randomBatch, setting } from "../helpers/segments.ts";

const clock = vi.hoisted(() => ({ nowMs: 0 }));
vi.mock("../../src/runtime/clock.ts", () => ({ nowMs: () => clock.nowMs }));

/** At 1 GFLOP/s. */
const MS = 1e6;

afterEach(() => vi.restoreAllMocks());

/** A pacer of 1 GFLOP/s whose sleeps end late by what `lateMs` gives. */
function pacer(lateMs: () => number): Pacer {
  clock.nowMs = 1000;
  vi.spyOn(Atomics, "wait").mockImplementation((...[, , , timeoutMs]) => {
    clock.nowMs += (timeoutMs as number) + lateMs();
    return "timed-out";
  });
  return new Pacer(1);
}

/** One operation whose layers are stated to take `statedMs` and take `realMs` of arithmetic; each layer's duration. */
function operate(paced: Pacer, statedMs: readonly number[], realMs: readonly number[]): number[] {
  let startMs = clock.nowMs;
  paced.begin(startMs);
  const durations = statedMs.map((stated, i) => {
    clock.nowMs += realMs[i]!;
    paced.sleepAfter(stated * MS);
    const durationMs = clock.nowMs - startMs;
    startMs = clock.nowMs;
    return durationMs;
  });
  paced.end(clock.nowMs);
  return durations;
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe("deadlines", () => {
  test("each layer takes its own time, and the deadlines add up", () => {
    const paced = pacer(() => 0.1);
    const [first, second, third] = operate(paced, [5, 2, 3], [1, 1, 1]) as [number, number, number];
    // Every layer ends as late as its own sleep.
    expect(first).toBeCloseTo(5.1);
    expect(second).toBeCloseTo(2);
    expect(third).toBeCloseTo(3);
    // A layer that takes too long is made up for within its operation.
    const [long, short] = operate(paced, [2, 6], [4, 1]) as [number, number];
    expect(long).toBeCloseTo(4);
    expect(long + short).toBeCloseTo(8);
    expect(paced.counts).toEqual({ paced: 2, missed: 0, worstRatio: 1 });
  });

  test("lateness of sleeps leaves the mean as stated", () => {
    let index = 0;
    const paced = pacer(() => [0.05, 0.3, 0.1, 0.15][index++ % 4]!);
    const durations = Array.from({ length: 1000 }, () => sum(operate(paced, [5], [1])));
    expect(Math.abs(sum(durations) / 1000 - 5)).toBeLessThan(0.001);
  });

  test("an operation that ends within the sleep's lateness of its deadline leaves the mean as stated", () => {
    const paced = pacer(() => 0.2);
    const durations = Array.from({ length: 1000 }, (_, i) => sum(operate(paced, [5], [i % 2 === 0 ? 1 : 4.9])));
    expect(Math.abs(sum(durations) / 1000 - 5)).toBeLessThan(0.001);
    expect(paced.counts.missed).toBe(0);
  });

  test("the lateness of an overloaded machine is not hidden", () => {
    const lateness = [8, 0, 0];
    const paced = pacer(() => lateness.shift() ?? 0);
    expect(sum(operate(paced, [5], [1]))).toBeCloseTo(13);
    expect(sum(operate(paced, [5], [1]))).toBeCloseTo(4.5);
    expect(sum(operate(paced, [5], [1]))).toBeCloseTo(5);
  });

  test("a pace that is missed is counted, and not made up for", () => {
    const paced = pacer(() => 0);
    expect(operate(paced, [5], [6])).toEqual([6]);
    expect(operate(paced, [5], [10])).toEqual([10]);
    expect(operate(paced, [5], [1])).toEqual([5]);
    expect(paced.counts).toEqual({ paced: 3, missed: 2, worstRatio: 2 });
  });

  test("an operation without stated work is not paced", () => {
    const paced = pacer(() => 0.1);
    expect(operate(paced, [0], [3])).toEqual([3]);
    expect(operate(paced, [], [])).toEqual([]);
    expect(paced.counts).toEqual({ paced: 0, missed: 0, worstRatio: 1 });
    expect(() => new Pacer(0)).toThrow("pace");
  });
});

test("medians are of the newest fifteen, in whole microseconds, in layer order", () => {
  const times = new LayerTimes([7, 2]);
  for (let i = 0; i < 15; i++) times.add(7, "forward", 1000);
  for (let i = 0; i < 15; i++) times.add(7, "forward", 9 - (i % 3));
  for (const durationMs of [3, 1, 2]) times.add(2, "backwardWeight", durationMs);
  times.add(2, "backwardInput", 0);
  expect(times.mediansUs()).toEqual([
    { layer: 2, forwardUs: 0, backwardInputUs: 1, backwardWeightUs: 2000 },
    { layer: 7, forwardUs: 8000, backwardInputUs: 0, backwardWeightUs: 0 },
  ]);
});

test("work is two operations per weight and row, none for the inputs of the model's first layer", () => {
  const spec = { inputs: 3, outputs: 5, activation: "relu" } as const;
  expect(LAYER_PASSES.map((pass) => operationFlops(spec, 7, pass, false))).toEqual([210, 210, 210]);
  expect(LAYER_PASSES.map((pass) => operationFlops(spec, 7, pass, true))).toEqual([210, 0, 210]);
});

describe("a paced thread", () => {
  const common = setting({ model: "mlp:16-16-32-16", optimizer: "sgd" });
  const batch = randomBatch(common, 1);
  /** FLOP of one pass of a micro-batch: 2,048, 4,096 and 4,096 at the three layers; so 2, 4 and 4 ms. */
  const PACE = 1.024e-3;
  /** An operation may make up for the lateness of the one before, by so much at most. */
  const CARRIED_MS = 0.6;

  const start = (pace?: number) =>
    ComputeThread.start({
      segments: [
        { ...common, layers: [0, 2] },
        { ...common, layers: [2, 3] },
      ],
      engine: "wasm-exact",
      ...(pace === undefined ? {} : { pace }),
    });

  test("computes the same, never faster than stated", async () => {
    await using cleanup = new AsyncDisposableStack();
    const [plain, paced] = [await start(), await start(PACE)];
    for (const thread of [plain, paced]) cleanup.defer(() => thread.stop());
    const loss = await stages.trainStep([plain], batch, 0);
    expect(await stages.trainStep([paced], batch, 0)).toBe(loss);
    expect(await stages.digests([paced])).toEqual(await stages.digests([plain]));
    // An evaluation is no part of a step: it is not slowed down, and not counted.
    await paced.run({ kind: "evaluate", lap: 0, slot: 0 });
    // A micro-batch is two forward passes, the first stage's fused backward pass, and the second's for inputs and for weights.
    expect((await paced.run({ kind: "update", step: 1 })).pace?.paced).toBe(3 * 5);
    expect((await plain.run({ kind: "update", step: 1 })).pace).toBeNull();
  });

  test("tells each layer's own time", async () => {
    await using cleanup = new AsyncDisposableStack();
    const thread = await start(PACE);
    cleanup.defer(() => thread.stop());
    const run = stages.stagesOf([thread]);
    await stages.forward(run, 0, batch, 0);
    await thread.run({ kind: "backward", lap: 1, slot: 0 });
    const backward = await thread.run({ kind: "backward", lap: 0, slot: 0 });
    const { layerUs } = await thread.run({ kind: "update", step: 0 });
    expect(layerUs.map(({ layer }) => layer)).toEqual([0, 1, 2]);
    const lap = layerUs.slice(0, 2);
    const inputMs = sum(lap.map((times) => times.backwardInputUs)) / 1000;
    const weightMs = sum(lap.map((times) => times.backwardWeightUs)) / 1000;
    // However late a shared machine is, an operation's layers are its parts, and its deadline is that of them all: 4 ms for
    // inputs and 6 ms for weights. Each time is rounded to a microsecond.
    expect(inputMs).toBeLessThan(backward.boundaryMs - backward.startMs + 0.002);
    expect(weightMs).toBeLessThan(backward.endMs - backward.boundaryMs + 0.002);
    expect(inputMs + weightMs).toBeGreaterThan(10 - CARRIED_MS);
    expect(sum(lap.map(({ forwardUs }) => forwardUs)) / 1000).toBeGreaterThan(6 - CARRIED_MS);
  });

  test("says when it cannot keep the pace", async () => {
    await using cleanup = new AsyncDisposableStack();
    const thread = await start(1e6);
    cleanup.defer(() => thread.stop());
    await stages.trainStep([thread], batch, 0);
    const { pace } = await thread.run({ kind: "update", step: 1 });
    expect(pace?.missed).toBe(pace?.paced);
    expect(pace?.worstRatio).toBeGreaterThan(10);
  });
});
