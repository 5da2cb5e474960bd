/** @file When a node outside the ring gives up: not before nobody has listened for a while. */
import { expect, test } from "vitest";
import { Outside } from "../../ring/runtime/outside.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const view = madeView(3);
const [self, second, third] = view.members.map(({ peerId }) => peerId) as [string, string, string];

test("only when every other member has refused for ten seconds", () => {
  const outside = new Outside();
  outside.dialled(second, "refused", 0);
  expect(outside.forsaken(view, self, 20_000)).toBeUndefined();
  outside.dialled(third, "refused", 15_000);
  expect(outside.forsaken(view, self, 24_999)).toBeUndefined();
  expect(outside.forsaken(view, self, 25_000)?.message).toContain("no member of the ring listens");
});

test("a member that says nothing for two seconds is asked over another connection, again and again", () => {
  const outside = new Outside();
  expect(outside.unheard(view, self, 0)).toEqual([]);
  outside.heard(third, 1_000);
  expect(outside.unheard(view, self, 1_999)).toEqual([]);
  expect(outside.unheard(view, self, 2_000)).toEqual([second]);
  expect(outside.unheard(view, self, 2_999)).toEqual([]);
  expect(outside.unheard(view, self, 4_000)).toEqual([second, third]);
});

test("silence is no refusal, and who answers counts anew", () => {
  const outside = new Outside();
  for (const peerId of [second, third]) outside.dialled(peerId, "refused", 0);
  outside.dialled(third, "silent", 5_000);
  expect(outside.forsaken(view, self, 9_999)).toBeUndefined();
  expect(outside.forsaken(view, self, 10_000)?.message).toContain("no member of the ring listens");
  outside.dialled(third, "answered", 10_001);
  expect(outside.forsaken(view, self, 30_000)).toBeUndefined();
});
