/**
 * @file One segment of the model on one engine: forward, backward for inputs, backward for weights, update. The kernels'
 * arguments do not depend on where the model was cut, so neither do the bits. Micro-batches are numbered by the order of
 * their forward passes since the last update; every layer adds its weight gradients in that order, from +0.
 */
import type { Kernels, View } from "../engine/contract.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { assert, defined, unreachable } from "../types/assert.ts";
import { layerDigest } from "./digest.ts";
import type { LayerPass } from "./flops.ts";
import { HeldState, type StateDigest } from "./held-state.ts";
import type { LayerLayout, SegmentLayout, SlotLayout } from "./layout.ts";

export interface ForwardResult {
  /** The first layer, numbered in the model, whose pre-activations are not all finite; -1 if none. */
  readonly notFiniteLayer: number;
  /** Float64 sum over the rows that count; NaN unless the model ends here and all is finite. */
  readonly loss: number;
  /** Rows whose largest logit is their label; 0 unless the model ends here. */
  readonly correct: number;
}

/** What runs a segment must do; arrays are the slots of the layout, owned by the caller between the calls. */
export interface SegmentCompute {
  /** Reads `input` (and `labels`), writes `output`; the slot is then in use. */
  forward(slot: number): ForwardResult;
  /** Reads and overwrites `outputGradient`, writes `inputGradient` where there is one. */
  backwardInput(slot: number): void;
  /** Adds into the gradients, in the order of the micro-batches; frees the slot. */
  backwardWeight(slot: number): void;
  /**
   * Optimizer, when all slots are free; then the gradient is zero. `step` must be the one that comes next. Digests of the
   * new state where the layout keeps versions, else none.
   */
  update(step: number): readonly StateDigest[];
}

/** A slot in use: which micro-batch it holds, and whether its backward pass for inputs is done. */
interface SlotUse {
  readonly microBatch: number;
  readonly inputDone: boolean;
}

/** Told when a layer's pass is done, before the next layer's begins; it may take its time. */
export type AfterLayer = (layer: LayerLayout, pass: LayerPass) => void;

export class Segment implements SegmentCompute {
  readonly layout: SegmentLayout;
  readonly #memory: EngineMemory;
  readonly #kernels: Kernels;
  readonly #afterLayer: AfterLayer;
  readonly #state: HeldState;
  readonly #slots: (SlotUse | null)[];
  /** Micro-batches forwarded since the last update. */
  #forwards = 0;
  /** Per layer of the segment: the micro-batch whose weight gradient comes next. */
  readonly #nextWeights: number[];

  /** Over arrays that are all zero; fill the parameters by `initialize`, or by loading shards and `reset`. */
  constructor(layout: SegmentLayout, memory: EngineMemory, kernels: Kernels, afterLayer: AfterLayer = () => {}) {
    this.layout = layout;
    this.#memory = memory;
    this.#kernels = kernels;
    this.#afterLayer = afterLayer;
    this.#state = new HeldState(layout, memory, kernels);
    this.#slots = layout.slots.map(() => null);
    this.#nextWeights = layout.layers.map(() => 0);
  }

  /** Updates done: the step that comes next. */
  get step(): number {
    return this.#state.step;
  }

  /** Fills everything as before the first step. */
  initialize(): void {
    this.#state.initialize();
    this.reset(0);
  }

  /** Drops the micro-batches under way and what they added; after it the caller may load parameters and states of `step`. */
  reset(step: number): void {
    this.#slots.fill(null);
    this.#beginStep();
    for (const { gradient } of this.layout.layers) if (gradient !== null) this.#memory.f32(gradient.all).fill(0);
    this.#state.reset(step);
  }

