/** @file What the explorer is asked: small searches that end within a test run, and the wide ones of the campaign. */
import type { ExplorerBounds } from "./view-explorer.ts";
import { digestOf, madeView } from "./view-explorer-views.ts";

const NONE = {
  views: 1,
  proposals: 2,
  proposalsEach: 1,
  crashes: 0,
  failures: 0,
  mortal: [],
  steps: 0,
  statesMax: 20_000_000,
};
const EVEN = madeView(3);
/** Everybody holds everything. */
const FULL = madeView(3, { replicas: 2 });
/** Restored at version 4 from copies, not at its origin. */
const RESTORED = madeView(3, {
  restoreStep: 4,
  sources: [0, 1, 2].map((layer) => ({ holders: [layer, (layer + 1) % 3], digest: digestOf(layer, 4) })),
});
/** Node 0 alone holds anything. */
const SPARES = madeView(3, { owners: [0], cut: [[0, 2]], replicas: 0 });
/** Without replicas; node 2 has gone, with a copy of what the view began with. */
const DEPARTED = madeView(3, {
  ...{
    members: EVEN.members.slice(0, 2),
    departed: EVEN.members.slice(2),
    owners: [0, 1],
    restoreStep: 4,
    replicas: 0,
  },
  ...{
    cut: [
      [0, 1],
      [1, 2],
    ],
    sources: [0, 1].map((layer) => ({ holders: [layer, 2], digest: digestOf(layer, 4) })),
  },
});
/** Node 2 keeps a copy of node 1's layers. */
const ONE_SPARE = madeView(3, {
  owners: [0, 1],
  cut: [
    [0, 1],
    [1, 2],
  ],
});

/** About 850,000 states; three are breadth first up to a limit, and complete in the campaign. */
export const SMALL: readonly ExplorerBounds[] = [
  { ...NONE, name: "two rounds meet", view: EVEN },
  { ...NONE, name: "a proposer crashes", view: FULL, crashes: 1, mortal: [0], proposalsEach: 2, statesMax: 400_000 },
  { ...NONE, name: "a disk fails", view: EVEN, failures: 1, mortal: [1] },
  { ...NONE, name: "a step is committed", view: EVEN, proposals: 1, steps: 1, crashes: 1, mortal: [1] },
  { ...NONE, name: "idle spares", view: SPARES, steps: 1, proposals: 1, crashes: 1, mortal: [0] },
  {
    ...NONE,
    name: "a member crashes, an older copy is left",
    view: DEPARTED,
    steps: 1,
    crashes: 1,
    mortal: [0],
    statesMax: 60_000,
  },
  { ...NONE, name: "three rounds meet", view: EVEN, proposals: 3, statesMax: 130_000 },
  { ...NONE, name: "two views", view: RESTORED, views: 2, proposals: 1 },
];

const LIMIT = { statesMax: 3_000_000 };
const ALL = [0, 1, 2];

export const WIDE: readonly ExplorerBounds[] = [
  ...SMALL.map((bounds) => ({ ...bounds, statesMax: NONE.statesMax })),
  { ...NONE, name: "two ballots each", view: EVEN, proposals: 6, proposalsEach: 2, ...LIMIT },
  { ...NONE, name: "two crashes of one proposer", view: FULL, crashes: 2, mortal: [0], proposalsEach: 2, ...LIMIT },
  { ...NONE, name: "a voter crashes, two rounds", view: EVEN, crashes: 1, mortal: [2] },
  { ...NONE, name: "two voters crash, two rounds", view: EVEN, crashes: 2, mortal: [1, 2], ...LIMIT },
  { ...NONE, name: "a crash and a failing disk", view: EVEN, crashes: 1, failures: 1, mortal: [0], ...LIMIT },
  { ...NONE, name: "two rounds around a commit", view: EVEN, steps: 1, ...LIMIT },
  {
    ...NONE,
    name: "two crash around a commit",
    view: RESTORED,
    crashes: 2,
    mortal: ALL,
    proposals: 1,
    steps: 1,
    ...LIMIT,
  },
  { ...NONE, name: "a spare, a crash, a commit", view: ONE_SPARE, crashes: 1, mortal: [1], steps: 1, ...LIMIT },
  { ...NONE, name: "two views, a commit in each", view: RESTORED, views: 2, proposals: 1, steps: 2, ...LIMIT },
  { ...NONE, name: "two views, a crash", view: RESTORED, views: 2, proposals: 1, crashes: 1, mortal: [1], ...LIMIT },
  {
    ...NONE,
    name: "two views, two crashes, commits",
    view: FULL,
    views: 2,
    crashes: 2,
    mortal: ALL,
    steps: 2,
    ...LIMIT,
  },
];
