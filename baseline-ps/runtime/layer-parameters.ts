/**
 * @file The parameters that a worker has pulled or asked for, layer by layer. Where it has fewer places than layers, those of one place follow each
 * other: a layer is pulled into its place when the layer there is not needed any more, which the caller knows.
 */
import { defined } from "../../src/types/assert.ts";
import type { LayerwiseCompute } from "../../src/runtime/layerwise.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { KeyClient } from "./key-client.ts";

/** The parameters of a worker's layers, however they come. */
export interface WorkerParameters {
  /** The least that was used since `begin`. */
  readonly version: number;
  /** What is wanted from now on is of this version at least. */
  begin(leastVersion: number): void;
  /** Before a micro-batch's forward pass. */
  ahead(overlaps: boolean): Promise<void>;
  /** A layer's place is free for it. */
  want(layer: number, leastVersion?: number): void;
  /** A layer is not used any more in this step. */
  drop(layer: number): void;
  /** Resolves when the layer is in its place. */
  arrived(layer: number): Promise<void>;
  /** What is wanted so far is not wanted any more. */
  abandon(): void;
}

export interface LayerParametersInit {
  readonly compute: Pick<LayerwiseCompute, "parameters">;
  readonly keys: readonly KeyRange[];
  readonly client: Pick<KeyClient, "pull" | "wait" | "abandon">;
}

interface Pulled {
  readonly layer: number;
  readonly leastVersion: number;
  readonly timestamp: number;
  /** Resolves with the version when the parameters are here. */
  readonly arrived: Promise<number>;
}

export class LayerParameters implements WorkerParameters {
  readonly #init: LayerParametersInit;
  readonly #places: number;
  readonly #isExact: boolean;
  /** By place. */
  readonly #pulled = new Map<number, Pulled>();
  #least = 0;
  version = Infinity;

  /**
   * @param places layers whose parameters are here at once: layer i is in place `i % places`
   * @param isExact a later version than is wanted will not do
   */
  constructor(init: LayerParametersInit, places: number, isExact: boolean) {
    this.#init = init;
    this.#places = places;
    this.#isExact = isExact;
  }

  /** What is wanted from now on is of this version at least. */
  begin(leastVersion: number): void {
    this.#least = leastVersion;
    this.version = Infinity;
  }

  async ahead(overlaps: boolean): Promise<void> {
    const isWhole = this.#places >= this.#init.keys.length;
    if (!overlaps && !isWhole) return;
    for (let layer = 0; layer < this.#places; layer += 1) this.want(layer);
    if (overlaps) return;
    for (const layer of this.#init.keys.keys()) await this.arrived(layer);
  }

  want(layer: number, leastVersion = this.#least): void {
    const { client, compute, keys } = this.#init;
    const range = keys[layer];
    if (range === undefined) return;
    const place = layer % this.#places;
    const there = this.#pulled.get(place);
    const isThere = there?.layer === layer;
    if (isThere && (this.#isExact ? there.leastVersion === leastVersion : there.leastVersion >= leastVersion)) return;
    if (isThere) client.abandon(there.timestamp);
    const timestamp = client.pull(range, compute.parameters(layer), { leastVersion });
    const arrived = client.wait(timestamp);
    // Whoever uses the layer hears of it.
    arrived.catch(() => {});
    this.#pulled.set(place, { layer, leastVersion, timestamp, arrived });
  }

  drop(layer: number): void {
    if (this.#pulled.get(layer % this.#places)?.layer === layer) this.#pulled.delete(layer % this.#places);
  }

  abandon(): void {
    for (const { timestamp } of this.#pulled.values()) this.#init.client.abandon(timestamp);
    this.#pulled.clear();
  }

  async arrived(layer: number): Promise<void> {
    this.want(layer);
    const { arrived } = defined(this.#pulled.get(layer % this.#places), "it was asked for");
    this.version = Math.min(this.version, await arrived);
  }
}
