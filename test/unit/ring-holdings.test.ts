/** @file What a node may claim to hold, against a plain list of what its memory contains after each event. */
import { describe, expect, test } from "vitest";
import { Holdings } from "../../ring/core/holdings.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { RandomStream } from "../../src/types/random.ts";
import { digestOf } from "../helpers/view-explorer-views.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const LAYERS = 4;
const SEGMENTS: readonly LayerRange[] = [
  [0, 1],
  [1, 3],
  [3, 4],
];

const layersOf = ([start, end]: LayerRange): number[] =>
  Array.from({ length: end - start }, (_, index) => start + index);
const digestsOf = (layers: LayerRange, version: number): string[] =>
  layersOf(layers).map((layer) => digestOf(layer, version));

function run(random: RandomStream): void {
  const holdings = new Holdings();
  /** What each segment's two places contain; null: being written. */
  const places = new Map<LayerRange, (number | null)[]>();
  let vault: { version: number; layers: number[] } | undefined;
  for (let event = 0; event < 60; event += 1) {
    const layers = SEGMENTS[random.nextBelow(SEGMENTS.length)]!;
    const [previous, current] = places.get(layers) ?? [];
    const kind = random.nextBelow(10);
    if (kind === 0) {
      const version = random.nextBelow(4);
      const kept = layersOf([0, LAYERS]).filter(() => random.nextBelow(2) === 0);
      holdings.keep(version, new Map(kept.map((layer) => [layer, digestOf(layer, version)])));
      vault = { version, layers: kept };
      places.clear();
    } else if (kind === 1 && vault !== undefined) {
      const layer = random.nextBelow(LAYERS);
      holdings.add(layer, digestOf(layer, vault.version));
      vault.layers.push(layer);
    } else if (kind === 2) {
      holdings.dropVault();
      vault = undefined;
    } else if (current === undefined) {
      const version = random.nextBelow(4);
      holdings.hold(layers, { version, digests: digestsOf(layers, version) });
      places.set(layers, [null, version]);
    } else if (current === null) {
      const version = previous! + 1;
      holdings.ended(layers, { version, digests: digestsOf(layers, version) });
      places.set(layers, [previous!, version]);
    } else {
      expect(holdings.mayUpdate(layers, current)).toBe(true);
      expect(holdings.mayUpdate(layers, current + 1)).toBe(false);
      expect(holdings.mayUpdate(layers, current - 1)).toBe(false);
      holdings.began(layers, current);
      places.set(layers, [current, null]);
      expect(holdings.mayUpdate(layers, current), "once").toBe(false);
    }
    for (const [layer, versions] of holdings.held(LAYERS).entries()) {
      const range = SEGMENTS.find(([start, end]) => layer >= start && layer < end)!;
      const inPlaces = (places.get(range) ?? []).filter((version) => version !== null);
      const all = new Set([...inPlaces, ...(vault?.layers.includes(layer) === true ? [vault.version] : [])]);
      expect(new Set(versions.map(({ version }) => version))).toEqual(all);
      expect(versions.length, "each version once").toBe(all.size);
      expect(versions.every(({ version, digest }) => digest === digestOf(layer, version))).toBe(true);
    }
    const newest = SEGMENTS.map((each) => (places.get(each) ?? []).findLast((version) => version !== null));
    const least = newest.includes(undefined) ? undefined : Math.min(...newest.map(Number));
    expect(holdings.newestOf(SEGMENTS)).toBe(least);
  }
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("%s seed %i", (_, seed) => {
  test("claims what its memory contains", () => {
    for (let index = 0; index < 60; index += 1) {
      try {
        run(new RandomStream(seed, index));
      } catch (cause) {
        throw new Error(`case ${index}`, { cause });
      }
    }
  });
});

test("an update that does not come next is the program's fault", () => {
  const holdings = new Holdings();
  holdings.hold([0, 1], { version: 2, digests: digestsOf([0, 1], 2) });
  expect(() => holdings.began([0, 1], 3)).toThrow(AssertionFailed);
  expect(() => holdings.ended([0, 1], { version: 3, digests: [] })).toThrow(AssertionFailed);
});
