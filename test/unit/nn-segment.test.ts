/** @file Segments against a double-precision reference, finite differences, and every cut of the same model. */
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS } from "../../src/engine/contract.ts";
import { weightsSha256 } from "../../src/nn/digest.ts";
import { RandomStream } from "../../src/types/random.ts";
import {
  type ReferenceModel,
  type ReferenceOptimizer,
  referenceLayer,
  referenceLoss,
  ReferenceTrainer,
} from "../helpers/reference.ts";
import {
  backwardInput, type Batch, bits, digests, forward, freshSeed, type Held, hold, holdCut, passes, randomBatch,
  randomDirection, type Setting, setting, trainStep,
} from "../helpers/segments.ts"; // prettier-ignore

const SEEDS = [11, freshSeed];

function reference(held: readonly Held[], activation: ReferenceModel["activation"]): ReferenceModel {
  const layers = held.flatMap(({ segment, memory }) =>
    segment.layout.layers.map(({ spec, parameters }) =>
      referenceLayer(spec.inputs, spec.outputs, memory.f32(parameters.weight), memory.f32(parameters.bias)),
    ),
  );
  return { layers, activation };
}

function samples(common: Setting, { inputs, labels }: Batch): [number[][], number[]] {
  const features = inputs.length / labels.length;
  expect(labels.length).toBe(common.batch);
  return [Array.from(labels, (_, row) => [...inputs.subarray(row * features, (row + 1) * features)]), [...labels]];
}

/** The parameters as in `model`, moved by `length` along `direction`, which runs through one tensor row by row. */
function moved(
  model: ReferenceModel,
  layer: number,
  tensor: "weight" | "bias",
  direction: number[],
  length: number,
): ReferenceModel {
  const layers = model.layers.map((one, i) => {
    if (i !== layer) return one;
    if (tensor === "bias") return { ...one, bias: one.bias.map((b, j) => b + length * direction[j]!) };
    const columns = one.bias.length;
    return { ...one, weight: one.weight.map((row, r) => row.map((w, j) => w + length * direction[r * columns + j]!)) };
  });
  return { ...model, layers };
}

