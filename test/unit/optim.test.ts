/** @file Optimizers against single numbers worked out in double precision, and the bits of a resumed state. */
import { expect, test } from "vitest";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { stateAfter } from "../../src/optim/optimizer.ts";
import { OPTIMIZER_NAMES, parseOptimizer } from "../../src/optim/optimizers.ts";
import { UsageError } from "../../src/types/errors.ts";

test("the names of this version", () => {
  expect(OPTIMIZER_NAMES).toEqual(["sgd", "momentum", "adam", "adamw", "adagrad"]);
  expect(OPTIMIZER_NAMES.map((name) => parseOptimizer(name).stateNames)).toEqual([
    [],
    ["v"],
    ["m", "v"],
    ["m", "v"],
    ["s"],
  ]);
  expect(() => parseOptimizer("lion")).toThrow(UsageError);
  expect(() => parseOptimizer("lion")).toThrow('optimizer "lion" is unknown');
});

test("a state after t steps has the bits of repeated multiplication", () => {
  const adam = parseOptimizer("adam");
  let [power1, power2] = [1, 1];
  for (let step = 0; step < 2000; step++) {
    expect(stateAfter(adam, step)).toEqual({ steps: step, powers: [power1, power2] });
    power1 *= 0.9;
    power2 *= 0.999;
  }
  expect(stateAfter(parseOptimizer("sgd"), 5)).toEqual({ steps: 5, powers: [] });
});

// One weight 1, gradients 0.5 then -0.25, rate 0.1; by hand from the papers' formulas.
const [m1, v1] = [0.1 * 0.5, 0.001 * 0.25];
const [m2, v2] = [0.9 * m1 - 0.1 * 0.25, 0.999 * v1 + 0.001 * 0.0625];
const adam1 = 1 - (0.1 * (m1 / 0.1)) / (Math.sqrt(v1 / 0.001) + 1e-8);
const adamDelta2 = (0.1 * (m2 / (1 - 0.81))) / (Math.sqrt(v2 / (1 - 0.998001)) + 1e-8);
const adamw1 = adam1 - 0.1 * 0.01;
const adagrad1 = 1 - 0.05 / (0.5 + 1e-10);

test.each([
  ["sgd", [0.95, 0.975]],
  ["momentum", [0.95, 0.95 - 0.1 * (0.9 * 0.5 - 0.25)]],
  ["adam", [adam1, adam1 - adamDelta2]],
  ["adamw", [adamw1, adamw1 - 0.001 * adamw1 - adamDelta2]],
  ["adagrad", [adagrad1, adagrad1 + 0.025 / (Math.sqrt(0.25 + 0.0625) + 1e-10)]],
])("%s updates, and clears the gradient", (name, expected) => {
  const memory = new EngineMemory(1024);
  const kernels = loadKernels("wasm-exact", memory.memory);
  const optimizer = parseOptimizer(name);
  const [weight, gradient, ...states] = [0, 0, ...optimizer.stateNames].map(() => memory.allocate([1]));
  const tensors = {
    weights: weight!.offsetBytes,
    gradient: gradient!.offsetBytes,
    states: states.map(({ offsetBytes }) => offsetBytes),
    count: 1,
  };
  memory.f32(weight!)[0] = 1;
  let state = optimizer.init();
  [0.5, -0.25].forEach((slope, step) => {
    memory.f32(gradient!)[0] = slope;
    state = optimizer.next(state);
    optimizer.update(kernels, tensors, state, 0.1);
    // Float32 rounds each of a few operations by 6e-8.
    expect(Math.abs(memory.f32(weight!)[0]! - expected[step]!)).toBeLessThan(5e-7);
    expect(memory.f32(gradient!)[0]).toBe(0);
  });
});
