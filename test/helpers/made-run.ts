/** @file A run made by hand, for figures: two nodes, two micro-batches, times that can be checked in the head. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TimelineEntry } from "../../src/metrics/timeline.ts";
import type { RunSummary } from "../../src/plot/run-record.ts";

export const MADE_SUMMARY: RunSummary = {
  ...{ system: "ring", nodes: 2, model: "mlp:4-4-2", schedule: "gpipe", laps: 1, microBatches: 2, engine: "wasm" },
  ...{ idlePercentSteady: 33.33, idlePercentTheory: 32, idlePercentFormula: 100 / 3 },
  ...{ simulated: false, emulated: { pace: null, link: null, memoryLimit: null } },
  perNode: [
    { node: 0, idlePercentSteady: 30 },
    { node: 1, idlePercentSteady: 36.66 },
  ],
};

export const STEP_MS = 20;

export function entry(
  kind: TimelineEntry["kind"],
  microBatch: number,
  startMs: number,
  endMs: number,
  more: Partial<TimelineEntry> = {},
): TimelineEntry {
  return { ...{ kind, microBatch, startMs, endMs }, ...{ step: 0, lap: 0, bytes: 0 }, ...more };
}

/** `steps` equal steps of gpipe from 1000 ms on: F and B take 2 ms, W 1 ms, the update 1 ms; node 1's update laps into the next step. */
export function madeTimelines(steps: number) {
  const shifted = (entries: readonly TimelineEntry[], node: number) => ({
    node,
    entries: Array.from({ length: steps }, (_, step) =>
      entries.map((one) => ({
        ...one,
        ...{ step, startMs: 1000 + STEP_MS * step + one.startMs, endMs: 1000 + STEP_MS * step + one.endMs },
      })),
    ).flat(),
  });
  return [
    shifted(
      [
        ...[entry("F", 0, 0, 2), entry("send", 0, 2, 3), entry("F", 1, 2, 4), entry("wait", 0, 4, 8)],
        ...[entry("B", 0, 8, 10), entry("W", 0, 10, 11), entry("B", 1, 11, 13), entry("W", 1, 13, 14)],
        entry("update", 0, 14, 15),
      ],
      0,
    ),
    shifted(
      [
        ...[entry("receive", 0, 2, 2), entry("F", 0, 3, 5), entry("F", 1, 5, 7)],
        ...[entry("B", 0, 7, 9), entry("W", 0, 9, 10), entry("B", 1, 10, 12), entry("W", 1, 12, 13)],
        entry("update", 0, 18, 21),
      ],
      1,
    ),
  ];
}

/** A run's folder, as far as figures read it. */
export function writeMadeRun(folder: string, summary: object, timelines: ReturnType<typeof madeTimelines>): void {
  mkdirSync(join(folder, "timeline"), { recursive: true });
  writeFileSync(join(folder, "summary.json"), JSON.stringify(summary));
  writeFileSync(join(folder, "config.json"), "{}");
  for (const { node, entries } of timelines) {
    writeFileSync(join(folder, "timeline", `${node}.jsonl`), entries.map((one) => `${JSON.stringify(one)}\n`).join(""));
  }
}
