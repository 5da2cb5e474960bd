/**
 * @file What figures need of a run's folder, read and checked: the summary, the commit, the timelines.
 */
import { existsSync, statSync } from "node:fs";
import * as z from "zod";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { DataError } from "../types/errors.ts";
import type { NodeTimeline } from "./step-window.ts";

/** A timeline is read whole, and a text cannot be longer than about twice this. */
const TIMELINE_BYTES_MAX = 256 * 2 ** 20;

const percent = z.number().nullable();
const emulation = z.string().nullable();

const summarySchema = z.object({
  system: z.string(),
  nodes: z.int().min(1),
  model: z.string(),
  schedule: z.string().nullable(),
  laps: z.int().min(1),
  microBatches: z.int().min(1),
  engine: z.string(),
  idlePercentSteady: percent,
  idlePercentTheory: percent,
  idlePercentFormula: percent,
  /** Only a simulation says it. */
  timeUnit: z.enum(["ms", "units"]).optional(),
  simulated: z.boolean(),
  emulated: z.object({ pace: emulation, link: emulation, memoryLimit: emulation }),
  perNode: z.array(z.object({ node: z.int().min(0), role: z.string().optional(), idlePercentSteady: percent })).min(1),
});

const environmentSchema = z.object({ gitCommit: z.string().nullish() });

const timelineSchema = z.array(
  z.object({
    kind: z.enum(["F", "B", "W", "update", "send", "receive", "wait", "recover"]),
    step: z.int().min(0),
    lap: z.int().min(0),
    microBatch: z.int().min(0),
    startMs: z.number(),
    endMs: z.number(),
    bytes: z.number(),
  }),
);

export type RunSummary = Readonly<z.infer<typeof summarySchema>>;

export interface RunRecord {
  readonly folder: RunFolder;
  readonly summary: RunSummary;
  readonly gitCommit: string | undefined;
  /** Of the nodes whose timelines are in this folder: none where none was kept, some where others ran elsewhere. */
  readonly timelines: readonly NodeTimeline[];
}

/** @throws DataError where `path` is no folder of a run that has ended, or where its files are damaged */
export function readRun(path: string): RunRecord {
  const folder = new RunFolder(path);
  if (!existsSync(folder.file(RUN_FILES.summary))) throw noSummary(folder);
  const summary = checked(summarySchema, folder.readJson(RUN_FILES.summary), folder.file(RUN_FILES.summary));
  const timelines = summary.perNode
    .map(({ node }) => ({ node, entries: readTimeline(folder, `timeline/${node}.jsonl`) }))
    .filter(({ entries }) => entries.length > 0);
  return { folder, summary, gitCommit: readCommit(folder), timelines };
}

function noSummary(folder: RunFolder): DataError {
  return existsSync(folder.file(RUN_FILES.config))
    ? new DataError(
        `the run in ${folder.path} has no ${RUN_FILES.summary}: it has not ended`,
        "wait for its end, or finish it with ringtmp up --resume",
      )
    : new DataError(`${folder.path} is not a run's folder`, "name the folder that a run wrote (its --out)");
}

function readCommit(folder: RunFolder): string | undefined {
  const file = folder.file(RUN_FILES.environment);
  if (!existsSync(file)) return undefined;
  return checked(environmentSchema, folder.readJson(RUN_FILES.environment), file).gitCommit ?? undefined;
}

function readTimeline(folder: RunFolder, name: string): NodeTimeline["entries"] {
  const file = folder.file(name);
  if (existsSync(file) && statSync(file).size > TIMELINE_BYTES_MAX) {
    throw new DataError(`${file} is longer than ${TIMELINE_BYTES_MAX} bytes`, "run again with --timeline last:20");
  }
  return checked(timelineSchema, folder.readLines(name), file);
}

function checked<Value>(schema: z.ZodType<Value>, value: unknown, file: string): Value {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new DataError(
    `${file} is damaged: ${issue?.path.join(".")}: ${issue?.message}`,
    "restore the file, or run again",
  );
}
