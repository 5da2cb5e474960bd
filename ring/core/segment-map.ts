/**
 * @file Which layers lie where after nodes have gone: a pure function of the old map and of who is left. A spare takes a dead owner's place; else
 * its stages are merged into their neighbours in layer order, stage by stage, since with laps a node holds several.
 */
import { assert } from "../../src/types/assert.ts";
import type { LayerRange } from "./partition.ts";

export interface SegmentMap {
  /** Nodes in ring order. */
  readonly members: readonly number[];
  /** Those that hold layers, in ring order. */
  readonly owners: readonly number[];
  /** One range a stage: stage `s` lies on `owners[s mod owners]`. */
  readonly cut: readonly LayerRange[];
}

/**
 * The layers of a dead node's stage go to the next surviving stage in layer order, and where none survives after it to the nearest before.
 * @param survivors nodes of the old map, at least one
 */
export function mapWithout(old: SegmentMap, survivors: ReadonlySet<number>): SegmentMap {
  const { members, owners } = withSpares(old, survivors);
  const laps = old.cut.length / old.owners.length;
  assert(Number.isInteger(laps), "every owner has a stage on every lap");
  const isLeft = owners.map((owner) => survivors.has(owner));
  assert(isLeft.includes(true), "somebody is left");
  const cut: [number, number][] = [];
  let openStart: number | undefined;
  for (const [stage, [start, end]] of old.cut.entries()) {
    if (isLeft[stage % owners.length] === true) {
      cut.push([openStart ?? start, end]);
      openStart = undefined;
    } else {
      openStart ??= start;
    }
  }
  if (openStart !== undefined) cut.at(-1)![1] = old.cut.at(-1)![1];
  return { members: members.filter((node) => survivors.has(node)), owners: owners.filter((_, i) => isLeft[i]), cut };
}

/** Each dead owner's place on the ring is taken by a surviving spare, as long as there are any. */
function withSpares(old: SegmentMap, survivors: ReadonlySet<number>): Pick<SegmentMap, "members" | "owners"> {
  const spares = old.members.filter((node) => survivors.has(node) && !old.owners.includes(node));
  const substitutes = new Map<number, number>();
  for (const owner of old.owners) {
    const spare = survivors.has(owner) ? undefined : spares.shift();
    if (spare !== undefined) substitutes.set(owner, spare);
  }
  const taken = new Set(substitutes.values());
  const substituteOf = (node: number): number => substitutes.get(node) ?? node;
  return {
    members: old.members.filter((node) => !taken.has(node)).map(substituteOf),
    owners: old.owners.map(substituteOf),
  };
}
