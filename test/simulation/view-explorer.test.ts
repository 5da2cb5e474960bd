/** @file Every state of a view change within small bounds keeps V1, V3, V4 and V9. The wide ones: `npm run campaign -- explorer`. */
import { expect, test } from "vitest";
import { Explorer } from "../helpers/view-explorer.ts";
import { SMALL } from "../helpers/view-explorer-bounds.ts";

test.each(SMALL)(
  "$name: every state within the bounds",
  (bounds) => {
    const { violation, isComplete, decided, states } = new Explorer(bounds).run();
    expect(violation === null ? "" : [violation.what, ...violation.story].join("\n")).toBe("");
    expect(isComplete || states >= bounds.statesMax, `complete, or ${bounds.statesMax} states`).toBe(true);
    expect(Math.min(...decided), "some runs decide the last view").toBeGreaterThan(0);
  },
  90_000,
);

test("what the network forgets changes nothing that nodes can become", () => {
  const bounds = { ...SMALL[0]!, proposals: 1, crashes: 1, mortal: [0] };
  const [lean, full] = [new Explorer(bounds), new Explorer(bounds, { keepsSpent: true })];
  const [few, all] = [lean.run(), full.run()];
  expect(all.states).toBeGreaterThan(few.states);
  expect(lean.nodeTriples()).toEqual(full.nodeTriples());
});