describe.each(ENGINE_KINDS)("engine %s", (engine) => {
  describe.each(["relu", "gelu", "tanh"] as const)("%s", (activation) => {
    test.each(SEEDS)("gradients are the slopes of the loss (seed %i)", (seed) => {
      const common = setting({ model: `mlp:9-8-7-6-5,activation=${activation}`, seed });
      const held = holdCut(engine, common, [2]);
      const batch = randomBatch(common, seed);
      // Biases away from zero, where a wrong bias would not show.
      for (const { segment, memory } of held)
        for (const { parameters } of segment.layout.layers) memory.f32(parameters.bias).fill(0.03);
      const model = reference(held, activation);
      const [inputs, labels] = samples(common, batch);
      expect(Math.abs(passes(held, batch) - referenceLoss(model, inputs, labels) / common.batch)).toBeLessThan(1e-5);
      for (const { segment, memory } of held) {
        for (const { index, gradient } of segment.layout.layers) {
          for (const tensor of ["weight", "bias"] as const) {
            const slopes = [...memory.f32(gradient![tensor])];
            const direction = randomDirection(slopes.length, seed + index);
            const along = slopes.reduce((sum, slope, i) => sum + slope * direction[i]!, 0);
            // Double precision: a step of 1e-6 leaves 1e-9 of rounding and is too short to cross relu's kinks often.
            const [up, down] = [1e-6, -1e-6].map((step) =>
              referenceLoss(moved(model, index, tensor, direction, step), inputs, labels),
            );
            const slope = (up! - down!) / 2e-6 / common.batch;
            const scale = Math.max(Math.abs(slope), 0.02 * Math.hypot(...slopes));
            expect(scale, `layer ${index} ${tensor} has a gradient`).toBeGreaterThan(1e-4);
            expect(Math.abs(along - slope) / scale, `layer ${index} ${tensor}`).toBeLessThan(2e-3);
          }
        }
      }
    });

    test("every cut gives the same bits", () => {
      const common = setting({ model: `mlp:23-17-16-9-5,activation=${activation}`, seed: 3 });
      const batches = [1, 2, 3].map((seed) => randomBatch(common, seed));
      const run = (cuts: number[], eager: boolean) => {
        const held = holdCut(engine, common, cuts);
        const losses = batches.slice(0, 2).map((batch) => trainStep(held, batch, eager));
        const last = passes(held, batches[2]!, eager);
        return {
          losses,
          last,
          gradient: bits(held, "gradient"),
          parameters: bits(held, "parameters"),
          digests: digests(held),
        };
      };
      const whole = run([], false);
      for (let mask = 0; mask < 8; mask++) {
        const cuts = [1, 2, 3].filter((layer) => mask & (1 << (layer - 1)));
        expect(run(cuts, mask % 2 === 0), `cut before ${cuts.join()}`).toEqual(whole);
      }
    });
  });

  test.each(["sgd", "momentum", "adam", "adamw", "adagrad"] as const)(
    "the loss curve of %s is the reference's",
    (optimizer) => {
      const rates: Record<ReferenceOptimizer, number> = {
        sgd: 0.5,
        momentum: 0.1,
        adam: 0.02,
        adamw: 0.02,
        adagrad: 0.1,
      };
      const common = setting({ model: "mlp:12-10-8-4", optimizer, rate: rates[optimizer] });
      const held = holdCut(engine, common, [1]);
      const trainer = new ReferenceTrainer(reference(held, "relu"), optimizer, common.rate);
      const curve: number[] = [];
      for (let step = 0; step < 40; step++) {
        const batch = randomBatch(common, step % 5);
        const loss = trainStep(held, batch);
        const expected = trainer.step(...samples(common, batch));
        expect(Math.abs(loss - expected), `step ${step}`).toBeLessThan(2e-4);
        curve.push(loss);
      }
      expect(curve.at(-1)).toBeLessThan(curve[0]! * 0.7);
    },
  );

  test.each(SEEDS)("the gradient is a sum of complete gradients, in order, from +0 (seed %i)", (seed) => {
    const common = setting({ model: "mlp:9-7-5", seed });
    const batch = randomBatch(common, seed);
    const held = holdCut(engine, common, []);
    const { segment } = held[0]!;
    const alone = [0, 1, 2].map((m) => {
      segment.reset(0);
      forward(held, m, batch, m);
      backwardInput(held, m);
      segment.backwardWeight(m);
      return Float32Array.from(held[0]!.memory.f32(segment.layout.layers[0]!.gradient!.all));
    });
    segment.reset(0);
    passes(held, batch);
    const sums = alone.reduce((sum, one) => sum.map((value, i) => value + one[i]!), new Float32Array(alone[0]!.length));
    expect(bits(held, "gradient")[0]).toEqual([...new Int32Array(sums.buffer)]);
    segment.update(0);
    expect(
      bits(held, "gradient")
        .flat()
        .every((word) => word === 0),
    ).toBe(true);
  });
});

/**
 * The passes of one step, each time any one that may come: F of the next micro-batch where a slot is free, an evaluation, B of any
 * micro-batch forwarded, W of any layer for its next micro-batch. `pick(count)` is the index of the one that comes.
 */
