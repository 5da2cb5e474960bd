/** @file Fetches with holders that fail: all that anybody brings arrives, and what nobody brings is named. */
import { describe, expect, test } from "vitest";
import { FetchMachine, type FetchOutput } from "../../ring/core/fetches.ts";
import { RandomStream } from "../../src/types/random.ts";
import { digestOf } from "../helpers/view-explorer-views.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const LAYERS = 5;
const NODES = 5;
const SELF = 0;

function run(random: RandomStream): void {
  const nodes = Array.from({ length: NODES }, (_, node) => node);
  const sources = Array.from({ length: LAYERS }, (_, layer) => {
    return { digest: digestOf(layer, 1), holders: nodes.filter(() => random.nextBelow(3) === 0) };
  });
  const wanted = sources.map((_, layer) => layer).filter(() => random.nextBelow(4) > 0);
  const present = nodes.filter(() => random.nextBelow(3) > 0);
  const living = new Set(nodes.filter(() => random.nextBelow(3) > 0));
  const machine = new FetchMachine({ self: SELF, wanted, sources, present });
  const busy = new Map<number, number[]>();
  const asked = new Set<string>();
  let end: FetchOutput | undefined;
  const take = (outputs: readonly FetchOutput[]): void => {
    for (const output of outputs) {
      expect(end, "nothing after the end").toBeUndefined();
      if (output.kind !== "fetch") {
        end = output;
        continue;
      }
      expect(busy.has(output.from), "one request to a holder at a time").toBe(false);
      expect(output.from).not.toBe(SELF);
      for (const layer of output.layers) {
        expect([...busy.values()].flat(), "a layer is on its way once").not.toContain(layer);
        expect(sources[layer]!.holders).toContain(output.from);
        expect(asked.has(`${output.from} ${layer}`), "who failed is not asked again").toBe(false);
        asked.add(`${output.from} ${layer}`);
      }
      busy.set(output.from, [...output.layers]);
    }
  };
  take(machine.handle({ kind: "begin" }));
  for (let holders = [...busy.keys()]; holders.length > 0; holders = [...busy.keys()]) {
    const from = holders[random.nextBelow(holders.length)]!;
    const layers = busy.get(from)!;
    if (living.has(from) && layers.length > 0) {
      take(machine.handle({ kind: "arrived", layer: layers.shift()! }));
      continue;
    }
    busy.delete(from);
    take(machine.handle({ kind: "ended", from }));
  }
  const hopeless = wanted.filter((layer) => !sources[layer]!.holders.some((node) => node !== SELF && living.has(node)));
  expect(end).toEqual(hopeless.length === 0 ? { kind: "done" } : { kind: "failed", layers: hopeless });
  expect(machine.missing).toEqual(hopeless);
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("%s seed %i", (_, seed) => {
  test("everything that somebody alive holds arrives", () => {
    for (let index = 0; index < 1_000; index += 1) {
      try {
        run(new RandomStream(seed, index));
      } catch (cause) {
        throw new Error(`case ${index}`, { cause });
      }
    }
  });
});

test("nodes that are expected to answer are asked first, and share the work", () => {
  const sources = [0, 1, 2, 3].map((layer) => ({ digest: digestOf(layer, 1), holders: [1, 2, 3] }));
  const machine = new FetchMachine({ self: 0, wanted: [0, 1, 2, 3], sources, present: [2, 3] });
  const [first, second] = [
    [0, 2],
    [1, 3],
  ];
  expect(machine.handle({ kind: "begin" })).toEqual([
    { kind: "fetch", from: 2, layers: first },
    { kind: "fetch", from: 3, layers: second },
  ]);
});
