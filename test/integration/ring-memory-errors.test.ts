/** @file A bug in what a member does about the views ends the run with its name, at every member; before, the ring stood still for ever. */
import { afterEach, expect, test, vi } from "vitest";
import { Quarantine } from "../../ring/core/quarantine.ts";
import { tinySettings } from "../helpers/memory-ring.ts";
import { MortalRing } from "../helpers/mortal-ring.ts";

afterEach(() => void vi.restoreAllMocks());

test("a member cannot install the next view", { timeout: 60_000 }, async () => {
  await using ring = await MortalRing.form(tinySettings({ nodes: 4, steps: 100_000 }));
  await ring.reached(2);
  vi.spyOn(Quarantine.prototype, "evicted").mockImplementationOnce(() => {
    throw new Error("a bug");
  });
  ring.kill(2);
  const messages = (await ring.ends()).map((end) => (end instanceof Error ? end.message : "no error"));
  expect(messages).toHaveLength(3);
  for (const message of messages) expect(message).toContain("a bug");
});
