/**
 * @file Which versions of which layers a node holds: copies in its vault, all of one version, that a view was restored from, and those that train
 * or follow in the compute thread, at most two versions each. The runtime owns the arrays; this is what it may claim of them.
 */
import { assert } from "../../src/types/assert.ts";
import type { LayerRange } from "./partition.ts";
import type { HeldVersion } from "./restore.ts";

/** A version of a whole segment. `digests` in layer order. */
export interface SegmentVersion {
  readonly version: number;
  readonly digests: readonly string[];
}

interface Live {
  readonly layers: LayerRange;
  /** Undefined while an update is under way: until it ends only the version before is sure. */
  current: SegmentVersion | undefined;
  previous: SegmentVersion | undefined;
}

const keyOf = ([start, end]: LayerRange): string => `${start}-${end}`;

export class Holdings {
  #vault: { readonly version: number; readonly digests: Map<number, string> } | undefined;
  readonly #live = new Map<string, Live>();

  /** From now on the vault holds these layers at this version, and nothing trains. */
  keep(version: number, digests: ReadonlyMap<number, string>): void {
    this.#vault = { version, digests: new Map(digests) };
    this.#live.clear();
  }

  /** A layer that was fetched, compared with its digest. */
  add(layer: number, digest: string): void {
    this.#vault?.digests.set(layer, digest);
  }

  /** Something newer is committed: nobody will come back to the vault's version. */
  dropVault(): void {
    this.#vault = undefined;
  }

  get vaultVersion(): number | undefined {
    return this.#vault?.version;
  }

  hasInVault(layer: number): boolean {
    return this.#vault?.digests.has(layer) === true;
  }

  /** A segment, one's own or a copy, that is in the compute thread from now on. */
  hold(layers: LayerRange, version: SegmentVersion): void {
    this.#live.set(keyOf(layers), { layers, current: version, previous: undefined });
  }

  /** Whether the update of `step` comes next here: exactly once, by comparison. */
  mayUpdate(layers: LayerRange, step: number): boolean {
    return this.#live.get(keyOf(layers))?.current?.version === step;
  }

  /** The update overwrites the version before the present one. */
  began(layers: LayerRange, step: number): void {
    const live = this.#live.get(keyOf(layers));
    assert(live?.current?.version === step, `the update of step ${step} comes next`);
    live.previous = live.current;
    live.current = undefined;
  }

  ended(layers: LayerRange, version: SegmentVersion): void {
    const live = this.#live.get(keyOf(layers));
    assert(live?.previous?.version === version.version - 1, "an update that ends has begun");
    live.current = version;
  }

  /** The newest version that is whole here, in every one of these segments; undefined where one is missing. */
  newestOf(segments: readonly LayerRange[]): number | undefined {
    let newest = Infinity;
    for (const layers of segments) {
      const live = this.#live.get(keyOf(layers));
      const version = live?.current?.version ?? live?.previous?.version;
      if (version === undefined) return undefined;
      newest = Math.min(newest, version);
    }
    return newest;
  }

  /** By layer of the model, for the evidence of a view's end. */
  held(layerCount: number): readonly (readonly HeldVersion[])[] {
    const held = Array.from({ length: layerCount }, (): HeldVersion[] => []);
    const note = (layer: number, version: number, digest: string): void => {
      const versions = held[layer]!;
      if (versions.every((known) => known.version !== version)) versions.push({ version, digest });
    };
    for (const [layer, digest] of this.#vault?.digests ?? []) note(layer, this.#vault!.version, digest);
    for (const { layers, current, previous } of this.#live.values()) {
      for (const copy of [current, previous]) {
        for (const [index, digest] of copy?.digests.entries() ?? []) note(layers[0] + index, copy!.version, digest);
      }
    }
    return held;
  }
}
