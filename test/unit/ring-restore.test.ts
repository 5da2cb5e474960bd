/** @file The restore-evidence rule against a slow reading of it, and nextView: what it proposes is a function of its arguments. */
import { describe, expect, test } from "vitest";
import { nextView } from "../../ring/core/next-view.ts";
import { restoreFrom, type Answer, type HeldVersion, type Restore } from "../../ring/core/restore.ts";
import type { RingView } from "../../ring/core/view.ts";
import { RandomStream } from "../../src/types/random.ts";
import { digestOf, madeCandidate, madeMember, madeView } from "../helpers/view-explorer-views.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const CASES = 2_000;
const VERSIONS = [3, 4, 5, 6];

interface Case {
  readonly view: RingView;
  readonly answers: readonly Answer[];
  readonly dead: readonly number[];
}

function draw(random: RandomStream): Case {
  const size = 1 + random.nextBelow(4);
  const isOrigin = random.nextBelow(2) === 0;
  const sources = Array.from({ length: size }, (_, layer) => ({ holders: [layer], digest: digestOf(layer, 3) }));
  const departed = [madeMember(7)];
  const view = madeView(size, { restoreStep: 3, sources: isOrigin ? [] : sources, departed });
  const nodes = [...view.members, ...departed].map(({ node }) => node).filter(() => random.nextBelow(4) > 0);
  const copyOf = (layer: number, version: number): HeldVersion => {
    return { version, digest: random.nextBelow(25) === 0 ? "f".repeat(32) : digestOf(layer, version) };
  };
  const answers = nodes.map((node) => {
    const held = sources.map((_, layer) =>
      VERSIONS.filter(() => random.nextBelow(2) === 0).map((v) => copyOf(layer, v)),
    );
    const bound = node === 7 || random.nextBelow(3) === 0 ? null : 3 + random.nextBelow(3);
    return {
      node,
      evidence: {
        bound,
        committed: random.nextBelow(3) === 0 ? 3 + random.nextBelow(3) : 0,
        losses: [],
        held,
        severed: [],
      },
    };
  });
  const peers = [...view.members, ...departed].map(({ node }) => node);
  return { view, answers, dead: peers.filter((node) => !nodes.includes(node) && random.nextBelow(2) === 0) };
}

/** The step; -1: its origin; undefined: wait. */
function oracle({ view, answers, dead }: Case): number | undefined {
  const bounds = answers.filter(({ node }) => node !== 7).flatMap(({ evidence }) => evidence.bound ?? []);
  const areAllHere = view.members.every(({ node }) => answers.some((answer) => answer.node === node));
  if (bounds.length === 0 && !areAllHere) return undefined;
  let least = bounds.length === 0 ? 0 : Math.min(...bounds);
  const members = answers.filter(({ node, evidence }) => node !== 7 && evidence.bound !== null);
  const isDisputed = (version: number): boolean =>
    view.cut.some((_, layer) => {
      const copies = members.flatMap(({ evidence }) =>
        evidence.held[layer]!.filter((copy) => copy.version === version),
      );
      return new Set(copies.map(({ digest }) => digest)).size > 1;
    });
  // No owner lets a version be committed of which a copy differs.
  for (const version of VERSIONS.toReversed()) if (isDisputed(version)) least = Math.min(least, version - 1);
  for (const { evidence } of answers) least = Math.max(least, evidence.committed);
  const counted = new Map<number, number>();
  for (const version of VERSIONS.filter((each) => each >= least)) {
    const counts = view.cut.map((_, layer) => {
      const copies = answers.flatMap(({ evidence }) =>
        evidence.held[layer]!.filter((copy) => copy.version === version),
      );
      const isSound = copies.every(({ digest }) => digest === copies[0]!.digest);
      return isSound ? Math.min(copies.length, view.replicas + 1) : 0;
    });
    const sum = counts.reduce((total, count) => total + count, 0);
    if (!counts.includes(0)) counted.set(version, sum);
  }
  const most = Math.max(...counted.values());
  const equals = [...counted.keys()].filter((version) => counted.get(version) === most);
  const isFull = most === view.cut.length * (view.replicas + 1);
  const isSilent = (node: number): boolean => !dead.includes(node) && !answers.some((answer) => answer.node === node);
  let best = equals.at(-1);
  if (!isFull && isSilent(7) && equals.includes(3)) best = 3;
  if (!isFull && view.members.some(({ node }) => isSilent(node))) best = equals[0];
  return view.sources.length === 0 && view.restoreStep >= least && !isFull ? -1 : best;
}

