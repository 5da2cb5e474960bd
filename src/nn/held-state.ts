/**
 * @file The state of contiguous layers at one holder, owner or replica: it advances by one version a step, at once or in
 * slices. Where the layout keeps the version before, an update copies it there first, the owner's gradient goes to
 * `outgoing`, and every new state has a digest. Elements are updated one by one, so slices change no bits.
 */
import { ACCUMULATORS_BYTES, DIGEST_BYTES, DIGEST_CHUNK, type Kernels, type View } from "../engine/contract.ts";
import type { EngineMemory } from "../engine/memory.ts";
import { type Optimizer, type OptimizerState, stateAfter } from "../optim/optimizer.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { assert } from "../types/assert.ts";
import { stateArrays } from "./blocks.ts";
import { initializeLayer } from "./initialize.ts";
import type { BlockLayout, HeldLayout, LayerLayout } from "./layout.ts";

/** Elements that are copied, updated and digested before the next ones: with Adam 512 KiB, which a second-level cache holds. */
const TILE = 64 * DIGEST_CHUNK;
/** Where the accumulators lie behind a digest. */
const ACCUMULATORS_OFFSET_BYTES = 64;

export interface StateDigest {
  /** In the model. */
  readonly layer: number;
  /** Of the parameters, then each of the optimizer's states: 32 hexadecimal digits. */
  readonly digest: string;
}

/** Of each layer, the elements that are updated after `done` of `slices` slices, which go through the layers in order. */
export function elementsDone(layers: readonly LayerLayout[], done: number, slices: number): number[] {
  const counts = layers.map(({ parameters }) => parameters.all.length);
  const chunks = counts.map((count) => Math.ceil(count / DIGEST_CHUNK));
  let left = Math.floor((chunks.reduce((sum, count) => sum + count, 0) * done) / slices);
  return counts.map((count, i) => {
    const mine = Math.min(left, chunks[i] as number);
    left -= mine;
    return Math.min(mine * DIGEST_CHUNK, count);
  });
}

export class HeldState {
  readonly #layout: HeldLayout;
  readonly #memory: EngineMemory;
  readonly #kernels: Kernels;
  readonly #optimizer: Optimizer;
  /** Null where the arrays hold no state yet. */
  #state: OptimizerState | null = null;
  /** The slice of the step under way that comes next. */
  #slice = 0;
  /** Of the layers that the step under way has finished. */
  #digests: StateDigest[] = [];

  /** Over arrays that are all zero: without a state before `initialize` or `reset`. */
  constructor(layout: HeldLayout, memory: EngineMemory, kernels: Kernels) {
    this.#layout = layout;
    this.#memory = memory;
    this.#kernels = kernels;
    this.#optimizer = parseOptimizer(layout.init.optimizer);
  }

  /** The version: updates done, the step that comes next. */
  get step(): number {
    return this.#known.steps;
  }

  /** Fills parameters and states as before the first step. */
  initialize(): void {
    const { layers, init } = this.#layout;
    for (const { index, spec, parameters, states } of layers) {
      initializeLayer(spec, index, init.seed, this.#memory.f32(parameters.weight), this.#memory.f32(parameters.bias));
      for (const { all } of states) this.#memory.f32(all).fill(0);
    }
    this.reset(0);
  }

  /** The arrays hold the state of `step`: the caller filled them. Gradients stay as they are. */
  reset(step: number): void {
    this.#state = stateAfter(this.#optimizer, step);
    this.#slice = 0;
    this.#digests = [];
  }

  /**
   * Updates one slice by `gradient`, which is zero afterwards. `step` must be the one that comes next, and its slices come in
   * order. After the last one this is the next version: returns its digests, where the version before is kept. Else none.
   */
  update(step: number, slice = 0, slices = 1): readonly StateDigest[] {
    assert(step === this.step, `step ${this.step} comes next, not ${step}`);
    assert(slice === this.#slice && slice < slices, `slice ${this.#slice} comes next, not ${slice} of ${slices}`);
    const { layers } = this.#layout;
    const next = this.#optimizer.next(this.#known);
    const from = elementsDone(layers, slice, slices);
    const to = elementsDone(layers, slice + 1, slices);
    for (const [i, layer] of layers.entries()) this.#updateLayer(layer, from[i] as number, to[i] as number, next);
    this.#slice++;
    if (slice + 1 < slices) return [];
    const digests = this.#digests;
    this.#state = next;
    this.#slice = 0;
    this.#digests = [];
    return digests;
  }

  /** Of the state as it is, which is not in the middle of a step. */
  digests(): StateDigest[] {
    assert(this.#state !== null && this.#slice === 0, "a state that is in no step");
    return this.#layout.layers.map((layer) => {
      this.#beginDigests(layer);
      this.#addToDigests(layer, 0, layer.parameters.all.length);
      return this.#endDigest(layer);
    });
  }

  get #known(): OptimizerState {
    assert(this.#state !== null, "the layers have a state");
    return this.#state;
  }

  #updateLayer(layer: LayerLayout, from: number, to: number, state: OptimizerState): void {
    if (from === to) return;
    const isKept = layer.previous !== null;
    if (isKept && from === 0) this.#beginDigests(layer);
    for (let start = from; start < to; start += TILE) {
      const count = Math.min(TILE, to - start);
      this.#keep(layer, start, count);
      this.#updateTile(layer, start, count, state);
      if (isKept) this.#addToDigests(layer, start, count);
    }
    if (isKept && to === layer.parameters.all.length) this.#digests.push(this.#endDigest(layer));
  }

  #updateTile({ parameters, gradient, states }: LayerLayout, start: number, count: number, state: OptimizerState) {
    assert(gradient !== null, "the layers train");
    const address = ({ all }: BlockLayout): number => all.offsetBytes + 4 * start;
    const tensors = { weights: address(parameters), gradient: address(gradient), states: states.map(address), count };
    this.#optimizer.update(this.#kernels, tensors, state, this.#layout.init.rate);
  }

  #keep(layer: LayerLayout, start: number, count: number): void {
    const { gradient, previous, outgoing } = layer;
    const copy = (from: View, to: View): void =>
      this.#kernels.copy(from.offsetBytes + 4 * start, to.offsetBytes + 4 * start, count);
    if (gradient !== null && outgoing !== null) copy(gradient.all, outgoing.all);
    if (previous === null) return;
    const kept = stateArrays(previous);
    for (const [i, array] of stateArrays(layer).entries()) copy(array, kept[i] as View);
  }

  #beginDigests(layer: LayerLayout): void {
    stateArrays(layer).forEach(({ length }, i) => this.#kernels.digestBegin(this.#accumulators(i), length));
  }

  #addToDigests(layer: LayerLayout, start: number, count: number): void {
    for (const [i, { offsetBytes }] of stateArrays(layer).entries()) {
      this.#kernels.digestAdd(this.#accumulators(i), offsetBytes + 4 * start, count);
    }
  }

  #endDigest(layer: LayerLayout): StateDigest {
    const { digestOffsetBytes } = this.#layout;
    const bytes = new Uint8Array(this.#memory.memory.buffer, digestOffsetBytes, DIGEST_BYTES).fill(0);
    stateArrays(layer).forEach((_, i) => this.#kernels.digestEnd(this.#accumulators(i), digestOffsetBytes));
    return { layer: layer.index, digest: Buffer.from(bytes).toString("hex") };
  }

  /** Of one array of the layer under way; they last from slice to slice. */
  #accumulators(array: number): number {
    return this.#layout.digestOffsetBytes + ACCUMULATORS_OFFSET_BYTES + ACCUMULATORS_BYTES * array;
  }
}
