/**
 * @file Whether a recorded history of pushes and pulls is sequentially consistent for each key (Lamport 1979): whether one order of all operations on
 * the key, in which every worker's are in the order in which it issued them, explains what each pull saw. Each push adds something that no other
 * does, so that a pull's values tell which pushes it saw, and the answer is exact.
 */
export type KeyOperation = { readonly worker: number; readonly key: number } & (
  | { readonly kind: "push"; readonly id: number }
  /** One id for each time that a push is in the values. */
  | { readonly kind: "pull"; readonly seen: readonly number[] }
);

/**
 * @param history of each worker in the order in which it issued them, however workers lie between each other
 * @returns what no order explains; empty where the history is consistent
 */
export function inconsistencies(history: readonly KeyOperation[]): readonly string[] {
  const keys = Map.groupBy(history, ({ key }) => key);
  return [...keys].flatMap(([key, operations]) => ofKey(operations).map((what) => `key ${key}: ${what}`));
}

function ofKey(operations: readonly KeyOperation[]): readonly string[] {
  const pushed = new Set(operations.flatMap((operation) => (operation.kind === "push" ? operation.id : [])));
  const strange = operations.flatMap((operation) =>
    operation.kind === "pull" ? notPushedOnce(operation.seen, pushed) : [],
  );
  if (strange.length > 0) return strange;
  const states = statesOf(operations);
  const apart = states.find((state, level) => level > 0 && !states[level - 1]!.isSubsetOf(state));
  if (apart !== undefined) {
    const before = states[states.indexOf(apart) - 1]!;
    return [`one pull saw ${list(before)}, another ${list(apart)}: neither came first`];
  }
  return [...Map.groupBy(operations, ({ worker }) => worker)].flatMap(([worker, own]) =>
    outOfOrder(own, states).map((what) => `worker ${worker}: ${what}`),
  );
}

function notPushedOnce(seen: readonly number[], pushed: ReadonlySet<number>): readonly string[] {
  const foreign = seen.filter((id) => !pushed.has(id)).map((id) => `a pull saw push ${id}, which nobody made`);
  const twice = seen.filter((id, place) => seen.indexOf(id) !== place).map((id) => `a pull saw push ${id} twice`);
  return [...foreign, ...twice];
}

/** What pulls saw, the fewest pushes first; each once. In a consistent history each contains those before it. */
function statesOf(operations: readonly KeyOperation[]): readonly ReadonlySet<number>[] {
  const states = new Map<string, ReadonlySet<number>>();
  for (const operation of operations) {
    if (operation.kind === "pull") states.set(operation.seen.toSorted((a, b) => a - b).join(), new Set(operation.seen));
  }
  return [...states.values()].toSorted((a, b) => a.size - b.size);
}

/**
 * When each operation was: a pull at the time of its state, a push between the last state without it and the first one with it. An order of all exists
 * exactly if no worker's times decrease.
 */
function outOfOrder(own: readonly KeyOperation[], states: readonly ReadonlySet<number>[]): readonly string[] {
  const timeOf = (operation: KeyOperation): number => {
    if (operation.kind === "pull") return 2 * states.findIndex((state) => isEqual(state, operation.seen));
    const level = states.findIndex((state) => state.has(operation.id));
    return level < 0 ? Infinity : 2 * level - 1;
  };
  return own.flatMap((operation, place) => {
    const before = own[place - 1];
    if (before === undefined || timeOf(before) <= timeOf(operation)) return [];
    return [`${nameOf(operation)} was issued after ${nameOf(before)}, and happened before`];
  });
}

const isEqual = (state: ReadonlySet<number>, seen: readonly number[]): boolean =>
  state.size === seen.length && seen.every((id) => state.has(id));

const list = (state: ReadonlySet<number>): string => `{${[...state].toSorted((a, b) => a - b).join(" ")}}`;

const nameOf = (operation: KeyOperation): string =>
  operation.kind === "push" ? `push ${operation.id}` : `a pull that saw ${list(new Set(operation.seen))}`;

/** So many pushes are told apart in one float32, by digits to the base 4: a sum of them is exact, and a push that came twice is a 2. */
const DIGITS = 12;
const BASE = 4;

/** How many values a key needs for so many pushes. */
export const valuesFor = (pushes: number): number => Math.ceil(pushes / DIGITS);

/** What push `id` adds to a key of so many values: ids below `length * 12`. */
export function addendOf(id: number, length: number): Float32Array {
  const values = new Float32Array(length);
  values[Math.floor(id / DIGITS)] = BASE ** (id % DIGITS);
  return values;
}

/** The ids whose addends sum up to these values. */
export function seenIn(values: ArrayLike<number>): readonly number[] {
  return Array.from(values).flatMap((value, place) =>
    Array.from({ length: DIGITS }, (_, digit) => {
      const times = Math.floor(value / BASE ** digit) % BASE;
      return Array<number>(times).fill(place * DIGITS + digit);
    }).flat(),
  );
}
