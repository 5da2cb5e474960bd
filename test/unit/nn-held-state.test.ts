/**
 * @file Owners and replicas, fed with the same gradients: the bits of one update in place, equal digests, the version before
 * and the outgoing gradient as they were; and the memory that all this takes.
 */
import { describe, expect, test } from "vitest";
import { DIGEST_CHUNK, ENGINE_KINDS, type EngineKind, type View } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { layerBlock, stateArrays } from "../../src/nn/blocks.ts";
import { elementsDone, HeldState } from "../../src/nn/held-state.ts";
import {
  type HeldLayout, type LayerLayout, planReplicas, planSegment, planSegments, replicaSizeBytes, segmentMemory,
} from "../../src/nn/layout.ts"; // prettier-ignore
import { parameterCount } from "../../src/nn/spec.ts";
import { OPTIMIZER_NAMES, parseOptimizer } from "../../src/optim/optimizers.ts";
import { RandomStream } from "../../src/types/random.ts";
import { freshSeed, setting } from "../helpers/segments.ts";

/** Layers of 1920, 1271, 288 and 50 parameters: with whole chunks and without, shorter than one. */
const common = setting({ model: "mlp:47-40-31-9-5", seed: freshSeed });
const LAYERS = 4;
const STEPS = 4;

interface Holder {
  readonly layout: HeldLayout;
  readonly memory: EngineMemory;
  readonly state: HeldState;
}

function holder(engine: EngineKind, layouts: readonly HeldLayout[], index = 0): Holder {
  const memory = segmentMemory(layouts);
  const layout = layouts[index]!;
  const state = new HeldState(layout, memory, loadKernels(engine, memory.memory));
  state.initialize();
  return { layout, memory, state };
}

const kernelsOf = (engine: EngineKind) => loadKernels(engine, new EngineMemory(0).memory);

/** Draws the gradient of a layer and step: the same for everyone. */
function fillGradients({ layout, memory }: Holder, step: number): void {
  for (const { index, gradient } of layout.layers) {
    const random = new RandomStream(freshSeed, 1001, step, index);
    const array = memory.f32(gradient!.all);
    for (let i = 0; i < array.length; i++) array[i] = random.nextFloat() - 0.5;
  }
}

const wordsOf = ({ memory }: Holder, arrays: readonly View[]): number[] =>
  arrays.flatMap((view) => [...memory.i32(view)]);
const stateWords = (one: Holder, which = (layer: LayerLayout) => stateArrays(layer)): number[] =>
  one.layout.layers.flatMap((layer) => wordsOf(one, which(layer)));

