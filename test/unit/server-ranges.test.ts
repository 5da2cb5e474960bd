/** @file Sets of key ranges and levels, against lists of single keys. */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import {
  difference,
  intersection,
  isCovered,
  isSet,
  type KeyRange,
  Levels,
  type RangeSet,
  sizeOf,
  union,
} from "../../baseline-ps/core/ranges.ts";
import { RandomStream } from "../../src/types/random.ts";

const KEYS = 12;
const ROUNDS = 3_000;

function setOf(keys: readonly boolean[]): RangeSet {
  const ranges: KeyRange[] = [];
  for (const [start, isIn] of keys.entries()) {
    if (!isIn || keys[start - 1] === true) continue;
    let end = start;
    while (keys[end] === true) end += 1;
    ranges.push({ start, end });
  }
  return ranges;
}

const draw = (random: RandomStream): boolean[] => Array.from({ length: KEYS }, () => random.nextBelow(2) === 0);

for (const seed of [1, randomInt(1_000_000_000)]) {
  test(`sets are those of their keys (seed ${seed})`, () => {
    const random = new RandomStream(seed, 1_002);
    for (let round = 0; round < ROUNDS; round += 1) {
      const [a, b] = [draw(random), draw(random)];
      const both = (keep: (inA: boolean, inB: boolean) => boolean): RangeSet =>
        setOf(a.map((inA, key) => keep(inA, b[key]!)));
      expect(union(setOf(a), setOf(b))).toEqual(both((inA, inB) => inA || inB));
      expect(intersection(setOf(a), setOf(b))).toEqual(both((inA, inB) => inA && inB));
      expect(difference(setOf(a), setOf(b))).toEqual(both((inA, inB) => inA && !inB));
      expect(isCovered(setOf(a), setOf(b))).toBe(a.every((inA, key) => !inA || b[key]!));
      expect(sizeOf(setOf(a))).toBe(a.filter(Boolean).length);
    }
  });

  test(`levels are those of their keys (seed ${seed})`, () => {
    const random = new RandomStream(seed, 1_003);
    const levels = new Levels([{ start: 0, end: KEYS, level: 0 }]);
    const known = Array.from({ length: KEYS }, () => 0);
    for (let round = 0; round < 300; round += 1) {
      const raised = draw(random);
      levels.raise(setOf(raised));
      for (const [key, isRaised] of raised.entries()) if (isRaised) known[key]! += 1;
      const asked = draw(random).with(random.nextBelow(KEYS), true);
      const found = known.filter((_, key) => asked[key]);
      expect(levels.least(setOf(asked))).toBe(Math.min(...found));
      expect(levels.leastOf([...asked.keys()].filter((key) => asked[key]))).toBe(Math.min(...found));
      const parts = [...new Set(found)]
        .toSorted((x, y) => x - y)
        .map((level) => {
          return { level, keys: setOf(known.map((each, key) => asked[key]! && each === level)) };
        });
      expect(levels.parts(setOf(asked))).toEqual(parts);
      expect(levels.at(known[0]!, setOf(asked))).toEqual(
        setOf(known.map((each, key) => asked[key]! && each === known[0])),
      );
    }
  });
}

test.each([
  [[], true],
  [[{ start: 0, end: 1 }], true],
  [
    [
      { start: 0, end: 1 },
      { start: 2, end: 9 },
    ],
    true,
  ],
  [
    [
      { start: 0, end: 1 },
      { start: 1, end: 2 },
    ],
    false,
  ],
  [
    [
      { start: 3, end: 4 },
      { start: 0, end: 1 },
    ],
    false,
  ],
  [[{ start: 3, end: 3 }], false],
  [[{ start: -1, end: 3 }], false],
  [[{ start: 0.5, end: 3 }], false],
  [[{ start: 0, end: Number.NaN }], false],
] as const)("%j is a set: %s", (ranges, expected) => expect(isSet(ranges)).toBe(expected));
