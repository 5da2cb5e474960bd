/**
 * @file Which versions one holder in this thread's memory has, a segment or a replica, with their digests. In the middle of a
 * replica's update only the version that the step began with is whole: what is updated has it in the version before, the
 * rest in the current one.
 */
import type { EngineMemory } from "../engine/memory.ts";
import { layerBlock, type LayerBlock } from "../nn/blocks.ts";
import { elementsDone, type StateDigest } from "../nn/held-state.ts";
import type { HeldLayout } from "../nn/layout.ts";
import { assert } from "../types/assert.ts";

export interface HeldVersion {
  /** In the model. */
  readonly layer: number;
  /** The step that comes next. */
  readonly version: number;
  /** Null without redundancy. */
  readonly digest: string | null;
}

interface Version {
  readonly version: number;
  readonly digests: ReadonlyMap<number, string>;
}

export class HolderVersions {
  readonly #layout: HeldLayout;
  readonly #memory: EngineMemory;
  #current: Version | null = null;
  #previous: Version | null = null;
  /** Of the update under way. */
  #slicesDone = 0;
  #slices = 1;

  constructor(layout: HeldLayout, memory: EngineMemory) {
    this.#layout = layout;
    this.#memory = memory;
  }

  /** The arrays are filled with one version; `states` may tell of other layers too. */
  filled(version: number, states: readonly StateDigest[]): void {
    this.#previous = null;
    this.#slicesDone = 0;
    this.#current = { version, digests: this.#digestsOf(states) };
  }

  emptied(): void {
    this.#current = this.#previous = null;
    this.#slicesDone = 0;
  }

  /** A slice is done; with the last one, `states` tells of the new version. */
  updated(slice: number, slices: number, states: readonly StateDigest[]): void {
    assert(this.#current !== null, "what is updated has a state");
    const isWhole = slice + 1 === slices;
    this.#slicesDone = isWhole ? 0 : slice + 1;
    this.#slices = slices;
    // What is updated overwrites the version before.
    this.#previous = isWhole && this.#layout.layers[0]?.previous !== null ? this.#current : null;
    if (isWhole) this.#current = { version: this.#current.version + 1, digests: this.#digestsOf(states) };
  }

  versions(): HeldVersion[] {
    return [this.#previous, this.#current].flatMap((held) => {
      if (held === null) return [];
      const { version, digests } = held;
      return this.#layout.layers.map(({ index }) => ({ layer: index, version, digest: digests.get(index) ?? null }));
    });
  }

  /** Copies of the layers at a version; none where it is not held. */
  blocks(version: number): LayerBlock[] {
    const { layers } = this.#layout;
    if (version === this.#current?.version) {
      const done = elementsDone(layers, this.#slicesDone, this.#slices);
      return layers.map((layer, i) => layerBlock(layer, this.#memory, done[i]));
    }
    if (version !== this.#previous?.version) return [];
    return layers.map((layer) => layerBlock(layer, this.#memory, layer.parameters.all.length));
  }

  #digestsOf(states: readonly StateDigest[]): ReadonlyMap<number, string> {
    return new Map(states.map(({ layer, digest }) => [layer, digest]));
  }
}
