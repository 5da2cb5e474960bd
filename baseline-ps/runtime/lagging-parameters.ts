/**
 * @file The parameters of a worker that may compute with old ones: while new ones are on their way it goes on with those that it has, as long as they do
 * not lag too far (Li 2014, section 3.4: bounded delay). So a message's way costs no wait. What arrives goes to memory of its own, and into its
 * place between two shares: within a share a layer's parameters stay as they are.
 */
import { defined } from "../../src/types/assert.ts";
import type { LayerParametersInit, WorkerParameters } from "./layer-parameters.ts";

interface Layer {
  /** What is on its way is written here. */
  readonly arriving: Float32Array;
  /** Resolves with the version. */
  pulled: Promise<number> | undefined;
  /** Of what has arrived and is not in its place yet. */
  arrivedVersion: number | undefined;
  /** Of what is in its place; none yet: -1. */
  version: number;
  isFixed: boolean;
}

export class LaggingParameters implements WorkerParameters {
  readonly #init: LayerParametersInit;
  readonly #layers: readonly Layer[];
  #least = 0;
  version = Infinity;

  constructor(init: LayerParametersInit) {
    this.#init = init;
    this.#layers = init.keys.map(({ start, end }) => ({
      ...{ arriving: new Float32Array(end - start), pulled: undefined, arrivedVersion: undefined },
      ...{ version: -1, isFixed: false },
    }));
  }

  begin(leastVersion: number): void {
    this.#least = leastVersion;
    this.version = Infinity;
    for (const layer of this.#layers) layer.isFixed = false;
  }

  ahead(): Promise<void> {
    for (const layer of this.#layers.keys()) this.want(layer);
    return Promise.resolve();
  }

  want(index: number, leastVersion = this.#least): void {
    const layer = this.#layers[index];
    if (layer === undefined || layer.pulled !== undefined || layer.isFixed) return;
    const { client, keys } = this.#init;
    const pulled = client.wait(client.pull(keys[index]!, layer.arriving, { leastVersion }));
    layer.pulled = pulled;
    // Whoever waits for the layer hears of a failure.
    pulled.then(
      (version) => (layer.arrivedVersion = version),
      () => {},
    );
  }

  drop(index: number): void {
    const layer = defined(this.#layers[index], "a layer of the model");
    layer.isFixed = false;
    this.#take(index, layer);
  }

  /** What is on its way serves whatever comes next. */
  abandon(): void {}

  async arrived(index: number): Promise<void> {
    const layer = defined(this.#layers[index], "a layer of the model");
    while (!layer.isFixed) {
      this.#take(index, layer);
      layer.isFixed = layer.version >= Math.max(0, this.#least);
      if (layer.isFixed) break;
      this.want(index);
      await layer.pulled;
    }
    this.version = Math.min(this.version, layer.version);
  }

  /** What has arrived comes into its place, which nobody uses now. */
  #take(index: number, layer: Layer): void {
    if (layer.arrivedVersion === undefined) return;
    this.#init.compute.parameters(index).set(layer.arriving);
    layer.version = layer.arrivedVersion;
    layer.arrivedVersion = layer.pulled = undefined;
  }
}
