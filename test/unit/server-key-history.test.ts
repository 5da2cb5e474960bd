/** @file The judge of recorded histories: planted violations, and against a search through all orders. */
import { randomInt } from "node:crypto";
import { describe, expect, test } from "vitest";
import { RandomStream } from "../../src/types/random.ts";
import { addendOf, inconsistencies, type KeyOperation, seenIn } from "../helpers/key-history.ts";

const push = (worker: number, id: number, key = 0): KeyOperation => ({ kind: "push", worker, key, id });
const pull = (worker: number, ...seen: number[]): KeyOperation => ({ kind: "pull", worker, key: 0, seen });

describe("finds", () => {
  test.each([
    ["a read that lacks the worker's own push", [push(0, 1), pull(0)], "was issued after push 1"],
    ["a read that goes back", [push(0, 1), pull(1, 1), pull(1)], "a pull that saw {} was issued after"],
    ["a lost update", [push(0, 1), push(1, 2), pull(1, 1, 2), pull(0, 2)], "worker 0: a pull that saw {2}"],
    ["an update that is in twice", [push(0, 1), pull(1, 1, 1)], "push 1 twice"],
    ["an update that nobody made", [push(0, 1), pull(1, 7)], "push 7, which nobody made"],
    ["two orders of two pushes", [push(0, 1), push(1, 2), pull(2, 1), pull(3, 2)], "neither came first"],
    ["a worker's pushes in another order", [push(0, 1), push(0, 2), pull(1, 2), pull(1, 1, 2)], "push 2"],
    ["a push before it is made", [pull(0, 1), push(0, 1)], "push 1 was issued after a pull that saw {1}"],
  ])("%s", (_, history, what) => {
    expect(inconsistencies(history).join("\n")).toContain(what);
  });
});

describe("leaves alone", () => {
  test.each([
    ["an old read of another worker's push", [push(0, 1), pull(0, 1), pull(1)]],
    ["pushes of two workers in any order", [push(0, 1), push(1, 2), pull(2, 2), pull(2, 1, 2), pull(0, 1, 2)]],
    ["keys that disagree about time", [push(0, 1, 1), push(0, 1), pull(1, 1), { ...pull(1), key: 1 }]],
  ])("%s", (_, history) => {
    expect(inconsistencies(history)).toEqual([]);
  });
});

const sorted = (ids: readonly number[]): readonly number[] => ids.toSorted((a, b) => a - b);

/** Whether any order explains the history of one key: by trying them all. */
function isExplained(left: readonly (readonly KeyOperation[])[], state: readonly number[] = []): boolean {
  if (left.every((own) => own.length === 0)) return true;
  return left.some(([next, ...later], worker) => {
    if (next === undefined) return false;
    const rest = left.with(worker, later);
    if (next.kind === "push") return isExplained(rest, sorted([...state, next.id]));
    return sorted(next.seen).join() === state.join() && isExplained(rest, state);
  });
}

/** Three workers' operations; half of the histories are drawn along an order, and then one of their pulls in two is changed. */
function drawHistory(random: RandomStream): readonly KeyOperation[] {
  const isMeant = random.nextBelow(2) === 0;
  const state: number[] = [];
  return Array.from({ length: 3 + random.nextBelow(5) }, (_, id): KeyOperation => {
    const worker = random.nextBelow(3);
    if (random.nextBelow(2) === 0) {
      state.push(id);
      return push(worker, id);
    }
    return pull(worker, ...(isMeant ? state : state.filter(() => random.nextBelow(3) > 0)));
  });
}

test.each([1, randomInt(1, 1_000_000_000)])("agrees with a search through all orders: seed %i", (seed) => {
  const counts = { consistent: 0, not: 0 };
  for (let index = 0; index < 2_000; index += 1) {
    const history = drawHistory(new RandomStream(seed, 1_000, index));
    const workers = [0, 1, 2].map((worker) => history.filter((operation) => operation.worker === worker));
    const isConsistent = isExplained(workers);
    counts[isConsistent ? "consistent" : "not"] += 1;
    const found = inconsistencies(history);
    expect(found.length === 0, `seed ${seed}, history ${index}: ${JSON.stringify(history)}: ${found.join()}`).toBe(
      isConsistent,
    );
  }
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(200);
});

test("sums of addends tell which pushes are in them, and how often", () => {
  const ids = [0, 5, 11, 12, 30, 35, 5];
  const sum = new Float32Array(3);
  for (const id of ids) addendOf(id, 3).forEach((value, place) => (sum[place]! += value));
  expect(sorted(seenIn(sum))).toEqual([0, 5, 5, 11, 12, 30, 35]);
  const all = new Float32Array(3).fill(4 ** 12 / 3 - 1 / 3);
  expect(seenIn(all)).toEqual(Array.from({ length: 36 }, (_, id) => id));
});