const stepOf = (restore: Restore): number | undefined =>
  restore.kind === "wait" ? undefined : restore.sources.length === 0 ? -1 : restore.step;

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("%s seed %i", (_, seed) => {
  test("restores as the rule reads", () => {
    const kinds = new Set<number | undefined>();
    for (let index = 0; index < CASES; index += 1) {
      const drawn = draw(new RandomStream(seed, index));
      const { view, answers, dead } = drawn;
      const restore = restoreFrom(view, answers, dead);
      expect(stepOf(restore), `case ${index}`).toBe(oracle(drawn));
      kinds.add(stepOf(restore));
      if (restore.kind === "wait") continue;
      for (const [layer, { holders, digest }] of restore.sources.entries()) {
        const isHolder = ({ node, evidence }: Answer): boolean =>
          evidence.held[layer]!.some(
            (copy) => copy.version === restore.step && copy.digest === digest && holders.includes(node),
          );
        expect(answers.filter(isHolder).map(({ node }) => node)).toEqual(holders);
      }
    }
    expect(kinds.size, "all kinds of answers occur").toBeGreaterThan(4);
  });

  test("a proposal follows from its arguments, and has one stage at each owner", () => {
    for (let index = 0; index < CASES; index += 1) {
      const { view, answers } = draw(new RandomStream(seed, index));
      const wishes = {
        joiners: [madeCandidate(7, 1), madeCandidate(8)],
        leavers: index % 3 === 0 ? [1] : [],
        stragglers: [],
        map: null,
      };
      const frozen = JSON.stringify([view, answers, wishes]);
      const proposal = nextView(view, answers, wishes, [], 2);
      expect(nextView(view, answers, wishes, [], 2)).toEqual(proposal);
      expect(JSON.stringify([view, answers, wishes])).toBe(frozen);
      if (proposal.kind === "wait") continue;
      const { members, departed, owners, voters, replicas, removed } = proposal.view;
      expect(members.at(-1), "one joiner a view, with its old number").toEqual(madeMember(7, 1));
      const known = [...members, ...departed].map(({ node }) => node);
      expect(new Set(known).size, "nobody is lost or twice").toBe(view.members.length + 1);
      expect(owners.every((node) => members.some((member) => member.node === node))).toBe(true);
      expect(owners).not.toContain(7);
      expect(replicas).toBe(Math.min(2, members.length - 1));
      expect(voters.length).toBeGreaterThanOrEqual(Math.min(3, view.voters.length));
      expect(removed.length).toBe(view.members.length - members.length + 1);
    }
  });
});

const whole = (node: number, bound: number | null, versions: readonly number[]): Answer => {
  const held = [0, 1, 2].map((layer) => versions.map((version) => ({ version, digest: digestOf(layer, version) })));
  return { node, evidence: { bound, committed: 0, losses: [], held, severed: [] } };
};

const sourcesAt = (version: number) =>
  [0, 1, 2].map((layer) => ({ holders: [0, 1], digest: digestOf(layer, version) }));

const NO_WISHES = { joiners: [], leavers: [], stragglers: [], map: null };

test("a spare for which no commit waits bounds nothing, and stays", () => {
  const view = madeView(3, { owners: [0], cut: [[0, 3]], replicas: 0 });
  // Nobody else knows what node 0 has committed.
  const spares = [whole(1, 0, []), whole(2, 0, [])];
  expect(restoreFrom(view, spares, [])).toMatchObject({ kind: "wait", missing: [0, 1, 2] });
  const proposal = nextView(view, [whole(0, 2, [1, 2]), whole(1, 0, []), whole(2, 0, [])], NO_WISHES, [], 0);
  expect(proposal).toMatchObject({ kind: "view", view: { restoreStep: 2, removed: [] } });
});

