/** @file The gate for stale and foreign frames, field by field. */
import { expect, test } from "vitest";
import { guard } from "../../ring/core/guard.ts";

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
