/**
 * @file Ranges of keys, and sets of them: sorted, disjoint, none empty, none touching the next. Sets stay as small as the number of layers, so
 * arrays and linear walks are enough.
 */
/** Keys from `start` up to, without, `end`. */
export interface KeyRange {
  readonly start: number;
  readonly end: number;
}

export type RangeSet = readonly KeyRange[];

export const sizeOf = (set: RangeSet): number => set.reduce((sum, { start, end }) => sum + end - start, 0);

export const union = (a: RangeSet, b: RangeSet): RangeSet => combine(a, b, (inA, inB) => inA || inB);
export const intersection = (a: RangeSet, b: RangeSet): RangeSet => combine(a, b, (inA, inB) => inA && inB);
export const difference = (a: RangeSet, b: RangeSet): RangeSet => combine(a, b, (inA, inB) => inA && !inB);

export const isCovered = (inner: RangeSet, outer: RangeSet): boolean => difference(inner, outer).length === 0;

/** The keys of which `keep` holds, given whether they are in each of the sets; false for keys in neither. */
function combine(a: RangeSet, b: RangeSet, keep: (inA: boolean, inB: boolean) => boolean): RangeSet {
  const bounds = [...new Set([...a, ...b].flatMap(({ start, end }) => [start, end]))].toSorted((x, y) => x - y);
  const kept: { start: number; end: number }[] = [];
  let [inA, inB] = [0, 0];
  for (const [index, start] of bounds.slice(0, -1).entries()) {
    const end = bounds[index + 1]!;
    while (inA < a.length && a[inA]!.end <= start) inA += 1;
    while (inB < b.length && b[inB]!.end <= start) inB += 1;
    const isIn = (set: RangeSet, at: number): boolean => at < set.length && set[at]!.start <= start;
    if (!keep(isIn(a, inA), isIn(b, inB))) continue;
    const last = kept.at(-1);
    if (last?.end === start) last.end = end;
    else kept.push({ start, end });
  }
  return kept;
}

/** A number for each key of a range, equal for most neighbours, that only grows. */
export class Levels {
  #parts: readonly (KeyRange & { readonly level: number })[];

  /** @param parts the range, cut where levels differ */
  constructor(parts: readonly (KeyRange & { readonly level: number })[]) {
    this.#parts = parts;
  }

  /** The whole range, cut where levels differ. */
  get all(): readonly (KeyRange & { readonly level: number })[] {
    return this.#parts;
  }

  /** The smallest of these keys, which must be keys of the range. */
  least(set: RangeSet): number {
    return Math.min(...this.parts(set).map(({ level }) => level));
  }

  /** The smallest of single keys of the range, which are in ascending order. */
  leastOf(keys: ArrayLike<number>): number {
    const isTouched = ({ start, end }: KeyRange): boolean => (keys[placeOf(keys, start)] ?? Infinity) < end;
    return Math.min(...this.#parts.filter(isTouched).map(({ level }) => level));
  }

  /** The keys of the set that have this level. */
  at(level: number, set: RangeSet): RangeSet {
    return intersection(set, this.#at(level));
  }

  /** The set cut where levels change; one entry for each level, the lowest first. */
  parts(set: RangeSet): readonly { readonly level: number; readonly keys: RangeSet }[] {
    const levels = [...new Set(this.#parts.map(({ level }) => level))].toSorted((a, b) => a - b);
    const parts = levels.map((level) => ({ level, keys: this.at(level, set) }));
    return parts.filter(({ keys }) => keys.length > 0);
  }

  /** One more for each key of the set. */
  raise(set: RangeSet): void {
    const raised = this.parts(set).map(({ level, keys }) => ({ level: level + 1, keys }));
    const levels = new Set(this.#parts.map(({ level }) => level));
    const kept = [...levels].map((level) => ({ level, keys: difference(this.#at(level), set) }));
    const byLevel = new Map<number, RangeSet>();
    for (const { level, keys } of [...kept, ...raised]) byLevel.set(level, union(byLevel.get(level) ?? [], keys));
    const parts = [...byLevel].flatMap(([level, keys]) => keys.map((range) => ({ ...range, level })));
    this.#parts = parts.toSorted((a, b) => a.start - b.start);
  }

  #at(level: number): RangeSet {
    // Parts of one level never touch each other, so that they are a set.
    return this.#parts.filter((part) => part.level === level);
  }
}

/** Whether the ranges, which may come from anybody, are a set. */
export function isSet(ranges: readonly KeyRange[]): ranges is RangeSet {
  const isWhole = (bound: number): boolean => Number.isSafeInteger(bound) && bound >= 0;
  return ranges.every(({ start, end }, index) => {
    const isRange = isWhole(start) && isWhole(end) && start < end;
    return isRange && (ranges[index + 1]?.start ?? Infinity) > end;
  });
}

/** The first place of a key that is not below `key`; their number, where there is none. @param keys in ascending order */
export function placeOf(keys: ArrayLike<number>, key: number): number {
  let [low, high] = [0, keys.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle]! < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