test.each<readonly [string, readonly (readonly [number, number])[], readonly number[]]>([
  ["of a cut line the end that is later on the ring goes", [[0, 1]], [1]],
  ["whoever of the two tells it", [[3, 1]], [3]],
  [
    "told by both it is one line",
    [
      [0, 1],
      [1, 0],
      [1, 2],
    ],
    [1],
  ],
  [
    "who has most goes first",
    [
      [0, 1],
      [0, 2],
      [0, 3],
    ],
    [0],
  ],
  [
    "lines apart cost one end each",
    [
      [0, 1],
      [2, 3],
    ],
    [1, 3],
  ],
  ["a line to who has not answered costs nobody else", [[0, 4]], [4]],
])("%s", (_, lines, gone) => {
  const view = madeView(5);
  const answers = [0, 1, 2, 3].map((node) => {
    const { evidence } = whole(node, 1, [1]);
    const severed = lines.filter(([by]) => by === node).map(([, other]) => other);
    const held = Array.from({ length: 5 }, (__, layer) => [{ version: 1, digest: digestOf(layer, 1) }]);
    return { node, evidence: { ...evidence, held, severed } };
  });
  const proposal = nextView(view, answers, NO_WISHES, [], 2);
  const removed = [...new Set([...gone, 4])].map((node) => ({ node, cause: "silent" }));
  expect(proposal).toMatchObject({ kind: "view", view: { removed } });
});

test("the only copy of something newer does not take the place of what a silent node may hold", () => {
  const view = madeView(3, { owners: [0], cut: [[0, 3]], sources: sourcesAt(1), restoreStep: 1 });
  const answers = [whole(0, 2, [2, 3]), whole(2, 1, [])];
  expect(stepOf(restoreFrom(view, answers, []))).toBe(2);
  expect(stepOf(restoreFrom(view, answers, [1])), "a dead one holds nothing").toBe(3);
  expect(stepOf(restoreFrom(view, [whole(0, 3, [2, 3]), whole(2, 1, [])], [])), "an idle spare bounds nothing").toBe(3);
  const isCopied = [whole(0, 2, [2, 3]), whole(2, 1, [2, 3])];
  expect(stepOf(restoreFrom(view, isCopied, [])), "copied often enough").toBe(3);
});

test("nobody who holds anything is left: all layers are missing", () => {
  const view = madeView(3, { sources: sourcesAt(1), restoreStep: 1, departed: [madeMember(7)] });
  const restarted = [0, 1, 2].map((node) => ({ node, evidence: { ...whole(node, 0, []).evidence, bound: null } }));
  const proposal = nextView(view, [...restarted, whole(7, 0, [1])], NO_WISHES, [], 1);
  expect(proposal).toMatchObject({ kind: "wait", missing: [0, 1, 2] });
});

test("who has departed keeps only what a view was restored from", () => {
  const departed = [madeMember(7)];
  const view = madeView(2, { departed, owners: [0], cut: [[0, 3]], sources: sourcesAt(2), restoreStep: 2 });
  const step = (versions: readonly number[]) => stepOf(restoreFrom(view, [whole(0, 2, versions)], [1]));
  expect(step([2, 3])).toBe(2);
  expect(step([3, 4])).toBe(4);
});

test("of former voters that fill in those who have answered come first", () => {
  const view = madeView(1, { departed: [madeMember(1), madeMember(2)], voters: [0, 1, 2], cut: [[0, 3]] });
  const wishes = { joiners: [madeCandidate(3)], leavers: [], stragglers: [], map: null };
  const proposal = nextView(view, [whole(0, 1, [1]), whole(2, null, [])], wishes, [], 1);
  expect(proposal.kind === "view" && proposal.view.voters).toEqual([0, 3, 2]);
});

test("an unknown joiner has the first number that nobody has had", () => {
  const view = madeView(2, {
    departed: [madeMember(5)],
    cut: [
      [0, 2],
      [2, 3],
    ],
  });
  const wishes = { joiners: [madeCandidate(9)], leavers: [], stragglers: [], map: null };
  const proposal = nextView(view, [whole(0, 1, [1]), whole(1, 1, [1])], wishes, [], 1);
  expect(proposal.kind === "view" && proposal.view.members.at(-1)).toEqual({ ...madeCandidate(9), node: 6 });
});

test("why a member is gone", () => {
  const view = madeView(3);
  const wishes = { joiners: [], leavers: [2], stragglers: [], map: null };
  const proposal = nextView(view, [whole(0, 1, [1]), whole(2, 1, [1])], wishes, [1], 1);
  const removed = [
    { node: 1, cause: "closed" },
    { node: 2, cause: "left" },
  ];
  expect(proposal.kind === "view" && proposal.view.removed).toEqual(removed);
  const silent = nextView(view, [whole(0, 1, [1]), whole(2, null, [])], { ...wishes, leavers: [] }, [], 1);
  expect(silent.kind === "view" && silent.view.removed).toEqual([
    { node: 1, cause: "silent" },
    { node: 2, cause: "closed" },
  ]);
});
