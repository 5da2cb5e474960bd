/** @file Which server has which keys, and how requests are divided among them. */
import { describe, expect, test } from "vitest";
import { divideKeys, piecesOf, placesOf } from "../../baseline-ps/core/key-map.ts";

describe("shards", () => {
  test.each([
    [10, 1],
    [10, 3],
    [10, 10],
    [1_000_003, 7],
  ])("%i keys for %i servers: all, each once, as equal as they can be", (keys, servers) => {
    const { shards } = divideKeys(keys, servers);
    expect(shards).toHaveLength(servers);
    expect(shards[0]!.start).toBe(0);
    expect(shards.at(-1)!.end).toBe(keys);
    expect(shards.slice(1).map(({ start }) => start)).toEqual(shards.slice(0, -1).map(({ end }) => end));
    const sizes = shards.map(({ start, end }) => end - start);
    expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
  });

  test("more servers than keys are refused", () => {
    expect(() => divideKeys(3, 4)).toThrow("--servers 4 for 3 parameters");
  });
});

describe("a range", () => {
  const map = divideKeys(10, 3);

  test("becomes one message for each server that has keys of it", () => {
    for (let start = 0; start < 10; start += 1) {
      for (let end = start + 1; end <= 10; end += 1) {
        const pieces = piecesOf(map, { start, end });
        expect(new Set(pieces.map(({ server }) => server)).size).toBe(pieces.length);
        const keys = pieces.flatMap((piece) => {
          const { start: from, end: to } = piece.keys[0]!;
          expect(piece.keys).toHaveLength(1);
          expect(from).toBeGreaterThanOrEqual(map.shards[piece.server]!.start);
          expect(to).toBeLessThanOrEqual(map.shards[piece.server]!.end);
          return Array.from({ length: to - from }, (_, index) => from + index);
        });
        expect(keys).toEqual(Array.from({ length: end - start }, (_, index) => start + index));
      }
    }
  });

  test.each([
    [-1, 3],
    [3, 3],
    [4, 3],
    [0, 11],
    [0.5, 3],
    [Number.NaN, 3],
  ])("[%d, %d) is refused", (start, end) => {
    expect(() => piecesOf(map, { start, end })).toThrow(`the range [${start}, ${end}) is no part of the keys [0, 10)`);
  });
});

describe("sorted keys", () => {
  const map = divideKeys(10, 3);

  test("go to the servers that have them", () => {
    expect(placesOf(map, [])).toEqual([]);
    expect(placesOf(map, [0, 2, 3, 9])).toEqual([
      { server: 0, from: 0, to: 2 },
      { server: 1, from: 2, to: 3 },
      { server: 2, from: 3, to: 4 },
    ]);
    expect(placesOf(map, Uint32Array.of(7))).toEqual([{ server: 2, from: 0, to: 1 }]);
  });

  test.each([
    [[2, 1], "key 1 comes after 2"],
    [[1, 1], "key 1 comes after 1"],
    [[10], "key 10 is none of [0, 10)"],
    [[-1], "key -1 is none of"],
    [[0.5], "key 0.5 is none of"],
  ])("%j are refused", (keys, cause) => {
    expect(() => placesOf(map, keys)).toThrow(cause);
  });
});