function shuffledPasses(held: readonly Held[], batch: Batch, pick: (count: number) => number): void {
  const { rows, batch: size } = held[0]!.segment.layout.init;
  const layers = held.flatMap(({ segment }) => segment.layout.layers.map(({ index }) => ({ segment, index, next: 0 })));
  const slots = held[0]!.segment.layout.slots.map(() => ({ microBatch: -1, isBackward: false }));
  let next = 0;
  const microBatches = size / rows;
  for (;;) {
    // A slot is free again when every layer has had its W.
    for (const slot of slots) if (layers.every((layer) => layer.next > slot.microBatch)) slot.microBatch = -1;
    const possible: (() => void)[] = slots.flatMap((slot, place) => {
      if (slot.microBatch === -1 && next === microBatches) return [];
      if (slot.microBatch === -1) {
        const begin = (): void => {
          forward(held, place, batch, next);
          Object.assign(slot, { microBatch: next++, isBackward: false });
        };
        return [begin, () => void forward(held, place, batch, pick(microBatches), "evaluate")];
      }
      if (!slot.isBackward) {
        return [
          () => {
            backwardInput(held, place);
            slot.isBackward = true;
          },
        ];
      }
      const due = layers.filter((layer) => layer.next === slot.microBatch);
      return due.map((layer) => () => {
        layer.segment.backwardWeightLayer(place, layer.index);
        layer.next++;
      });
    });
    if (possible.length === 0) break;
    possible[pick(possible.length)]!();
  }
  expect(layers.every((layer) => layer.next === microBatches)).toBe(true);
}

describe("order", () => {
  const common = setting({ model: "mlp:9-7-6-5" });
  const batch = randomBatch(common, 5);

  test("weight gradients come in the order of the micro-batches", () => {
    const held = holdCut("wasm-exact", common, []);
    const { segment } = held[0]!;
    forward(held, 2, batch, 0);
    forward(held, 0, batch, 1);
    backwardInput(held, 0);
    expect(() => segment.backwardWeight(2)).toThrow("backward pass for inputs");
    expect(() => segment.backwardWeight(0)).toThrow("micro-batch 0 is next, not 1");
    backwardInput(held, 2);
    expect(() => segment.backwardInput(2)).toThrow("awaits");
    segment.backwardWeight(2);
    expect(() => segment.update(0)).toThrow("every micro-batch");
    segment.backwardWeight(0);
    expect(() => segment.update(1)).toThrow("step 0 comes next");
    segment.update(0);
    expect(segment.step).toBe(1);
  });

  test("one layer at a time, in any order, is the same", () => {
    const [whole, parts] = [holdCut("wasm-exact", common, []), holdCut("wasm-exact", common, [])];
    passes(whole, batch);
    for (const slot of [0, 1, 2]) {
      forward(parts, slot, batch, slot);
      backwardInput(parts, slot);
    }
    const { segment } = parts[0]!;
    for (const [slot, layer] of [[0, 1], [1, 1], [0, 0], [2, 1], [1, 0]] as const) segment.backwardWeightLayer(slot, layer); // prettier-ignore
    expect(() => segment.forward(0)).toThrow("slot 0 is free");
    for (const slot of [0, 1, 2]) segment.backwardWeight(slot);
    expect(bits(parts, "gradient")).toEqual(bits(whole, "gradient"));
    segment.update(0);
  });

  test.each(SEEDS)("any order of the passes is the same (seed %i)", (seed) => {
    const many = { ...common, batch: 32, model: "mlp:9-7-6-5,activation=gelu" };
    const [whole, parts] = [
      holdCut("wasm-exact", { ...many, slots: 8 }, []),
      holdCut("wasm-exact", { ...many, slots: 4 }, [1]),
    ];
    const random = new RandomStream(seed, 1000);
    for (const step of [0, 1]) {
      const stepBatch = randomBatch(many, step);
      trainStep(whole, stepBatch, true);
      shuffledPasses(parts, stepBatch, (count) => Math.floor(random.nextFloat() * count));
      expect(bits(parts, "gradient").flat().some(Boolean)).toBe(true);
      for (const { segment } of parts) segment.update(step);
      expect(bits(parts, "parameters")).toEqual(bits(whole, "parameters"));
    }
  });

  test("evaluation disturbs nothing, and padded rows do not count", () => {
    const run = (evaluated: boolean) => {
      const held = holdCut("wasm-exact", { ...common, slots: 4 }, [1]);
      trainStep(held, batch);
      forward(held, 0, batch, 0);
      const padded = { inputs: batch.inputs, labels: batch.labels.map((label, row) => (row < 2 ? label : -1)) };
      const half = evaluated ? forward(held, 3, padded, 0, "evaluate") : null;
      if (evaluated) expect(() => forward(held, 0, batch, 0, "evaluate")).toThrow("slot 0 is free");
      forward(held, 1, batch, 1);
      for (const slot of [0, 1]) {
        backwardInput(held, slot);
        for (const { segment } of held) segment.backwardWeight(slot);
      }
      for (const { segment } of held) segment.update(1);
      return { half, state: [bits(held, "parameters"), digests(held)] };
    };
    const [plain, evaluated] = [run(false), run(true)];
    expect(evaluated.state).toEqual(plain.state);
    const held = holdCut("wasm-exact", { ...common, rows: 2, batch: 2, training: false }, [1]);
    const trained = holdCut("wasm-exact", common, [1]);
    trainStep(trained, batch);
    held.forEach(({ segment, memory }, i) =>
      segment.layout.layers.forEach(({ parameters }, l) => {
        const from = trained[i]!;
        memory.f32(parameters.all).set(from.memory.f32(from.segment.layout.layers[l]!.parameters.all));
      }),
    );
    expect(forward(held, 0, batch, 0, "evaluate")).toEqual(evaluated.half);
  });
});