  forward(slot: number): ForwardResult {
    assert(this.#slots[slot] === null, `slot ${slot} is free`);
    this.#slots[slot] = { microBatch: this.#forwards++, inputDone: false };
    return this.#compute(slot);
  }

  /** Forward for its result alone, in a free slot, which stays free: nothing of the training changes. */
  evaluate(slot: number): ForwardResult {
    assert(this.#slots[slot] === null, `slot ${slot} is free`);
    return this.#compute(slot);
  }

  /** The slot's forward pass, the newest of all, is as if it had not been. */
  abandon(slot: number): void {
    const use = defined(this.#slots[slot] ?? undefined, `slot ${slot} is in use`);
    assert(!use.inputDone && use.microBatch === this.#forwards - 1, "nothing came of the pass yet");
    this.#slots[slot] = null;
    this.#forwards -= 1;
  }

  backwardInput(slot: number): void {
    const use = this.#slots[slot] ?? null;
    assert(use !== null && !use.inputDone, `slot ${slot} awaits its backward pass for inputs`);
    const { gradients, inputGradient } = this.#slotLayout(slot);
    for (let i = this.layout.layers.length - 1; i >= 0; i--) {
      this.#activationBackward(slot, i);
      const below = i > 0 ? defined(gradients[i - 1], "a gradient per layer") : inputGradient;
      if (below !== null) this.#gradientBelow(i, defined(gradients[i], "a gradient per layer"), below);
      this.#afterLayer(this.#layer(i), "backwardInput");
    }
    this.#slots[slot] = { ...use, inputDone: true };
  }

  backwardWeight(slot: number): void {
    const microBatch = defined(this.#slots[slot] ?? undefined, `slot ${slot} is in use`).microBatch;
    for (let i = this.layout.layers.length - 1; i >= 0; i--) {
      const done = (this.#nextWeights[i] as number) > microBatch;
      if (!done) this.backwardWeightLayer(slot, this.layout.init.layers[0] + i);
    }
  }

  /** One layer of `backwardWeight`, numbered in the model; the layers may come in any order. */
  backwardWeightLayer(slot: number, layer: number): void {
    const i = layer - this.layout.init.layers[0];
    const layout = this.#layer(i);
    const { spec, gradient } = layout;
    const use = this.#slots[slot] ?? null;
    assert(use !== null && use.inputDone, `slot ${slot} has had its backward pass for inputs`);
    assert(
      use.microBatch === this.#nextWeights[i],
      `micro-batch ${this.#nextWeights[i]} is next, not ${use.microBatch}`,
    );
    assert(gradient !== null, "the segment trains");
    const { input, activations, gradients } = this.#slotLayout(slot);
    const below = i === 0 ? input : defined(activations[i - 1], "an output per layer");
    const dy = defined(gradients[i], "a gradient per layer").offsetBytes;
    const { rows } = this.layout.init;
    const scratch = this.layout.scratchOffsetBytes;
    const weight = gradient.weight.offsetBytes;
    this.#kernels.matmulTransposedAAdd(below.offsetBytes, dy, weight, spec.inputs, spec.outputs, rows, scratch);
    this.#kernels.sumRowsAdd(dy, gradient.bias.offsetBytes, rows, spec.outputs, scratch);
    this.#nextWeights[i] = use.microBatch + 1;
    if (this.#nextWeights.every((next) => next > use.microBatch)) this.#slots[slot] = null;
    this.#afterLayer(layout, "backwardWeight");
  }

  update(step: number): readonly StateDigest[] {
    assert(
      this.#slots.every((use) => use === null),
      "every micro-batch of the step has had its backward passes",
    );
    const digests = this.#state.update(step);
    this.#beginStep();
    return digests;
  }

  /** Of parameters and optimizer states as they are. */
  stateDigests(): StateDigest[] {
    return this.#state.digests();
  }

  /** SHA-256 of each layer's parameters, in layer order. */
  digests(): Uint8Array[] {
    return this.layout.layers.map(({ parameters }) => layerDigest(this.#memory.bytes(parameters.all)));
  }

  #beginStep(): void {
    this.#forwards = 0;
    this.#nextWeights.fill(0);
  }

  #compute(slot: number): ForwardResult {
    const { input, activations } = this.#slotLayout(slot);
    const { layers } = this.layout;
    for (const [i, layer] of layers.entries()) {
      const finite = this.#layerForward(slot, i, i === 0 ? input : defined(activations[i - 1], "an output per layer"));
      if (!finite) return { notFiniteLayer: layer.index, loss: NaN, correct: 0 };
      if (i < layers.length - 1) this.#afterLayer(layer, "forward");
    }
    // The loss belongs to the last layer's pass.
    const result = { notFiniteLayer: -1, ...this.#loss(slot) };
    this.#afterLayer(this.#layer(layers.length - 1), "forward");
    return result;
  }

  /** False, and no output, where the pre-activations are not finite: an activation could hide it. */
  #layerForward(slot: number, i: number, input: View): boolean {
    const { spec, parameters } = this.#layer(i);
    const { activations, preActivations } = this.#slotLayout(slot);
    const output = defined(activations[i], "an output per layer");
    const sums = (preActivations[i] ?? output).offsetBytes;
    const { rows } = this.layout.init;
    const { weight, bias } = parameters;
    const scratch = this.layout.scratchOffsetBytes;
    this.#kernels.matmul(input.offsetBytes, weight.offsetBytes, sums, rows, spec.outputs, spec.inputs, scratch);
    this.#kernels.addBias(sums, bias.offsetBytes, rows, spec.outputs);
    if (this.#kernels.firstNotFinite(sums, output.length) !== -1) return false;
    if (spec.activation !== "none") this.#kernels[spec.activation](sums, output.offsetBytes, output.length);
    return true;
  }

  #loss(slot: number): { loss: number; correct: number } {
    const { lossOffsetBytes, correctOffsetBytes, init, model } = this.layout;
    const { output, labels, outputGradient } = this.#slotLayout(slot);
    if (labels === null) return { loss: NaN, correct: 0 };
    this.#kernels.softmaxCrossEntropy(
      output.offsetBytes, labels.offsetBytes, outputGradient.offsetBytes, init.rows, model.classes, 1 / init.batch,
      lossOffsetBytes, correctOffsetBytes,
    ); // prettier-ignore
    const memory = new DataView(this.#memory.memory.buffer);
    return { loss: memory.getFloat64(lossOffsetBytes, true), correct: memory.getInt32(correctOffsetBytes, true) };
  }

  /** Turns the gradient of layer i's output into that of its pre-activation, in place. */
  #activationBackward(slot: number, i: number): void {
    const { activations, preActivations, gradients } = this.#slotLayout(slot);
    const { activation } = this.#layer(i).spec;
    const output = defined(activations[i], "an output per layer");
    const dy = defined(gradients[i], "a gradient per layer").offsetBytes;
    switch (activation) {
      case "none":
        return;
      case "relu":
        return this.#kernels.reluBackward(output.offsetBytes, dy, dy, output.length);
      case "tanh":
        return this.#kernels.tanhBackward(output.offsetBytes, dy, dy, output.length);
      case "gelu": {
        const sums = defined(preActivations[i] ?? undefined, "gelu keeps its input");
        return this.#kernels.geluBackward(sums.offsetBytes, dy, dy, output.length);
      }
    }
    unreachable(activation);
  }

  /** below = gradient · weightᵀ. */
  #gradientBelow(i: number, gradient: View, below: View): void {
    const { spec, parameters } = this.#layer(i);
    const { init, scratchOffsetBytes } = this.layout;
    const weight = parameters.weight.offsetBytes;
    this.#kernels.matmulTransposedB(
      gradient.offsetBytes, weight, below.offsetBytes, init.rows, spec.inputs, spec.outputs, scratchOffsetBytes,
    ); // prettier-ignore
  }

  #layer(i: number): LayerLayout {
    return defined(this.layout.layers[i], `layer ${i} of the segment exists`);
  }

  #slotLayout(slot: number): SlotLayout {
    return defined(this.layout.slots[slot], `slot ${slot} exists`);
  }
}
