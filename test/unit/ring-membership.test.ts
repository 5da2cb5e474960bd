/** @file One ring's memberships by hand: the gate of views, joins, leaves, restarts. Losses and crashes: test/simulation. */
import { describe, expect, test } from "vitest";
import { Admission } from "../../ring/core/admission.ts";
import type { MembershipMessage, MembershipOutput } from "../../ring/core/membership-messages.ts";
import type { Claims } from "../../ring/core/restore.ts";
import { afterRestart, holdingsOf, Ring, TICK_MS } from "../helpers/membership-ring.ts";
import { digestOf, madeCandidate, madeView } from "../helpers/view-explorer-views.ts";

test("the last one that is ready tells the others at once", () => {
  const ring = new Ring(3);
  for (const node of [0, 1, 2]) expect(ring.kinds(node)).toContain("start");
});

test("training begins when all are ready, once, and without faults no view changes", () => {
  const ring = new Ring(3);
  ring.pass(5_000);
  for (const node of [0, 1, 2]) {
    expect(ring.kinds(node).filter((kind) => kind === "start")).toHaveLength(1);
    expect(ring.nodes.get(node)!.describe()).toMatchObject({ view: 1, phase: "running", isSealed: false });
  }
});

test("the others go on without a node that is gone, from what they hold", () => {
  const ring = new Ring(3);
  ring.cut.add(2);
  ring.suspect([2], [2]);
  ring.pass(2_000);
  for (const node of [0, 1]) {
    expect(ring.members(node)).toEqual([0, 1]);
    expect(ring.nodes.get(node)!.view).toMatchObject({ view: 2, restoreStep: 2, voters: [0, 1, 2] });
    expect(ring.nodes.get(node)!.describe().phase).toBe("running");
  }
  // It wakes, hears what was decided, and is outside.
  ring.cut.clear();
  ring.suspect([]);
  ring.give(2, { kind: "stalled" });
  ring.pass(1_000);
  expect(ring.kinds(2)).toContain("outside");
  expect(ring.nodes.get(2)!.view.view).toBe(2);
});

test("a minority waits, and says for whom", () => {
  const ring = new Ring(3);
  ring.cut.add(1).add(2);
  ring.suspect([1, 2]);
  ring.pass(20_000);
  expect(ring.nodes.get(0)!.describe()).toMatchObject({ view: 1, isSealed: true, waitsFor: "no quorum (1 of 3)" });
});

test("who comes back without its memory leaves by its boot, and joins anew with its number", () => {
  const ring = new Ring(3);
  ring.add(2, madeCandidate(2, 1), { isMember: false, holdings: afterRestart });
  ring.pass(3_000);
  expect(ring.members(0)).toEqual([0, 1]);
  ring.settle();
  ring.pass(3_000);
  expect(ring.members(0)).toEqual([0, 1, 2]);
  expect(ring.nodes.get(0)!.view.members[2]!.boot).toBe(1);
  expect(ring.nodes.get(2)!.describe()).toMatchObject({ view: 3, phase: "running" });
});

test("who leaves goes at a step's end, and is told so", () => {
  const ring = new Ring(3);
  ring.give(1, { kind: "leave" });
  ring.pass(3_000);
  expect(ring.members(0), "nothing is committed yet").toEqual([0, 1, 2]);
  ring.settle();
  ring.pass(3_000);
  expect(ring.members(0)).toEqual([0, 2]);
  expect(ring.nodes.get(0)!.view.removed).toEqual([{ node: 1, cause: "left" }]);
  expect(ring.kinds(1)).toContain("outside");
  ring.settle();
  ring.pass(3_000);
  expect(ring.members(0), "it does not ask to come back").toEqual([0, 2]);
});

test("where all want to go nobody goes, and no view changes in vain", () => {
  const ring = new Ring(3);
  for (const node of [0, 1, 2]) ring.give(node, { kind: "leave" });
  ring.settle();
  ring.pass(3_000);
  expect(ring.nodes.get(0)!.view.view).toBe(1);
});

test.each([
  ["an end of it", [0]],
  ["both ends", [0, 1]],
])("a cut line puts one end out where %s tells it, until it is mended", (_, ends) => {
  const ring = new Ring(3);
  const sever = (): void => {
    for (const end of ends) {
      const isIn = ring.members(end).includes(end) && ring.members(end).includes(1 - end);
      const severed = isIn ? [1 - end] : [];
      ring.give(end, { kind: "suspicions", suspected: severed, dead: [], severed });
    }
  };
  ring.cutLines.push([0, 1]);
  sever();
  ring.pass(1_000);
  expect(ring.members(0)).toHaveLength(2);
  expect(ring.members(0)).toContain(2);
  const view = ring.nodes.get(2)!.view.view;
  // Who is out asks to come back, and is not heard by all.
  ring.settle();
  sever();
  ring.pass(5_000);
  expect(ring.nodes.get(2)!.view.view, "no view changes in vain").toBe(view);
  const out = ring.members(2).includes(0) ? 1 : 0;
  // Where it has not noticed by itself, nothing is committed any more.
  if (ends.length === 1) ring.give(out, { kind: "stalled" });
  ring.pass(1_000);
  expect(ring.nodes.get(out)!.describe()).toMatchObject({
    phase: "outside",
    waitsFor: `no line to node ${1 - out}`,
  });
  ring.cutLines.length = 0;
  ring.pass(1_000);
  expect(ring.members(0).toSorted((a, b) => a - b)).toEqual([0, 1, 2]);
});