describe("values", () => {
  test("the first layer that is not finite is named by its number in the model", () => {
    const common = setting({ model: "mlp:9-7-6-5" });
    const held = holdCut("wasm", common, [1]);
    const last = held[1]!;
    last.memory.f32(last.segment.layout.layers[0]!.parameters.bias)[2] = -Infinity;
    expect(forward(held, 0, randomBatch(common, 1), 0)).toEqual({ notFiniteLayer: 1, loss: NaN, correct: 0 });
  });

  test("initial weights depend on model and seed alone, within their bounds", () => {
    const common = setting({ model: "mlp:30-20-10-5" });
    const whole = digests(holdCut("wasm", common, []));
    expect(digests(holdCut("wasm-exact", common, [1, 2]))).toEqual(whole);
    expect(digests(holdCut("wasm", { ...common, seed: 8 }, []))).not.toEqual(whole);
    // Pinned: these bits must not change between versions.
    expect(weightsSha256(whole)).toMatchInlineSnapshot(
      `"f0ba9b7ee1329cc76f5054b24641916a24be7cd80021c6eb884f3b5d0dde2753"`,
    );
    const { segment, memory } = hold("wasm", { ...common, layers: [0, 3] });
    for (const { spec, parameters } of segment.layout.layers) {
      const largest = Math.max(...memory.f32(parameters.weight).map(Math.abs));
      const bound = Math.sqrt((spec.activation === "none" ? 3 : 6) / spec.inputs);
      expect(largest).toBeLessThanOrEqual(bound);
      expect(largest).toBeGreaterThan(bound * 0.9);
      expect(memory.f32(parameters.bias).every((b) => Object.is(b, 0))).toBe(true);
    }
  });

  test("the arrays of a layout do not overlap, and fit", () => {
    const common = setting({ model: "mlp:9-7-6-5,activation=gelu" });
    const { layout } = hold("wasm", { ...common, layers: [1, 3] }).segment;
    const views = [
      ...layout.layers.flatMap(({ parameters, gradient, states }) =>
        [parameters, gradient!, ...states].map(({ all }) => all),
      ),
      ...layout.slots.flatMap((slot) => [
        slot.input, slot.inputGradient!, slot.labels!, ...slot.activations, ...slot.gradients,
        ...slot.preActivations.filter((view) => view !== null),
      ]), // prettier-ignore
    ].toSorted((a, b) => a.offsetBytes - b.offsetBytes);
    expect(views.length).toBe(2 * 4 + 3 * 8);
    views.forEach(({ offsetBytes, length }, i) => {
      expect(offsetBytes % 64).toBe(0);
      expect(offsetBytes + 4 * length).toBeLessThanOrEqual(views[i + 1]?.offsetBytes ?? layout.lossOffsetBytes);
    });
    expect(layout.scratchOffsetBytes).toBeGreaterThanOrEqual(layout.correctOffsetBytes + 4);
  });
});
