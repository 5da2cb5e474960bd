/** @file What follows from a decided view. */
import { expect, test } from "vitest";
import {
  holdsLayers,
  isMove,
  isWriter,
  majorityOf,
  ownedBy,
  replicaHolders,
  replicasAt,
  votersOf,
} from "../../ring/core/view.ts";
import { evenCut, madeMember, madeView } from "../helpers/view-explorer-views.ts";

test("who holds copies and what copies a node holds are inverse, for every ring, spare and number of replicas", () => {
  for (let size = 1; size <= 6; size += 1) {
    for (let owning = 1; owning < 1 << size; owning += 1) {
      for (let replicas = 0; replicas < size; replicas += 1) {
        const members = Array.from({ length: size }, (_, node) => madeMember((node * 3 + 1) % 7));
        const owners = members.map(({ node }) => node).filter((_, place) => (owning >> place) % 2 === 1);
        const view = madeView(size, { members, owners, cut: evenCut(owners.length * 2), replicas });
        for (const { node } of members) {
          const copied = new Set(replicasAt(view, node).map(({ owner }) => owner));
          for (const owner of owners) {
            expect(copied.has(owner)).toBe(replicaHolders(view, owner).includes(node));
            if (!copied.has(owner)) continue;
            const layers = replicasAt(view, node).filter((held) => held.owner === owner);
            expect(layers.map((held) => held.layers)).toEqual(ownedBy(view, owner));
          }
          expect(holdsLayers(view, node)).toBe(owners.includes(node) || copied.size > 0);
        }
        expect(replicaHolders(view, owners[0]!)).not.toContain(owners[0]);
      }
    }
  }
  expect(holdsLayers(madeView(3), 9), "a stranger holds nothing").toBe(false);
});

test("voters: all up to sixteen, then seven spread round the ring, and never fewer than three if there were", () => {
  const nodes = (count: number): number[] => Array.from({ length: count }, (_, node) => node);
  expect(votersOf(nodes(16), [], [])).toEqual(nodes(16));
  const many = votersOf(nodes(40), [], nodes(7));
  expect(new Set(many).size).toBe(7);
  expect(many.slice(1).every((voter, index) => voter - many[index]! >= 5)).toBe(true);
  expect(votersOf([4], [1, 2, 3], [1, 4, 2, 3])).toEqual([4, 1, 2]);
  expect(votersOf([4, 2], [1, 3], [4, 3])).toEqual([4, 2, 3]);
  expect(votersOf([4], [9], [4]), "who did not vote before does not now").toEqual([4]);
});

test("two majorities share a voter", () => {
  for (let count = 1; count <= 20; count += 1) {
    const majority = majorityOf(Array.from({ length: count }, (_, node) => node));
    expect(2 * majority).toBeGreaterThan(count);
    expect(majority, "half of the voters may be gone").toBe(Math.ceil((count + 1) / 2));
  }
});

test("of each machine's members the lowest writes, and nobody else", () => {
  const members = [4, 1, 3, 2, 0].map((node) => ({ ...madeMember(node), machine: node < 2 ? "here" : "there" }));
  const view = madeView(5, { members });
  const writers = members.filter(({ peerId }) => isWriter(view, peerId)).map(({ node }) => node);
  expect(writers).toEqual([2, 0]);
  expect(isWriter(view, "a stranger")).toBe(false);
});

test("a move is another cut for the same members", () => {
  const view = madeView(3, { cut: evenCut(3) });
  const recut = {
    ...view,
    view: 1,
    cut: [
      [0, 2],
      [2, 3],
      [3, 4],
    ] as const,
  };
  expect(isMove(view, recut)).toBe(true);
  expect(isMove(view, { ...view, view: 1 })).toBe(false);
  expect(isMove(view, { ...recut, members: view.members.slice(1) })).toBe(false);
});
