/** @file A model run layer by layer, with all layers held or two at a time, against the model in one segment of a thread. */
import { afterEach, describe, expect, test } from "vitest";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { planSegment, planSegments } from "../../src/nn/layout.ts";
import { parameterCount, parseModel } from "../../src/nn/spec.ts";
import { planOn } from "../../src/runtime/compute-thread.ts";
import { LayerwiseCompute, type LayerwiseInit } from "../../src/runtime/layerwise.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { InterruptedError } from "../../src/types/errors.ts";
import {
  bitsOf,
  common,
  evaluate,
  feeder,
  Oracle,
  resultOf,
  stepOfAll,
  stepOfPool,
} from "../helpers/layerwise-steps.ts";

/** Neither first nor last is the largest. */
const MODEL = "mlp:9-8-11-6-5";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function start(changes: Partial<LayerwiseInit> & Pick<LayerwiseInit, "held">): Promise<LayerwiseCompute> {
  const compute = await LayerwiseCompute.start({ ...common, model: MODEL, engine: "wasm-exact", ...changes });
  cleanups.push(() => compute.stop());
  return compute;
}

async function startOracle(changes: Partial<LayerwiseInit>): Promise<Oracle> {
  const oracle = await Oracle.start({ model: MODEL, engine: "wasm-exact", ...changes });
  cleanups.push(() => oracle.stop());
  return oracle;
}

const STEPS = { all: stepOfAll, pool: stepOfPool };
const MODELS = [MODEL, `${MODEL},activation=gelu`, `${MODEL},activation=tanh`, "mlp:9-5"];
const KINDS = MODELS.flatMap((model) =>
  (["wasm", "wasm-exact"] as const).flatMap((engine) =>
    (["all", "pool"] as const).map((held) => ({ model, engine, held })),
  ),
);

test.each(KINDS)(
  "losses, gradients and evaluation have the bits of one segment: $model $engine $held",
  async (kind) => {
    const [oracle, compute] = [await startOracle(kind), await start(kind)];
    expect(compute.layers).toBe(oracle.parameters.length);
    for (let step = 0; step < 3; step++) {
      const { parameters } = oracle;
      const expected = await oracle.step(step);
      expect(expected.gradients.every((gradient) => gradient.some((value) => value !== 0))).toBe(true);
      const { results, gradients } = await STEPS[kind.held](compute, parameters, step);
      expect(results).toEqual(expected.results);
      expect(gradients.map(bitsOf)).toEqual(expected.gradients.map(bitsOf));
      expect(await evaluate(compute, oracle.parameters)).toEqual(await oracle.evaluate());
    }
  },
);

describe("memory", () => {
  const WIDTH = 64;
  /** The first layer is a small one. */
  const deep = (depth: number): string => `mlp:9-${`${WIDTH}-`.repeat(depth)}10`;
  const PAGE_BYTES = 65_536;
  const takenBytes = ({ memory }: LayerwiseCompute): number => memory.memory.buffer.byteLength;

  test("a pool has two layers' parameters and gradients, however deep the model is", async () => {
    const [shallow, pool] = [
      await start({ model: deep(8), held: "pool" }),
      await start({ model: deep(40), held: "pool" }),
    ];
    const all = await start({ model: deep(40), held: "all" });
    expect(shallow.sizeBytes).toBe(2 * 2 * 4 * (WIDTH + 1) * WIDTH);
    expect(pool.sizeBytes).toBe(shallow.sizeBytes);
    expect(all.sizeBytes).toBe(2 * 4 * parseModel(deep(40)).parameters);
    const savedBytes = takenBytes(all) - takenBytes(pool);
    expect(Math.abs(savedBytes - (all.sizeBytes - pool.sizeBytes))).toBeLessThanOrEqual(PAGE_BYTES);
    // What is left to grow: four arrays of activations and some hundred bytes for each layer.
    const layerBytes = 4 * 4 * common.rows * WIDTH + 512;
    expect(takenBytes(pool) - takenBytes(shallow)).toBeLessThanOrEqual(32 * layerBytes + PAGE_BYTES);
  });

  test("what kernels work in is there once, as large as the whole model needs it", () => {
    const kernels = loadKernels("wasm-exact", new EngineMemory(0).memory);
    const segment = { ...common, model: deep(3), slots: 1, optimizer: "sgd", rate: 0 };
    const whole = planSegment({ ...segment, layers: [0, 4] }, kernels);
    const inits = [0, 1, 2, 3].map((i) => ({ ...segment, layers: [i, i + 1], held: "all" }) as const);
    const layouts = planSegments(inits, kernels);
    const { scratchOffsetBytes, digestOffsetBytes } = layouts[0]!;
    expect(digestOffsetBytes - scratchOffsetBytes).toBe(whole.digestOffsetBytes - whole.scratchOffsetBytes);
    expect(layouts.map((layout) => layout.scratchOffsetBytes)).toEqual(Array(4).fill(scratchOffsetBytes));
  });

  test("no two places of a pool overlap", async () => {
    const compute = await start({ held: "pool" });
    const largestBytes = 4 * Math.max(...parseModel(MODEL).layers.map(parameterCount));
    const places = [0, 1].flatMap((layer) => [compute.parameters(layer), compute.gradient(layer)]);
    const offsets = places.map(({ byteOffset }) => byteOffset).toSorted((a, b) => a - b);
    offsets.slice(1).forEach((offset, i) => expect(offset - offsets[i]!).toBeGreaterThanOrEqual(largestBytes));
    for (const layer of [2, 3]) {
      expect(compute.parameters(layer).byteOffset).toBe(compute.parameters(layer - 2).byteOffset);
      expect(compute.gradient(layer).byteOffset).toBe(compute.gradient(layer - 2).byteOffset);
    }
  });

  test("where all is held, parameters start as the job's and gradients at zero", async () => {
    const [oracle, compute] = [await startOracle({}), await start({ held: "all" })];
    for (const [layer, values] of oracle.parameters.entries()) {
      expect(bitsOf(compute.parameters(layer))).toEqual(bitsOf(values));
      expect(bitsOf(compute.gradient(layer))).toEqual(bitsOf(new Float32Array(values.length)));
    }
  });
});

