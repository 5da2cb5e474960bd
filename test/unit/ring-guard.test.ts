/** @file The gate for stale and foreign frames, field by field; credits against a plain count. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Credits } from "../../ring/core/credits.ts";
import { guard } from "../../ring/core/guard.ts";
import { AssertionFailed } from "../../src/types/assert.ts";

const expected = { job: "aa", view: 3, peerId: "peer-1" };

test("the gate lets through what agrees in every field", () => {
  expect(guard(expected, { ...expected })).toEqual({ kind: "accepted" });
});

test.each([
  [{ job: "bb" }, "job bb is not this ring's job aa"],
  [{ view: 2 }, "view 2 is stale: this ring is at view 3"],
  [{ view: 4 }, "view 4 is unknown: this ring is at view 3"],
  [{ peerId: "peer-2" }, "peer peer-2 is not the neighbour peer-1"],
  [{ job: "bb", view: 2, peerId: "peer-2" }, "job bb is not this ring's job aa"],
])("the gate refuses %j", (change, reason) => {
  expect(guard(expected, { ...expected, ...change })).toEqual({ kind: "refused", reason });
});

describe("credits", () => {
  test("are what was there, less what was taken, plus what was granted", () => {
    const moves = fc.array(fc.oneof(fc.constant("take" as const), fc.nat(5)), { maxLength: 60 });
    fc.assert(
      fc.property(fc.nat(6), moves, (capacity, sequence) => {
        const credits = new Credits(capacity);
        let available = capacity;
        for (const move of sequence) {
          if (move === "take" && available === 0) expect(() => credits.take()).toThrow(AssertionFailed);
          else if (move === "take") {
            credits.take();
            available -= 1;
          } else {
            const fits = available + move <= capacity;
            expect(credits.grant(move)).toBe(fits);
            if (fits) available += move;
          }
          expect(credits.available).toBe(available);
        }
      }),
    );
  });

  test.each([-1, 0.5, Number.NaN, Infinity])("a capacity of %d is the program's error", (capacity) => {
    expect(() => new Credits(capacity)).toThrow(AssertionFailed);
  });
});