describe.each(ENGINE_KINDS)("%s", (engine) => {
  test.each(OPTIMIZER_NAMES)("%s: owner and replicas have the bits of an update in place", (optimizer) => {
    const init = { ...common, optimizer };
    const kernels = kernelsOf(engine);
    const plain = holder(engine, [planSegment({ ...init, layers: [0, LAYERS] }, kernels)]);
    const owner = holder(engine, [planSegment({ ...init, layers: [0, LAYERS] }, kernels, true)]);
    const ranges = [[0, LAYERS], [0, 1], [1, LAYERS]] as const; // prettier-ignore
    const slices = [1, 2, 3, 7, 50];
    const replicas = ranges.flatMap((layers) =>
      slices.map((count) => ({ count, ...holder(engine, planReplicas([{ ...init, layers }], [])) })),
    );
    for (let step = 0; step < STEPS; step++) {
      for (const one of [plain, owner, ...replicas]) fillGradients(one, step);
      const gradients = owner.layout.layers.flatMap(({ gradient }) => wordsOf(owner, [gradient!.all]));
      const before = stateWords(owner);
      expect(plain.state.update(step)).toEqual([]);
      const digests = owner.state.update(step);
      expect(stateWords(owner)).toEqual(stateWords(plain));
      expect(stateWords(owner, ({ previous }) => stateArrays(previous!))).toEqual(before);
      expect(stateWords(owner, ({ outgoing }) => [outgoing!.all])).toEqual(gradients);
      expect(stateWords(owner, ({ gradient }) => [gradient!.all]).every((word) => word === 0)).toBe(true);
      expect(digests.map(({ layer }) => layer)).toEqual([0, 1, 2, 3]);
      expect(owner.state.digests()).toEqual(digests);
      for (const { count, ...replica } of replicas) {
        const results = Array.from({ length: count }, (_, slice) => replica.state.update(step, slice, count));
        const context = `seed ${freshSeed}, step ${step}, layers ${replica.layout.layers.length}, slices ${count}`;
        const held = ({ layer }: { layer: number }): boolean =>
          replica.layout.layers.some(({ index }) => index === layer);
        expect(results.at(-1), context).toEqual(digests.filter(held));
        expect(results.slice(0, -1).every((result) => result.length === 0)).toBe(true);
        for (const layer of replica.layout.layers) {
          const own = owner.layout.layers[layer.index]!;
          expect(layerBlock(layer, replica.memory), context).toEqual(layerBlock(own, owner.memory));
          const all = layer.parameters.all.length;
          expect(layerBlock(layer, replica.memory, all), context).toEqual(layerBlock(own, owner.memory, all));
        }
      }
    }
  });

  test("layers of several tiles have the bits of one kernel call", () => {
    const init = { ...common, model: "mlp:200-180-9", layers: [0, 2] } as const;
    const owner = holder(engine, [planSegment(init, kernelsOf(engine), true)]);
    const replica = holder(engine, planReplicas([init], []));
    const reference = holder(engine, planReplicas([init], []));
    let optimizer = parseOptimizer(init.optimizer).init();
    for (let step = 0; step < 2; step++) {
      for (const one of [owner, replica, reference]) fillGradients(one, step);
      const before = stateWords(owner);
      const digests = owner.state.update(step);
      replica.state.update(step, 0, 2);
      expect(replica.state.update(step, 1, 2)).toEqual(digests);
      optimizer = parseOptimizer(init.optimizer).next(optimizer);
      for (const { parameters, gradient, states } of reference.layout.layers) {
        const [weights, count] = [parameters.all.offsetBytes, parameters.all.length];
        const tensors = { weights, count, gradient: gradient!.all.offsetBytes, states: states.map(({ all }) => all.offsetBytes) }; // prettier-ignore
        parseOptimizer(init.optimizer).update(
          loadKernels(engine, reference.memory.memory),
          tensors,
          optimizer,
          init.rate,
        );
      }
      for (const one of [owner, replica]) {
        expect(stateWords(one)).toEqual(stateWords(reference));
        expect(stateWords(one, ({ previous }) => stateArrays(previous!))).toEqual(before);
      }
    }
  });

  test("within a step, every layer is the version before in what is done, and the current one in what is not", () => {
    const replica = holder(engine, planReplicas([{ ...common, layers: [0, LAYERS] }], []));
    const { layers } = replica.layout;
    for (let step = 0; step < STEPS; step++) {
      fillGradients(replica, step);
      const expected = layers.map((layer) => layerBlock(layer, replica.memory));
      for (let slice = 0; slice < 5; slice++) {
        const done = elementsDone(layers, slice, 5);
        expect(layers.map((layer, i) => layerBlock(layer, replica.memory, done[i]))).toEqual(expected);
        replica.state.update(step, slice, 5);
      }
      expect(layers.map((layer) => layerBlock(layer, replica.memory, layer.parameters.all.length))).toEqual(expected);
    }
  });

  test("one flipped bit of any array shows in its layer's digest, whichever it is", () => {
    const { layout, memory, state } = holder(engine, planReplicas([{ ...common, layers: [0, LAYERS] }], []));
    const before = state.digests();
    const random = new RandomStream(freshSeed, 1005);
    for (const [i, layer] of layout.layers.entries()) {
      for (const words of stateArrays(layer).map((view) => memory.i32(view))) {
        for (let flip = 0; flip < 10; flip++) {
          const bit = Math.floor(random.nextFloat() * words.length * 32);
          words[bit >> 5]! ^= 1 << (bit & 31);
          const changed = state
            .digests()
            .flatMap(({ digest }, index) => (digest === before[index]!.digest ? [] : [index]));
          expect(changed, `seed ${freshSeed}, bit ${bit}`).toEqual([i]);
          words[bit >> 5]! ^= 1 << (bit & 31);
        }
      }
    }
  });

  test("one flipped bit of any array shows after the next update", () => {
    const replica = holder(engine, planReplicas([{ ...common, layers: [0, LAYERS] }], []));
    const twin = holder(engine, planReplicas([{ ...common, layers: [0, LAYERS] }], []));
    const both = [replica, twin];
    // A flip in zeros could be too small to be seen.
    for (const one of both) fillGradients(one, 0);
    for (const { state } of both) state.update(0);
    let step = 1;
    for (const [i, layer] of replica.layout.layers.entries()) {
      for (const [array, view] of stateArrays(layer).entries()) {
        for (const one of both) fillGradients(one, step);
        const words = replica.memory.i32(view);
        const place = Math.floor(new RandomStream(freshSeed, 1002, step).nextFloat() * words.length);
        // The lowest bits may be rounded away by the update, and the state is then as it would have been.
        words[place]! ^= 1 << (20 + (step % 10));
        const [changed, expected] = [replica.state.update(step), twin.state.update(step)];
        const wrong = changed.filter(({ digest }, index) => digest !== expected[index]!.digest);
        expect(wrong.map(({ layer: index }) => index), `seed ${freshSeed}, array ${array} of layer ${i}`).toEqual([i]); // prettier-ignore
        for (const { all } of [layer.parameters, ...layer.states]) {
          replica.memory.i32(all).set(twin.memory.i32(all));
        }
        step++;
      }
    }
  });
});

