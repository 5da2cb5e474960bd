/**
 * @file Which server has which keys: contiguous shards, as equal as whole keys can be. A request for any range becomes one message for each
 * server that has keys of it (Li 2014, section 3.2: range push and pull).
 */
import { UsageError } from "../../src/types/errors.ts";
import type { KeyRange, RangeSet } from "./ranges.ts";
import { intersection } from "./ranges.ts";

export interface KeyMap {
  /** Keys are 0 to `keys` - 1. */
  readonly keys: number;
  /** Of each server, in order; together all keys. */
  readonly shards: readonly KeyRange[];
}

/** The part of a request that one server answers. */
export interface Piece {
  readonly server: number;
  readonly keys: RangeSet;
}

/** @throws UsageError for more servers than keys */
export function divideKeys(keys: number, servers: number): KeyMap {
  if (servers > keys) {
    throw new UsageError(
      `--servers ${servers} for ${keys} ${keys === 1 ? "parameter" : "parameters"}: a server without any would have nothing to do`,
      `use --servers ${keys} or fewer`,
    );
  }
  const bound = (server: number): number => Math.floor((server * keys) / servers);
  const shards = Array.from({ length: servers }, (_, server) => ({ start: bound(server), end: bound(server + 1) }));
  return { keys, shards };
}

/**
 * A range by server, in their order.
 * @throws UsageError for a range that is empty or reaches out of the keys
 */
export function piecesOf({ keys, shards }: KeyMap, range: KeyRange): readonly Piece[] {
  const { start, end } = range;
  const isWhole = Number.isSafeInteger(start) && Number.isSafeInteger(end);
  if (!isWhole || start < 0 || end > keys || start >= end) {
    throw new UsageError(
      `the range [${start}, ${end}) is no part of the keys [0, ${keys})`,
      "give whole numbers, the first below the second, both within the keys",
    );
  }
  const pieces = shards.map((shard, server) => ({ server, keys: intersection([range], [shard]) }));
  return pieces.filter((piece) => piece.keys.length > 0);
}

/**
 * Sorted keys by server: `[from, to)` are places in `keys`. A server without any of them is left out.
 * @throws UsageError where keys are not strictly ascending, or out of the map
 */
export function placesOf(
  map: KeyMap,
  keys: ArrayLike<number>,
): readonly { readonly server: number; readonly from: number; readonly to: number }[] {
  for (let place = 0; place < keys.length; place += 1) checkKey(map, keys, place);
  const places: { server: number; from: number; to: number }[] = [];
  let from = 0;
  for (const [server, { end }] of map.shards.entries()) {
    let to = from;
    while (to < keys.length && keys[to]! < end) to += 1;
    if (to > from) places.push({ server, from, to });
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