describe("what cannot be", () => {
  test("passes out of order are refused", async () => {
    const compute = await start({ held: "all" });
    const refuses = (pass: Promise<unknown>): Promise<void> => expect(pass).rejects.toThrow(AssertionFailed);
    await refuses(compute.forward(1));
    for (let layer = 0; layer < 4; layer++) await compute.forward(layer);
    await refuses(compute.forward(0));
    await refuses(compute.evaluate(0));
    await refuses(compute.backwardInput(2));
    await refuses(compute.backwardWeight(3));
    for (let layer = 3; layer >= 0; layer--) await compute.backwardInput(layer);
    await compute.backwardWeight(0);
    // Layer 1 has not read the input that would be overwritten.
    await refuses(compute.forward(0));
    await refuses(compute.evaluate(0));
    for (const layer of [3, 1]) await compute.backwardWeight(layer);
    await compute.forward(0);
    await refuses(compute.forward(1));
    await refuses(compute.forward(4));
    expect(() => compute.parameters(4)).toThrow("layer 4 exists");
  });

  test("segments that share are one layer each, and in a pool without states", () => {
    const segment = {
      ...common,
      model: MODEL,
      slots: 1,
      optimizer: "sgd",
      rate: 0,
      layers: [0, 1],
      held: "pool",
    } as const;
    expect(() => planOn("wasm-exact", { ...segment, layers: [0, 2] })).toThrow("one layer each");
    expect(() => planOn("wasm-exact", { ...segment, optimizer: "adam" })).toThrow("keep no state");
    expect(() => planOn("wasm-exact", segment, true)).toThrow("keep no state");
  });

  test("only the last layer tells of the loss, and numbers are told with their layer", async () => {
    const compute = await start({ held: "all" });
    compute.parameters(1)[3] = Infinity;
    feeder.fillTraining(compute.memory, compute.slot, 0, 0);
    expect(resultOf(await compute.forward(0))).toEqual({ notFiniteLayer: -1, loss: NaN, correct: 0 });
    expect(await compute.forward(1)).toMatchObject({ notFiniteLayer: 1, correct: 0 });
  });

  test("an operation under way when the thread stops is rejected", async () => {
    const compute = await start({ held: "pool" });
    const pending = expect(compute.forward(0)).rejects.toThrow(InterruptedError);
    await compute.stop();
    await pending;
  });
});

test("a pace is each layer's", async () => {
  // 2 · 9 · 8 · 4 FLOP of the first layer take 4 ms, 2 · 11 · 8 · 4 of the second 4.9 ms; a late sleep is made up for by 0.5 ms.
  const compute = await start({ held: "all", pace: 0.144e-3 });
  const durationMs = ({ startMs, endMs }: { startMs: number; endMs: number }): number => endMs - startMs;
  expect(durationMs(await compute.forward(0))).toBeGreaterThan(3.4);
  for (const layer of [1, 2, 3]) await compute.forward(layer);
  for (const layer of [3, 2]) await compute.backwardInput(layer);
  expect(durationMs(await compute.backwardInput(1))).toBeGreaterThan(4.3);
  await compute.backwardInput(0);
  expect(durationMs(await compute.backwardWeight(0))).toBeGreaterThan(3.4);
});
