/**
 * @file What is trained in a simulated ring: a layer is one 32-bit number, a step a chain of hashes through all of them and back. A skipped, doubled
 * or foreign update gives another number for ever after, so that wrong bits show; and `Memory`, where a node has its numbers.
 */
import type { LayerRange } from "../../ring/core/partition.ts";

/** One round of MurmurHash3's finalizer over both words. */
export function mix(a: number, b: number): number {
  let hash = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (hash ^ (hash >>> 13)) | 0;
}

export const firstActivation = (step: number): number => mix(7, step);
export const lossOf = (activation: number): number => (activation >>> 0) / 2 ** 32;
export const lastGradient = (activation: number): number => mix(activation, 99);
export const updated = (value: number, gradient: number): number => mix(value, gradient);
/** Of a state it has 32 digits; here as many as the number. */
export const digestOf = (value: number): string => (value >>> 0).toString(16);

/** What one process alone would have: the oracle. */
export class Reference {
  readonly #versions: number[][];
  readonly #losses: number[] = [];

  constructor(layers: number) {
    this.#versions = [Array.from({ length: layers }, (_, layer) => mix(1, layer))];
  }

  value(layer: number, version: number): number {
    while (this.#versions.length <= version) this.#step();
    return this.#versions[version]![layer]!;
  }

  loss(step: number): number {
    while (this.#losses.length <= step) this.#step();
    return this.#losses[step]!;
  }

  #step(): void {
    const step = this.#losses.length;
    const values = this.#versions[step]!;
    const activation = values.reduce(mix, firstActivation(step));
    let gradient = lastGradient(activation);
    const next: number[] = [];
    for (let layer = values.length - 1; layer >= 0; layer -= 1) {
      next[layer] = updated(values[layer]!, gradient);
      gradient = mix(gradient, values[layer]!);
    }
    this.#losses.push(lossOf(activation));
    this.#versions.push(next);
  }
}

interface Version {
  readonly version: number;
  /** In layer order. */
  readonly values: number[];
}

interface Live {
  readonly layers: LayerRange;
  current: Version | undefined;
  previous: Version | undefined;
}

export const layersOf = ([start, end]: LayerRange): readonly number[] =>
  Array.from({ length: end - start }, (_, index) => start + index);
const keyOf = ([start, end]: LayerRange): string => `${start}-${end}`;

/** The arrays of one process. A slot that an update writes to is gone until the update ends. */
export class Memory {
  readonly live = new Map<string, Live>();
  vault: { readonly version: number; readonly values: ReadonlyMap<number, number> } | undefined;

  read(layer: number, version: number): number | undefined {
    const value = this.readLive(layer, version);
    return value === undefined && this.vault?.version === version ? this.vault.values.get(layer) : value;
  }

  /** Of what trains or follows. */
  readLive(layer: number, version: number): number | undefined {
    for (const { layers, current, previous } of this.live.values()) {
      if (layer < layers[0] || layer >= layers[1]) continue;
      for (const slot of [current, previous]) if (slot?.version === version) return slot.values[layer - layers[0]];
    }
    return undefined;
  }

  versionsOf(layer: number): readonly number[] {
    const versions = this.vault?.values.has(layer) === true ? [this.vault.version] : [];
    for (const { layers, current, previous } of this.live.values()) {
      if (layer < layers[0] || layer >= layers[1]) continue;
      for (const slot of [current, previous]) if (slot !== undefined) versions.push(slot.version);
    }
    return versions;
  }

  current(layers: LayerRange): Version | undefined {
    return this.live.get(keyOf(layers))?.current;
  }

  keep(version: number, layers: readonly number[]): void {
    const values = new Map<number, number>();
    for (const layer of layers) {
      const value = this.read(layer, version);
      if (value !== undefined) values.set(layer, value);
    }
    this.live.clear();
    this.vault = { version, values };
  }

  add(layer: number, version: number, value: number): void {
    if (this.vault?.version !== version) return;
    this.vault = { version, values: new Map([...this.vault.values, [layer, value]]) };
  }

  /** @param valueOf of each layer, at `version` */
  load(layers: LayerRange, version: number, valueOf: (layer: number) => number): void {
    const values = layersOf(layers).map(valueOf);
    this.live.set(keyOf(layers), { layers, current: { version, values }, previous: undefined });
  }

  beginUpdate(layers: LayerRange): void {
    const live = this.live.get(keyOf(layers))!;
    live.previous = live.current;
    live.current = undefined;
  }

  endUpdate(layers: LayerRange, gradients: ReadonlyMap<number, number>): void {
    const live = this.live.get(keyOf(layers))!;
    const { version, values } = live.previous!;
    const next = values.map((value, index) => updated(value, gradients.get(layers[0] + index)!));
    live.current = { version: version + 1, values: next };
  }

  digests(layers: LayerRange): readonly string[] {
    return this.live.get(keyOf(layers))!.current!.values.map(digestOf);
  }
}
