/**
 * @file The whole model on one compute thread, layer by layer: for a worker that gets each layer's parameters from elsewhere and
 * sends each layer's gradient away, while other layers are computed. Nothing is updated here, so no optimizer's state is held.
 * Every layer is a segment; the bits are those of the model in one. One micro-batch at a time.
 */
import type { EngineKind, View } from "../engine/contract.ts";
import type { EngineMemory } from "../engine/memory.ts";
import type { LayerPass } from "../nn/flops.ts";
import { type HeldLayers, type LayerLayout, POOL_PLACES, type SegmentInit, type SlotLayout } from "../nn/layout.ts";
import { parameterCount, parseModel } from "../nn/spec.ts";
import { assert, defined } from "../types/assert.ts";
import type { OperationResult } from "./compute-operations.ts";
import type { PaceCounts } from "./compute-pace.ts";
import { ComputeThread } from "./compute-thread.ts";
import type { FedSlot } from "./feeder.ts";

export interface LayerwiseInit extends Pick<SegmentInit, "model" | "rows" | "batch" | "seed"> {
  readonly engine: EngineKind;
  /** As of `ComputeInit`. */
  readonly pace?: number;
  /**
   * "all": every layer has its own parameters, which start as the job's, and gradient. "pool": layer i shares its places with
   * i ± 2, i ± 4 …, so that what is held for parameters and gradients does not grow with the model's depth; they hold nothing
   * of use until they are loaded.
   */
  readonly held: HeldLayers;
}

/**
 * A micro-batch goes forward from layer 0 to the last, and backward for inputs from the last to layer 0. A layer's pass for
 * weights comes after its pass for inputs, and before the layer below has its forward pass of the next micro-batch.
 * One operation at a time; each rejects as `ComputeThread.run` does. A forward pass whose numbers are not finite has no output:
 * there is nothing to go on with.
 *
 * Layers are numbered in the model. An array is the caller's, but while an operation that is said to use it is under way:
 * other layers may be loaded and taken meanwhile.
 *
 * In a pool the caller loads a layer before its `forward` or `evaluate`, and again before its `backwardInput` where another
 * layer of the place was loaded in between. It takes the layer's gradient and clears it before another layer of the place has
 * its `backwardWeight`. Of several micro-batches it takes each one's gradient and adds them itself, in order from +0, which
 * gives the bits of "all". Parameters and gradients have places apart: a layer may be loaded where the gradient of another one of its
 * place waits to be taken.
 */
export class LayerwiseCompute {
  /** Of the model. */
  readonly layers: number;
  /** Shared with the compute thread; `slot` lies in it. */
  readonly memory: EngineMemory;
  /**
   * Filled before `forward(0)` or `evaluate(0)`. The input must stay until `backwardWeight(0)` is done, the labels until the last
   * layer's `forward` or `evaluate`.
   */
  readonly slot: FedSlot;
  /** What is held for parameters and gradients; activations, with their gradients four arrays a layer, come on top. */
  readonly sizeBytes: number;
  readonly #thread: ComputeThread;
  #pace: PaceCounts | null = null;
  /** By pass and layer: how many times it was done. */
  readonly #counts: Readonly<Record<LayerPass, number[]>>;

