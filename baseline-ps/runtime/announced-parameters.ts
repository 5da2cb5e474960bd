/**
 * @file The parameters of a worker to which servers send each new version unasked (server-initiated broadcast): it says once what it has, and
 * waits for a layer's version before it computes with it. Only for `bsp` and a worker that has places for the whole model: a layer's next version
 * needs this worker's own push of it, which follows the layer's last use in the step. So nothing is overwritten that is being read.
 */
import { defined } from "../../src/types/assert.ts";
import type { LayerwiseCompute } from "../../src/runtime/layerwise.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { KeyClient } from "./key-client.ts";
import type { WorkerParameters } from "./layer-parameters.ts";

export interface AnnouncedParametersInit {
  readonly compute: Pick<LayerwiseCompute, "parameters">;
  readonly keys: readonly KeyRange[];
  readonly client: Pick<KeyClient, "subscribe" | "failed">;
}

interface Layer {
  /** Of each server's part, by server. */
  readonly versions: Map<number, number>;
  waiting: { readonly leastVersion: number; readonly here: PromiseWithResolvers<void> } | undefined;
}

export class AnnouncedParameters implements WorkerParameters {
  readonly #init: AnnouncedParametersInit;
  readonly #layers: Layer[] = [];
  #failure: Error | undefined;
  #least = 0;
  version = Infinity;

  constructor(init: AnnouncedParametersInit) {
    this.#init = init;
    init.client.failed.catch((error: Error) => {
      this.#failure = error;
      for (const { waiting } of this.#layers) waiting?.here.reject(error);
    });
  }

  /** The first time it subscribes, from this version on. */
  begin(leastVersion: number): void {
    this.#least = leastVersion;
    this.version = Infinity;
    if (this.#layers.length > 0) return;
    const { keys, client, compute } = this.#init;
    for (const [index, range] of keys.entries()) {
      const layer: Layer = { versions: new Map(), waiting: undefined };
      this.#layers.push(layer);
      const told = (server: number, version: number): void => this.#told(layer, server, version);
      const servers = client.subscribe(range, compute.parameters(index), leastVersion, told);
      for (const server of servers) layer.versions.set(server, -1);
    }
  }

  /** @param overlaps false: waits for all */
  async ahead(overlaps: boolean): Promise<void> {
    if (overlaps) return;
    for (const layer of this.#layers.keys()) await this.arrived(layer);
  }

  /** They come by themselves. */
  want(): void {}

  abandon(): void {}

  /** They stay until the next version comes. */
  drop(): void {}

  async arrived(index: number): Promise<void> {
    const layer = defined(this.#layers[index], `layer ${index} exists`);
    if (this.#failure !== undefined) throw this.#failure;
    if (versionOf(layer) < this.#least) {
      const here = Promise.withResolvers<void>();
      layer.waiting = { leastVersion: this.#least, here };
      await here.promise;
    }
    this.version = Math.min(this.version, versionOf(layer));
  }

  #told(layer: Layer, server: number, version: number): void {
    layer.versions.set(server, version);
    if (layer.waiting === undefined || versionOf(layer) < layer.waiting.leastVersion) return;
    layer.waiting.here.resolve();
    layer.waiting = undefined;
  }
}

const versionOf = ({ versions }: Layer): number => Math.min(...versions.values());