test("slices cover every element once, in whole chunks, and differ by one chunk at most", () => {
  const { layers } = planReplicas([{ ...common, layers: [0, LAYERS] }], [])[0]!;
  const counts = layers.map(({ parameters }) => parameters.all.length);
  for (let slices = 1; slices <= 20; slices++) {
    const bounds = Array.from({ length: slices + 1 }, (_, done) => elementsDone(layers, done, slices));
    expect(bounds[0]).toEqual([0, 0, 0, 0]);
    expect(bounds.at(-1)).toEqual(counts);
    const sizes = bounds.slice(1).map((to, i) => {
      const chunks = to.map((end, layer) => {
        const from = bounds[i]![layer]!;
        expect(end >= from && (end % DIGEST_CHUNK === 0 || end === counts[layer])).toBe(true);
        return Math.ceil((end - from) / DIGEST_CHUNK);
      });
      return chunks.reduce((sum, count) => sum + count, 0);
    });
    expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
  }
});

test("a slice that is not next, and another step, are refused", () => {
  const { state } = holder("wasm-exact", planReplicas([{ ...common, layers: [0, 2] }], []));
  expect(() => state.update(1)).toThrow("step 0 comes next, not 1");
  expect(() => state.update(0, 1, 2)).toThrow("slice 0 comes next, not 1 of 2");
  state.update(0, 0, 2);
  expect(() => state.update(0, 0, 2)).toThrow("slice 1 comes next, not 0 of 2");
  expect(() => state.digests()).toThrow("a state that is in no step");
  state.reset(0);
  expect(state.update(0).length).toBe(2);
});

test.each(OPTIMIZER_NAMES)("%s: replication takes the stated memory, and nothing without it", (optimizer) => {
  const kernels = kernelsOf("wasm-exact");
  const init = { ...common, optimizer, layers: [1, LAYERS] as const };
  const plain = planSegment(init, kernels);
  const [segment] = planSegments([init], kernels, true);
  const replica = planReplicas([init], [segment!])[0]!;
  const round = (sizeBytes: number): number => 64 * Math.ceil(sizeBytes / 64);
  const blockBytes = plain.model.layers.slice(1).map((spec) => round(4 * parameterCount(spec)));
  const copiesBytes = blockBytes.reduce((sum, bytes) => sum + bytes, 0);
  const states = 1 + segment!.layers[0]!.states.length;
  expect(segment!.sizeBytes - plain.sizeBytes).toBe(copiesBytes * (states + 1));
  expect(plain.layers.every(({ previous, outgoing }) => previous === null && outgoing === null)).toBe(true);
  expect(replica.sizeBytes).toBe(copiesBytes * (2 * states + 1) + 64 * (1 + states));
  expect(replicaSizeBytes(init)).toBe(replica.sizeBytes);
  // Everything lies apart, within what is stated.
  const arrays = [segment!, replica].flatMap(
    ({ layers }) =>
    layers.flatMap(({ gradient, previous, outgoing, ...state }) =>
      [...stateArrays(state), ...stateArrays(previous!), gradient!.all, ...(outgoing === null ? [] : [outgoing.all])]), // prettier-ignore
  );
  const sorted = arrays.toSorted((a, b) => a.offsetBytes - b.offsetBytes);
  sorted.slice(1).forEach((view, i) => {
    expect(view.offsetBytes).toBeGreaterThanOrEqual(sorted[i]!.offsetBytes + 4 * sorted[i]!.length);
  });
  expect(sorted.at(-1)!.offsetBytes).toBeLessThan(64 + segment!.sizeBytes + replica.sizeBytes);
});
