/** @file A stage machine keeps nothing of steps that are over. */
import { expect, test } from "vitest";
import { BusyStage } from "../helpers/busy-stage.ts";
import { heapBytes } from "../helpers/heap.ts";

test("tens of thousands of steps leave nothing behind", () => {
  const stage = new BusyStage(4, 4);
  stage.run(2_000);
  const beforeBytes = heapBytes();
  stage.run(20_000);
  // One number kept of each of the 80,000 micro-batches would be 640 kB.
  expect(heapBytes() - beforeBytes).toBeLessThan(300_000);
  expect(stage.completedSteps).toBe(22_000);
});