  private constructor(thread: ComputeThread, { model, held }: LayerwiseInit) {
    this.#thread = thread;
    this.memory = thread.memory;
    this.layers = thread.layouts.length;
    this.slot = { input: this.#slot(0).input, labels: this.#slot(this.layers - 1).labels };
    const counts = parseModel(model).layers.map(parameterCount);
    const places = held === "all" ? counts : counts.slice(0, POOL_PLACES).fill(Math.max(...counts));
    this.sizeBytes = 2 * 4 * places.reduce((sum, count) => sum + count, 0);
    const zeros = (): number[] => counts.map(() => 0);
    this.#counts = { forward: zeros(), backwardInput: zeros(), backwardWeight: zeros() };
  }

  /** Throws what `ComputeThread.start` throws. Stop it in the end. */
  static async start(init: LayerwiseInit): Promise<LayerwiseCompute> {
    const { model, rows, batch, seed, engine, pace, held } = init;
    const common = { model, rows, batch, seed, held, slots: 1, optimizer: "sgd", rate: 0 };
    const segments = parseModel(model).layers.map((_, i): SegmentInit => ({ ...common, layers: [i, i + 1] }));
    const thread = await ComputeThread.start({ segments, engine, ...(pace === undefined ? {} : { pace }) });
    return new LayerwiseCompute(thread, init);
  }

  /** How well a stated pace was kept; null without one. */
  get pace(): PaceCounts | null {
    return this.#pace;
  }

  /**
   * Weight [inputs, outputs] row by row, then bias [outputs]: the memory itself. Read by `forward` and `evaluate` of this layer
   * and, but for layer 0, by `backwardInput`; written by the caller alone.
   */
  parameters(layer: number): Float32Array<SharedArrayBuffer> {
    return this.memory.f32(this.#layer(layer).parameters.all);
  }

  /** In the order of the parameters: the memory itself, zero at the start. `backwardWeight` of this layer reads and writes it. */
  gradient(layer: number): Float32Array<SharedArrayBuffer> {
    return this.memory.f32(defined(this.#layer(layer).gradient ?? undefined, "the layer trains").all);
  }

  /** Sets the gradient to +0, as each sum must start. */
  clearGradient(layer: number): void {
    this.gradient(layer).fill(0);
  }

  /** `loss` and `correct` are told by the last layer, `notFiniteLayer` by each of itself. */
  async forward(layer: number): Promise<OperationResult<"forward">> {
    assert(
      layer === 0 || this.#done("forward", layer - 1) > this.#done("forward", layer),
      `layer ${layer} has its input`,
    );
    const operation = { kind: "forward", lap: layer, slot: 0 } as const;
    const result = await this.#ahead(layer, () => this.#thread.run<"forward">(operation));
    this.#count("forward", layer);
    return result;
  }

  /** As `forward`, for its result alone, between micro-batches: nothing of the training changes. */
  evaluate(layer: number): Promise<OperationResult<"evaluate">> {
    return this.#ahead(layer, () => this.#thread.run<"evaluate">({ kind: "evaluate", lap: layer, slot: 0 }));
  }

  /** Forward passes of a micro-batch of which no backward pass has begun are as if they had not been. */
  async abandon(): Promise<void> {
    for (let layer = this.layers - 1; layer >= 0; layer -= 1) {
      if (this.#done("forward", layer) === this.#done("backwardWeight", layer)) continue;
      await this.#thread.run<"abandon">({ kind: "abandon", lap: layer, slot: 0 });
      this.#counts.forward[layer] = this.#done("forward", layer) - 1;
    }
  }

  /** Of layer 0 too, which sends no gradient on: its activation's part. */
  async backwardInput(layer: number): Promise<OperationResult<"backwardInput">> {
    const hasGradient =
      layer === this.layers - 1 || this.#done("backwardInput", layer + 1) > this.#done("backwardInput", layer);
    assert(hasGradient, `layer ${layer} has the gradient of its output`);
    const result = await this.#thread.run<"backwardInput">({ kind: "backwardInput", lap: layer, slot: 0 });
    const { inputGradient } = this.#slot(layer);
    if (inputGradient !== null) this.#copy(inputGradient, this.#slot(layer - 1).outputGradient);
    this.#count("backwardInput", layer);
    return result;
  }

  /** Adds the micro-batch's gradient, summed completely from +0, to `gradient(layer)`. */
  async backwardWeight(layer: number): Promise<OperationResult<"weightLayer">> {
    const result = await this.#thread.run<"weightLayer">({ kind: "weightLayer", lap: layer, slot: 0, layer });
    this.#count("backwardWeight", layer);
    this.#pace = result.pace;
    return result;
  }

  /** Ends the thread, whatever it does; an operation under way rejects with `InterruptedError`. */
  stop(): Promise<void> {
    return this.#thread.stop();
  }

  /** Hands the output on as the next layer's input, which that layer's pass for weights of the micro-batch before has read. */
  async #ahead<Result>(layer: number, run: () => Promise<Result>): Promise<Result> {
    const next = layer + 1 < this.layers ? layer + 1 : null;
    const isFree = next === null || this.#done("backwardWeight", next) === this.#done("forward", next);
    assert(isFree, `layer ${layer + 1} is done with the micro-batch before`);
    const result = await run();
    if (next !== null) this.#copy(this.#slot(layer).output, this.#slot(next).input);
    return result;
  }

  #done(pass: LayerPass, layer: number): number {
    return defined(this.#counts[pass][layer], `layer ${layer} exists`);
  }

  #count(pass: LayerPass, layer: number): void {
    this.#counts[pass][layer] = this.#done(pass, layer) + 1;
  }

  #copy(from: View, to: View): void {
    this.memory.f32(to).set(this.memory.f32(from));
  }

  #slot(layer: number): SlotLayout {
    return defined(this.#thread.layouts[layer]?.slots[0], `layer ${layer} exists`);
  }

  #layer(layer: number): LayerLayout {
    return defined(this.#thread.layouts[layer]?.layers[0], `layer ${layer} exists`);
  }
}