test("a line that is cut for one end only costs one end, though both answer", () => {
  const ring = new Ring(3);
  ring.give(0, { kind: "suspicions", suspected: [1], dead: [], severed: [1] });
  expect(ring.members(2)).toEqual([0, 2]);
  expect(ring.nodes.get(2)!.view.removed).toEqual([{ node: 1, cause: "silent" }]);
});

test("what members of one view answered says nothing of the next one's", () => {
  const [view, next] = [madeView(2), madeView(3, { view: 2 })];
  const wish = { candidate: madeCandidate(7), heardBy: [0, 1, 2] };
  const admission = new Admission();
  admission.wished(view, 1, wish, 7, 0);
  expect(admission.admissible(view, [], 0)).toEqual([wish.candidate]);
  admission.answered(0);
  admission.adopt(next);
  expect(admission.askers, "it is told of the next one").toEqual([7]);
  expect(admission.admissible(next, [], 0)).toEqual([]);
  expect(admission.heardBy).toEqual([]);
  admission.wished(next, 1, wish, 7, 0);
  expect(admission.admissible(next, [], 0), "said of an older view").toEqual([]);
  admission.wished(next, 2, { ...wish, heardBy: [0, 1] }, 7, 0);
  expect(admission.admissible(next, [], 0)).toEqual([]);
  expect(admission.admissible(next, [2], 0), "who is gone need not hear it").toEqual([wish.candidate]);
});

test("who died while it waited to be taken in is not", () => {
  const ring = new Ring(3);
  ring.add(3, madeCandidate(3), {
    isMember: false,
    holdings: () => ({ bound: null, committed: 0, losses: [], held: [[], [], []] }),
  });
  ring.pass(500);
  ring.cut.add(3);
  ring.pass(1_000);
  ring.settle();
  ring.pass(1_000);
  expect(ring.members(0)).toEqual([0, 1, 2]);
  ring.cut.clear();
  ring.pass(1_000);
  expect(ring.members(0)).toEqual([0, 1, 2, 3]);
});

test("what a node that was cut off kept beside the owner outlives the owner", () => {
  const owned = madeView(3, { owners: [0], cut: [[0, 3]] });
  const held = (versions: readonly number[], bound: number): Claims => {
    const copies = [0, 1, 2].map((layer) => versions.map((version) => ({ version, digest: digestOf(layer, version) })));
    return { bound, committed: 2, losses: [], held: copies };
  };
  const ring = new Ring(3);
  // The owner is a step further than its replica has told.
  ring.add(0, madeCandidate(0), { view: owned, holdings: () => held([2, 3], 2) });
  ring.add(1, madeCandidate(1), { view: owned, holdings: () => held([2], 2) });
  ring.add(2, madeCandidate(2), { view: owned, holdings: () => held([], 2) });
  ring.cut.add(1);
  ring.suspect([1]);
  ring.pass(1_000);
  expect(ring.nodes.get(2)!.view).toMatchObject({ view: 2, restoreStep: 2, owners: [0] });
  ring.cut.clear();
  ring.cut.add(0);
  ring.suspect([0], [0]);
  ring.pass(2_000);
  expect(ring.nodes.get(2)!.view).toMatchObject({ view: 3, restoreStep: 2, owners: [2] });
  expect(ring.nodes.get(2)!.view.sources.map(({ holders }) => holders)).toEqual([[1], [1], [1]]);
});

test("words of another view reach no handler", () => {
  const view = madeView(3, { view: 5 });
  const ring = new Ring(3);
  const node = ring.add(1, madeCandidate(1), { view });
  const say = (of: number, message: MembershipMessage) =>
    node.handle({ kind: "message", from: 0, view: of, message, nowMs: 0 });
  const prepare = { kind: "prepare", ballot: 1024 } as const;
  expect(say(4, prepare)).toMatchObject([{ kind: "send", to: 0, view: 5, message: { kind: "decided", value: view } }]);
  expect(say(6, prepare)).toMatchObject([{ kind: "send", to: 0, view: 5, message: { kind: "behind" } }]);
  expect(say(4, { kind: "ready", isAnswer: true, known: [] })).toHaveLength(1);
  expect(node.describe()).toMatchObject({ isSealed: false, ready: [] });
  expect(say(4, { kind: "decided", value: madeView(3, { view: 4 }) }), "older than its own").toEqual([]);
  expect(say(5, prepare).map(({ kind }) => kind)).toContain("seal");
});

