/** @file One keeper by hand: how a view is installed, what a copy follows, and what answers of an older view do. */
import { expect, test } from "vitest";
import { Keeper } from "../../ring/core/keeper.ts";
import type { KeeperOutput } from "../../ring/core/keeper-messages.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import type { RingView } from "../../ring/core/view.ts";
import { digestOf, madeView } from "../helpers/view-explorer-views.ts";

const loaded = (view: number, version: number, ranges: readonly LayerRange[]) => {
  const segments = ranges.map((layers) => ({ layers, digests: [digestOf(layers[0], version)] }));
  return { kind: "loaded", view, segments } as const;
};
const kinds = (outputs: readonly KeeperOutput[]): readonly string[] => outputs.map(({ kind }) => kind);
const kept = (view: number, version: number, layers: readonly number[]) =>
  ({ kind: "kept", view, digests: new Map(layers.map((layer) => [layer, digestOf(layer, version)])) }) as const;

/** Node 0 owns layer 0 and keeps a copy of node 2's layer 2. */
const OWN: LayerRange = [0, 1];
const COPY: LayerRange = [2, 3];

function atOrigin(): Keeper {
  const keeper = new Keeper(0, 0);
  expect(keeper.handle({ kind: "install", view: madeView(3) })).toEqual([
    { kind: "load", view: 1, version: 0, isOrigin: true },
  ]);
  expect(kinds(keeper.handle(loaded(1, 0, [OWN, COPY])))).toEqual(["installed", "sendApplied"]);
  return keeper;
}

function restored(view: number, version: number, holders: readonly (readonly number[])[]): RingView {
  const sources = holders.map((nodes, layer) => ({ holders: nodes, digest: digestOf(layer, version) }));
  return madeView(3, { view, restoreStep: version, sources });
}

test("at its origin everything is loaded at once", () => {
  const keeper = atOrigin();
  expect(keeper.isWhole).toBe(true);
  expect(keeper.evidence(madeView(3))).toMatchObject({ bound: 0, committed: 0 });
});

test("a node without memory fetches its own layers, begins, and fetches its copies later", () => {
  const keeper = new Keeper(0, 0);
  expect(keeper.handle({ kind: "install", view: restored(2, 4, [[1], [1], [2]]) })).toEqual([
    { kind: "keep", view: 2, version: 4, layers: [] },
  ]);
  const fetch = { kind: "fetch", view: 2, version: 4 } as const;
  expect(keeper.handle(kept(2, 4, []))).toEqual([{ ...fetch, from: 1, layers: [0] }]);
  const arrived = (layer: number, digest: string) => keeper.handle({ kind: "fetched", view: 2, layer, digest });
  expect(arrived(0, "f".repeat(32)), "damaged on its way").toEqual([]);
  expect(kinds(arrived(0, digestOf(0, 4)))).toEqual(["load"]);
  expect(keeper.handle(loaded(2, 4, [OWN]))).toEqual([
    { kind: "installed", view: 2 },
    { ...fetch, from: 2, layers: [2] },
  ]);
  expect(keeper.isWhole).toBe(false);
  expect(arrived(2, digestOf(2, 4))).toEqual([{ kind: "fill", view: 2, version: 4, layers: COPY }]);
  expect(kinds(keeper.handle(loaded(2, 4, [COPY])))).toEqual(["sendApplied"]);
  expect(keeper.isWhole).toBe(true);
});

test("a copy that is damaged in memory is fetched instead", () => {
  const keeper = atOrigin();
  keeper.handle({ kind: "install", view: restored(2, 0, [[0, 1], [1], [0, 2]]) });
  const damaged = new Map([
    [0, "f".repeat(32)],
    [2, digestOf(2, 0)],
  ]);
  expect(keeper.handle({ kind: "kept", view: 2, digests: damaged })).toMatchObject([
    { kind: "fetch", from: 1, layers: [0] },
  ]);
});

test("answers of a view that was replaced while it was installed change nothing", () => {
  const keeper = new Keeper(0, 0);
  keeper.handle({ kind: "install", view: restored(2, 4, [[1], [1], [2]]) });
  keeper.handle(kept(2, 4, []));
  keeper.handle({ kind: "install", view: restored(3, 5, [[2], [1], [2]]) });
  for (const input of [
    kept(2, 4, [0]),
    { kind: "fetched", view: 2, layer: 0, digest: digestOf(0, 5) },
    { kind: "fetchEnded", view: 2, from: 1 },
    loaded(2, 4, [OWN]),
  ] as const) {
    expect(keeper.handle(input)).toEqual([]);
  }
  expect(keeper.describe().phase).toBe("keeping");
});

test("copies are filled again in a view that names the same ranges", () => {
  const keeper = new Keeper(0, 0);
  const first = restored(2, 4, [[0], [1], [2]]);
  for (const view of [first, { ...first, view: 3 }]) {
    keeper.handle({ kind: "install", view });
    keeper.handle(kept(view.view, 4, [0, 2]));
    expect(kinds(keeper.handle(loaded(view.view, 4, [OWN])))).toContain("fill");
  }
});

test("a gradient is applied once, to the version that it belongs to, and not in a sealed view", () => {
  const keeper = atOrigin();
  const gradient = (step: number) => kinds(keeper.handle({ kind: "gradient", view: 1, owner: 2, step, loss: 1 }));
  expect(gradient(1), "too early").toEqual(["violation"]);
  expect(gradient(0)).toEqual(["apply"]);
  expect(gradient(0), "while it is applied").toEqual(["violation"]);
  const segments = [{ layers: COPY, digests: [digestOf(2, 1)] }];
  expect(keeper.handle({ kind: "followed", view: 1, owner: 2, step: 0, segments })).toEqual([
    { kind: "sendApplied", to: 2, version: 1, digests: [digestOf(2, 1)] },
  ]);
  expect(gradient(0), "again").toEqual(["violation"]);
  keeper.handle({ kind: "seal" });
  expect(gradient(1)).toEqual([]);
});

test("what its replica has not told to hold is not committed, as far as an owner knows", () => {
  const keeper = atOrigin();
  const told = (version: number) =>
    keeper.handle({ kind: "applied", view: 1, from: 1, version, digests: [digestOf(0, version)] });
  told(0);
  keeper.handle({ kind: "token", view: 1, version: 0, count: 3 });
  keeper.handle({ kind: "updating", view: 1, step: 0 });
  keeper.handle({ kind: "updated", view: 1, step: 0, segments: [{ layers: OWN, digests: [digestOf(0, 1)] }] });
  keeper.handle({ kind: "gradient", view: 1, owner: 2, step: 0, loss: 1 });
  keeper.handle({
    kind: "followed",
    view: 1,
    owner: 2,
    step: 0,
    segments: [{ layers: COPY, digests: [digestOf(2, 1)] }],
  });
  expect(keeper.evidence(madeView(3)).held[0]).toHaveLength(2);
  expect(keeper.evidence(madeView(3))).toMatchObject({ bound: 0, committed: 0 });
  told(1);
  keeper.handle({ kind: "token", view: 1, version: 1, count: 3 });
  expect(keeper.evidence(madeView(3))).toMatchObject({ bound: 1, committed: 1 });
});

test("an idle spare has no bound, and says it in numbers that survive a wire", () => {
  const keeper = new Keeper(2, 0);
  const view = madeView(3, { owners: [0], cut: [[0, 3]], replicas: 0 });
  keeper.handle({ kind: "install", view });
  const evidence = keeper.evidence(view);
  expect(evidence.bound).toBeNull();
  expect(JSON.parse(JSON.stringify(evidence))).toEqual(evidence);
});
