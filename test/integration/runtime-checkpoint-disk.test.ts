/** @file A disk that takes no checkpoint does not end training: it is told once a checkpoint, and the bits are those of other runs. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import { RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { checkpointSteps } from "../../src/runtime/checkpoint.ts";
import { runRing, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

interface RunEvent {
  readonly kind: string;
  readonly step: number;
  readonly reason?: string;
}

function eventsOf(folder: RunFolder): readonly RunEvent[] {
  const kinds = ["checkpoint", "notDurable"];
  return (folder.readLines(RUN_FILES.events) as readonly RunEvent[]).filter(({ kind }) => kinds.includes(kind));
}

test.each([
  ["a ring", runRing],
  ["one process", runSerial],
])("%s goes on, and says so at each checkpoint", async (name, run) => {
  const settings = tinySettings({ nodes: name === "a ring" ? 3 : 1, steps: 6, checkpointEvery: 2 });
  const whole = scratch.folder();
  const undisturbed = await run(settings, whole);
  expect(eventsOf(whole).map(({ kind, step }) => `${kind} ${step}`)).toEqual([
    "checkpoint 2",
    "checkpoint 4",
    "checkpoint 6",
  ]);

  const folder = scratch.folder();
  rmSync(folder.file("checkpoints"), { recursive: true });
  writeFileSync(folder.file("checkpoints"), "no folder can be made here");
  const outcome = await run(settings, folder);
  expect(outcome.losses).toEqual(undisturbed.losses);
  expect(outcome.summary["weightsSha256"]).toBe(undisturbed.summary["weightsSha256"]);
  expect(eventsOf(folder).map(({ kind, step }) => `${kind} ${step}`)).toEqual([
    "notDurable 2",
    "notDurable 4",
    "notDurable 6",
  ]);
  for (const { reason } of eventsOf(folder)) expect(reason).toContain(folder.file("checkpoints"));
});

test("the checkpoints of later steps are written when the disk takes them again", async () => {
  const settings = tinySettings({ nodes: 3, steps: 6, checkpointEvery: 2 });
  const folder = scratch.folder();
  // A file where the manifest of step 4 is to be: a folder that is not empty.
  mkdirSync(folder.file("checkpoints", "4", "manifest.json", "in the way"), { recursive: true });
  await runRing(settings, folder);
  const told = eventsOf(folder).map(({ kind, step }) => `${kind} ${step}`);
  expect(told).toEqual(["checkpoint 2", "notDurable 4", "checkpoint 6"]);
  rmSync(folder.file("checkpoints", "4"), { recursive: true });
  expect(checkpointSteps(folder)).toEqual([2, 6]);
});