test("who has promised says READY no more, and begins nothing", () => {
  const ring = new Ring(3);
  const node = ring.add(1, madeCandidate(1), {});
  const say = (message: MembershipMessage) => node.handle({ kind: "message", from: 0, view: 1, message, nowMs: 0 });
  say({ kind: "prepare", ballot: 1024 });
  const outputs = [
    ...node.handle({ kind: "installed", view: 1 }),
    ...say({ kind: "ready", isAnswer: false, known: [] }),
    ...node.handle({
      kind: "message",
      from: 2,
      view: 1,
      message: { kind: "ready", isAnswer: true, known: [] },
      nowMs: 0,
    }),
  ];
  expect(outputs).toEqual([]);
});

test("layers of which nobody alive has a copy are told as lost", () => {
  const ring = new Ring(3);
  ring.cut.add(1);
  ring.add(2, madeCandidate(2, 1), { isMember: false, holdings: afterRestart });
  ring.suspect([1], [1]);
  ring.pass(9_000);
  expect(ring.members(0)).toEqual([0, 1, 2]);
  // Node 0 holds its own and a copy of node 2's.
  expect([...ring.out.values()].flat().find(({ kind }) => kind === "lost")).toEqual({ kind: "lost", layers: [1] });
});

test("no majority, and the dead alone held layers: lost, once the living have answered since", () => {
  const ring = new Ring(0);
  const view = madeView(5);
  ring.add(0, madeCandidate(0), { view });
  const evidence = { ...holdingsOf(view, 3), severed: [] };
  const losses = (): readonly MembershipOutput[] => ring.out.get(0)!.filter(({ kind }) => kind === "lost");
  /** Time passes until a new round begins, and node 3 alone answers in it. */
  const ask = (): void => {
    ring.out.set(0, []);
    for (let ticks = 0; ticks < 100; ticks += 1) {
      ring.pass(TICK_MS);
      const asked = ring.out.get(0)!.find(({ kind }) => kind === "persist");
      if (asked?.kind !== "persist" || asked.vote === null) continue;
      const message = { kind: "promise", ballot: asked.vote.promised, accepted: null, evidence } as const;
      ring.give(0, { kind: "message", from: 3, view: 1, message, nowMs: 0 });
      return;
    }
    throw new Error("no round began");
  };
  ring.give(0, { kind: "installed", view: 1 });
  ring.give(0, { kind: "settled", view: 1 });
  ring.suspect([1]);
  ask();
  // Node 3 may be in a next view by now, and have fetched from 2 what 1 and 2 held.
  ring.suspect([1, 2, 4], [1, 2, 4]);
  ring.pass(TICK_MS);
  expect(losses()).toEqual([]);
  ask();
  expect(losses()).toContainEqual({ kind: "lost", layers: [1] });
});

test("two members that do not reach each other begin a view: the third tells each that the other is ready", () => {
  const ring = new Ring(0);
  for (const node of [0, 1, 2]) ring.add(node, madeCandidate(node), {});
  ring.cutLines.push([0, 2]);
  for (const node of [0, 1, 2]) ring.give(node, { kind: "installed", view: 1 });
  ring.pass(500);
  for (const node of [0, 1, 2]) expect(ring.nodes.get(node)!.describe().phase).toBe("running");
});

describe("a member's install stands still", () => {
  function standing(ready: readonly number[]): Ring {
    const ring = new Ring(0);
    for (const node of [0, 1, 2]) ring.add(node, madeCandidate(node), {});
    for (const node of ready) ring.give(node, { kind: "installed", view: 1 });
    return ring;
  }

  test("where two say so, it is left out of the next view", () => {
    const ring = standing([0, 1]);
    ring.give(0, { kind: "still" });
    ring.pass(1_000);
    expect(ring.nodes.get(0)!.view.view, "one alone may be wrong").toBe(1);
    ring.give(2, { kind: "still" });
    ring.pass(1_000);
    expect(ring.members(0)).toEqual([0, 1]);
    expect(ring.nodes.get(0)!.view.removed).toEqual([{ node: 2, cause: "silent" }]);
  });

  test("and where it is ready at last, nobody goes", () => {
    const ring = standing([0, 1]);
    ring.give(0, { kind: "still" });
    ring.give(2, { kind: "installed", view: 1 });
    ring.give(1, { kind: "still" });
    ring.pass(1_000);
    expect(ring.nodes.get(0)!.view.view).toBe(1);
    expect(ring.nodes.get(0)!.describe().phase).toBe("running");
  });

  test("where nobody is ready, all try again", () => {
    const ring = standing([]);
    ring.give(0, { kind: "still" });
    ring.give(1, { kind: "still" });
    ring.pass(1_000);
    expect(ring.nodes.get(0)!.view.view).toBe(2);
    expect(ring.members(0)).toEqual([0, 1, 2]);
  });
});
