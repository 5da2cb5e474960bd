/**
 * @file Which server has which keys: contiguous shards, as equal as whole keys can be, each with a server that takes its requests. A request for any
 * range becomes one message for each server that has keys of it (Li 2014, section 3.2: range push and pull).
 */
import { UsageError } from "../../src/types/errors.ts";
import type { KeyRange, RangeSet } from "./ranges.ts";
import { intersection, union } from "./ranges.ts";

export interface KeyMap {
  /** Keys are 0 to `keys` - 1. */
  readonly keys: number;
  /** In order; together all keys. */
  readonly shards: readonly KeyRange[];
  /** The server of each shard. */
  readonly heads: readonly number[];
}

/** The part of a request that one server answers. */
export interface Piece {
  readonly server: number;
  readonly keys: RangeSet;
}

/**
 * Neighbouring shards on one server, so that most requests are one range for each.
 * @param shardsEach shards of each server, fewer where there are not as many keys
 * @throws UsageError for more servers than keys
 */
export function divideKeys(keys: number, servers: number, shardsEach = 1): KeyMap {
  if (servers > keys) {
    throw new UsageError(
      `--servers ${servers} for ${keys} ${keys === 1 ? "parameter" : "parameters"}: a server without any would have nothing to do`,
      `use --servers ${keys} or fewer`,
    );
  }
  const count = Math.min(keys, servers * shardsEach);
  const bound = (shard: number): number => Math.floor((shard * keys) / count);
  const shards = Array.from({ length: count }, (_, shard) => ({ start: bound(shard), end: bound(shard + 1) }));
  return { keys, shards, heads: shards.map((_, shard) => Math.floor((shard * servers) / count)) };
}

/** Keys of which the server takes requests. */
export function keysOf({ shards, heads }: KeyMap, server: number): RangeSet {
  return shards.reduce<RangeSet>((all, shard, index) => (heads[index] === server ? union(all, [shard]) : all), []);
}

/** The `count` keys of a set that begin with `start`; fewer, where there are not so many. */
export function keysFrom(set: RangeSet, start: number, count: number): RangeSet {
  const taken: KeyRange[] = [];
  let left = count;
  for (const range of intersection(set, [{ start, end: Infinity }])) {
    if (left <= 0) break;
    taken.push({ start: range.start, end: Math.min(range.end, range.start + left) });
    left -= range.end - range.start;
  }
  return taken;
}

/**
 * A range by server, in their order.
 * @throws UsageError for a range that is empty or reaches out of the keys
 */
export function piecesOf({ keys, shards, heads }: KeyMap, range: KeyRange): readonly Piece[] {
  const { start, end } = range;
  const isWhole = Number.isSafeInteger(start) && Number.isSafeInteger(end);
  if (!isWhole || start < 0 || end > keys || start >= end) {
    throw new UsageError(
      `the range [${start}, ${end}) is no part of the keys [0, ${keys})`,
      "give whole numbers, the first below the second, both within the keys",
    );
  }
  const pieces = new Map<number, RangeSet>();
  for (const [index, shard] of shards.entries()) {
    const part = intersection([range], [shard]);
    const server = heads[index]!;
    if (part.length > 0) pieces.set(server, union(pieces.get(server) ?? [], part));
  }
  return [...pieces].map(([server, part]) => ({ server, keys: part })).toSorted((a, b) => a.server - b.server);
}

/** Of a list of keys those from the place `from`, up to and without `to`. */
export interface Places {
  readonly server: number;
  readonly from: number;
  readonly to: number;
}

/**
 * Sorted keys by server, in order. A server without any of them is left out; one whose keys are no neighbours may come more than once.
 * @throws UsageError where keys are not strictly ascending, or out of the map
 */
export function placesOf(map: KeyMap, keys: ArrayLike<number>): readonly Places[] {
  for (let place = 0; place < keys.length; place += 1) checkKey(map, keys, place);
  const places: Places[] = [];
  let from = 0;
  for (const [shard, { end }] of map.shards.entries()) {
    let to = from;
    while (to < keys.length && keys[to]! < end) to += 1;
    const server = map.heads[shard]!;
    const last = places.at(-1);
    if (to > from && last?.server === server) places[places.length - 1] = { ...last, to };
    else if (to > from) places.push({ server, from, to });
    from = to;
  }
  return places;
}

function checkKey(map: KeyMap, keys: ArrayLike<number>, place: number): void {
  const key = keys[place]!;
  if (!Number.isInteger(key) || key < 0 || key >= map.keys) {
    throw new UsageError(`key ${key} is none of [0, ${map.keys})`, "give keys of the model");
  }
  if (place > 0 && keys[place - 1]! >= key) {
    throw new UsageError(
      `key ${key} comes after ${keys[place - 1]}: keys are in ascending order, each once`,
      "sort the keys, and add up the values of equal ones",
    );
  }
}
