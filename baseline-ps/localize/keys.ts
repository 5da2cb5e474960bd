/** @file Which keys a request names: a range, or single ones in ascending order. */
import { UsageError } from "../../src/types/errors.ts";
import type { KeyRange } from "../core/ranges.ts";

/** Single keys are in ascending order, each once. */
export type Keys = KeyRange | ArrayLike<number>;

export const isRange = (keys: Keys): keys is KeyRange => "start" in keys;

export const countOf = (keys: Keys): number => (isRange(keys) ? keys.end - keys.start : keys.length);

/** @throws UsageError for none, and for what is no key or out of order. @param count keys are 0 to `count` - 1 */
export function checkKeys(what: string, keys: Keys, count: number): void {
  if (isRange(keys)) {
    const { start, end } = keys;
    const isWhole = Number.isInteger(start) && Number.isInteger(end);
    if (isWhole && start >= 0 && start < end && end <= count) return;
    throw new UsageError(
      `${what} of the range [${start}, ${end}): the keys are [0, ${count})`,
      "name keys that are there",
    );
  }
  if (keys.length === 0) throw new UsageError(`${what} of no key`, "name at least one");
  for (let place = 0; place < keys.length; place += 1) {
    const key = keys[place]!;
    if (!Number.isInteger(key) || key < 0 || key >= count) {
      throw new UsageError(`${what} of key ${key}: the keys are [0, ${count})`, "name keys that are there");
    }
    if (place > 0 && keys[place - 1]! >= key) {
      throw new UsageError(`${what}: key ${key} comes after ${keys[place - 1]}`, "sort the keys, and name each once");
    }
  }
}

export const listOf = (keys: Keys): readonly number[] =>
  isRange(keys) ? Array.from({ length: keys.end - keys.start }, (_, place) => keys.start + place) : Array.from(keys);
