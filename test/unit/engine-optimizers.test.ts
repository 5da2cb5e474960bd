/** @file Optimizers of every engine against the papers' formulas in float64. */
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS } from "../../src/engine/contract.ts";
import { bits, randomFloats, Workbench } from "./engine-support.ts";

const FRESH_SEED = Date.now() % 2 ** 31;
const LENGTHS = [1, 2, 3, 4, 5, 7, 13, 17, 33, 100];
const STEPS = 10;

type State = number[];
/** One kernel call, and the same update in float64 on one element: returns [w, ...state]. */
interface Case {
  readonly name: string;
  readonly states: number;
  run(bench: Workbench, w: number, g: number, states: number[], count: number, step: number): void;
  exact(w: number, g: number, state: State, step: number): State;
}

function adamCase(name: string, decay: number): Case {
  return {
    name,
    states: 2,
    run: (bench, w, g, [m, v], count, step) =>
      bench.kernels.adam(w, g, m!, v!, count, 1e-2, 0.9, 0.999, 1e-8, 1 - 0.9 ** step, 1 - 0.999 ** step, decay),
    exact: (w, g, [m, v], step) => {
      const mean = 0.9 * m! + 0.1 * g;
      const square = 0.999 * v! + 0.001 * g * g;
      const change = mean / (1 - 0.9 ** step) / (Math.sqrt(square / (1 - 0.999 ** step)) + 1e-8);
      return [w - 1e-2 * decay * w - 1e-2 * change, mean, square];
    },
  };
}

const CASES: Case[] = [
  {
    name: "sgd",
    states: 0,
    run: (bench, w, g, _states, count) => bench.kernels.sgd(w, g, count, 0.05),
    exact: (w, g) => [w - 0.05 * g],
  },
  {
    name: "momentum",
    states: 1,
    run: (bench, w, g, [v], count) => bench.kernels.momentum(w, g, v!, count, 0.05, 0.9),
    exact: (w, g, [v]) => [w - 0.05 * (0.9 * v! + g), 0.9 * v! + g],
  },
  adamCase("adam", 0),
  adamCase("adamw", 0.1),
  {
    name: "adagrad",
    states: 1,
    run: (bench, w, g, [s], count) => bench.kernels.adagrad(w, g, s!, count, 0.05, 1e-8),
    exact: (w, g, [s]) => [w - (0.05 * g) / (Math.sqrt(s! + g * g) + 1e-8), s! + g * g],
  },
];

describe.each(ENGINE_KINDS)("%s", (kind) => {
  describe.each(CASES)("$name", (optimizer) => {
    /** `STEPS` updates of `count` elements; the gradients are drawn per element, so that a part gets the same ones. */
    function train(first: number, count: number, shift = 0) {
      const bench = new Workbench(kind);
      const start = randomFloats(100, FRESH_SEED).subarray(first, first + count);
      const w = bench.place(start, shift);
      const g = bench.room(count, shift);
      const states = Array.from({ length: optimizer.states }, () => bench.place(new Float32Array(count), shift));
      const exact = [...start].map((value) => [value, ...states.map(() => 0)]);
      for (let step = 1; step <= STEPS; step += 1) {
        g.values.set(randomFloats(100, FRESH_SEED + step).subarray(first, first + count));
        exact.forEach((element, index) => {
          exact[index] = optimizer.exact(element[0]!, g.values[index]!, element.slice(1), step);
        });
        const addresses = states.map((state) => state.address);
        optimizer.run(bench, w.address, g.address, addresses, count, step);
        expect(g.values).toEqual(new Float32Array(count));
      }
      bench.checkGuards();
      return { arrays: [w, ...states].map((placed) => placed.values), exact };
    }

    test("follows the float64 formula; the gradient is zero afterwards", () => {
      for (const count of LENGTHS) {
        const { arrays, exact } = train(0, count);
        exact.forEach((element, index) => {
          element.forEach((expected, part) => {
            // Ten steps of float32 rounding of numbers of about 1 (momentum's velocity: up to 10).
            const context = `seed ${FRESH_SEED}, count ${count}, element ${index}, array ${part}`;
            expect(Math.abs(arrays[part]![index]! - expected), context).toBeLessThan(5e-6);
          });
        });
      }
    });

    test("an element's bits do not depend on its place", () => {
      const whole = train(0, 100).arrays;
      for (const [first, count, shift] of [
        [97, 3, 0],
        [5, 9, 1],
        [42, 1, 3],
      ] as const) {
        const part = train(first, count, shift).arrays;
        part.forEach((values, index) => {
          expect(bits(values), `seed ${FRESH_SEED}`).toEqual(bits(whole[index]!.subarray(first, first + count)));
        });
      }
    });
  });

  test("adam's 1 - b is rounded once, not taken of rounded numbers", () => {
    const bench = new Workbench(kind);
    const [w, g, m, v] = [bench.place([1]), bench.place([1]), bench.place([0]), bench.place([0])];
    bench.kernels.adam(w.address, g.address, m.address, v.address, 1, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0.001, 0);
    expect([m.values[0], v.values[0]]).toEqual([Math.fround(0.1), Math.fround(0.001)]);
  });

  test("weight decay of 1e-6 a step is right on average: it is rounded with the weight, not as a factor near 1", () => {
    const bench = new Workbench(kind);
    const count = 10_000;
    const start = randomFloats(count, FRESH_SEED).map((value) => 1 + value / 2);
    const zeros = new Float32Array(count);
    const [w, g, m, v] = [bench.place(start), bench.place(zeros), bench.place(zeros), bench.place(zeros)];
    const { kernels } = bench;
    kernels.adam(w.address, g.address, m.address, v.address, count, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0.001, 1e-3);
    const mean = start.reduce((sum, value, index) => sum + (1 - w.values[index]! / value), 0) / count;
    // Each weight's own rounding is up to 6 % of its decay and averages out; the factor 1 - 1e-6 would be 1.3 % off.
    expect(Math.abs(mean / 1e-6 - 1), `seed ${FRESH_SEED}`).toBeLessThan(0.005);
  });
});
