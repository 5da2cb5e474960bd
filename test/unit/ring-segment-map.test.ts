/** @file Layers after losses, in every order of deaths on small rings: covered once, in order, one stage a lap for each owner, merged with neighbours only. */
import { expect, test } from "vitest";
import { mapWithout, type SegmentMap } from "../../ring/core/segment-map.ts";
import { evenCut } from "../helpers/view-explorer-views.ts";

const ownersOfLayers = ({ owners, cut }: SegmentMap): number[] =>
  cut.flatMap(([start, end], stage) => Array<number>(end - start).fill(owners[stage % owners.length]!));

/** Layer by layer: kept where its owner lives, else that of the next layer with a live owner, else of the one before. */
function oracle(old: SegmentMap, survivors: ReadonlySet<number>): number[] {
  const before = ownersOfLayers(old);
  return before.map((_, layer) => {
    const after = before.slice(layer).find((owner) => survivors.has(owner));
    return after ?? before.findLast((owner) => survivors.has(owner))!;
  });
}

function check(old: SegmentMap, next: SegmentMap, survivors: ReadonlySet<number>, laps: number): void {
  expect(next.cut[0]![0]).toBe(0);
  expect(next.cut.at(-1)![1]).toBe(old.cut.at(-1)![1]);
  for (const [index, [start, end]] of next.cut.entries()) {
    expect(end).toBeGreaterThan(start);
    if (index > 0) expect(start).toBe(next.cut[index - 1]![1]);
  }
  expect(next.cut.length, "a stage on every lap").toBe(laps * next.owners.length);
  expect(new Set(next.members)).toEqual(survivors);
  expect(next.members.length).toBe(survivors.size);
  expect(next.owners, "in ring order").toEqual(next.members.filter((node) => next.owners.includes(node)));
}

test.each([1, 2, 3])("every order of deaths, %i laps, up to six nodes", (laps) => {
  const walk = (map: SegmentMap): void => {
    for (const dead of map.members.length > 1 ? map.members : []) {
      const survivors = new Set(map.members.filter((node) => node !== dead));
      const next = mapWithout(map, survivors);
      check(map, next, survivors, laps);
      expect(ownersOfLayers(next)).toEqual(oracle(map, survivors));
      walk(next);
    }
  };
  for (let nodes = 1; nodes <= (laps === 1 ? 6 : 5); nodes += 1) {
    const members = Array.from({ length: nodes }, (_, node) => node);
    walk({ members, owners: members, cut: evenCut(nodes * laps, 2) });
  }
});

test.each([1, 2, 3])("every set of deaths at once, %i laps, with spares", (laps) => {
  for (let nodes = 1; nodes <= 6; nodes += 1) {
    const members = Array.from({ length: nodes }, (_, node) => (node * 5) % 7);
    for (let owning = 1; owning < 1 << nodes; owning += 1) {
      const owners = members.filter((_, place) => (owning >> place) % 2 === 1);
      const map = { members, owners, cut: evenCut(owners.length * laps) };
      for (let living = 1; living < 1 << nodes; living += 1) {
        const survivors = new Set(members.filter((_, place) => (living >> place) % 2 === 1));
        const next = mapWithout(map, survivors);
        check(map, next, survivors, laps);
        expect(next.owners.length, "spares substitute").toBe(Math.min(owners.length, survivors.size));
      }
    }
  }
});
