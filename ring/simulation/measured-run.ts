/** @file A run's folder as a calibration needs it: settings, cut, timelines, CPU of messages, and how idle it was. */
import { existsSync } from "node:fs";
import * as z from "zod";
import { RUN_FILES, RunFolder } from "../../src/metrics/run-folder.ts";
import { defined } from "../../src/types/assert.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";
import { shapeOf } from "../runtime/segments.ts";
import { calibrate, type Calibration, type MeasuredRun } from "./calibrate.ts";
import { planSimulation, type CostFit } from "./plan.ts";
import { summarize } from "./result.ts";
import { parseSimulation, type SimulationSettings } from "./settings.ts";
import { simulate } from "./simulate.ts";

const summarySchema = z.object({
  stepMsMedian: z.number(),
  idlePercentSteady: z.number().nullable(),
  perNode: z.array(
    z.object({
      layers: z.array(z.tuple([z.int(), z.int()])),
      communicationCpuMs: z.number(),
      messagesSent: z.number(),
    }),
  ),
});

const timelineSchema = z.array(
  z.object({
    kind: z.enum(["F", "B", "W", "update", "send", "receive", "wait", "recover"]),
    ...{ step: z.int(), lap: z.int(), microBatch: z.int() },
    ...{ startMs: z.number(), endMs: z.number(), bytes: z.number() },
  }),
);

/** Settings that another simulation of the same job starts from. */
const JOB_SETTINGS = [
  ...["model", "batch", "microBatches", "optimizer", "nodes", "schedule", "laps", "balance", "wire"],
  ...["pace", "link", "memoryLimit", "seed"],
];
/** Steps of a run that is simulated to be compared. */
const COMPARED_STEPS = 8;

interface Folder {
  readonly path: string;
  readonly run: MeasuredRun;
  readonly simulation: SimulationSettings;
  readonly summary: z.infer<typeof summarySchema>;
}

/** How a run went, and how its simulation with the fitted costs goes. */
export interface Residual {
  readonly folder: string;
  readonly nodes: number;
  readonly schedule: string;
  readonly idlePercentSteady: { readonly measured: number | null; readonly simulated: unknown };
  readonly stepMs: { readonly measured: number; readonly simulated: unknown };
}

export interface CalibratedRuns {
  readonly calibration: Calibration;
  readonly residuals: readonly Residual[];
  /** By name, of the first run: flags come on top. */
  readonly values: Readonly<Record<string, unknown>>;
}

/**
 * Reads the runs, fits them and simulates each of them.
 * @throws DataError where a folder holds no run that has ended, or damaged files
 */
export function calibrateFrom(paths: readonly string[]): CalibratedRuns {
  const folders = paths.map(readFolder);
  const calibration = calibrate(folders.map(({ run }) => run));
  const { config } = defined(folders[0], "a run").simulation;
  return {
    calibration,
    residuals: folders.map((folder) => residualOf(folder, calibration.fit)),
    values: Object.fromEntries(JOB_SETTINGS.map((name) => [name, config[name]])),
  };
}

function residualOf({ path, run, simulation, summary }: Folder, fit: CostFit): Residual {
  const settings = { ...simulation, run: { ...simulation.run, steps: COMPARED_STEPS } };
  const plan = planSimulation(settings, fit, run.cut);
  const { outcome } = simulate(settings, plan, { timelineSteps: 0, wantsTasks: false });
  const simulated = summarize(settings, plan, outcome);
  return {
    ...{ folder: path, nodes: run.settings.nodes, schedule: run.settings.schedule },
    idlePercentSteady: { measured: summary.idlePercentSteady, simulated: simulated["idlePercentSteady"] },
    stepMs: { measured: summary.stepMsMedian, simulated: simulated["stepMsMedian"] },
  };
}

function readFolder(path: string): Folder {
  const folder = new RunFolder(path);
  if (!existsSync(folder.file(RUN_FILES.summary))) {
    throw new DataError(
      `--from ${path}: no run that has ended is there`,
      "name the folder that a run wrote (its --out)",
    );
  }
  const summary = checked(summarySchema, folder.readJson(RUN_FILES.summary), folder.file(RUN_FILES.summary));
  const config = folder.readJson(RUN_FILES.config) as Record<string, unknown>;
  // What a simulation was calibrated from is not what it ran.
  const simulation = parseSimulation({ ...config, from: [] }, () => "");
  if (simulation.units !== null) {
    throw new UsageError(`--from ${path}: its times are in units`, "name a run of a model");
  }
  const { run: settings } = simulation;
  const shape = shapeOf(settings, settings.nodes);
  const timelines = Array.from({ length: shape.nodes }, (_, node) => {
    const name = `timeline/${node}.jsonl`;
    return { node, entries: checked(timelineSchema, folder.readLines(name), folder.file(name)) };
  });
  const cut = Array.from({ length: shape.nodes * shape.laps }, (_, stage) =>
    defined(summary.perNode[stage % shape.nodes]?.layers[Math.floor(stage / shape.nodes)], "a segment of each stage"),
  );
  const sum = (name: "communicationCpuMs" | "messagesSent"): number =>
    summary.perNode.reduce((total, node) => total + node[name], 0);
  const totals = { communicationCpuMs: sum("communicationCpuMs"), messagesSent: sum("messagesSent") };
  return { path, summary, simulation, run: { settings, cut, timelines, ...totals } };
}

function checked<Value>(schema: z.ZodType<Value>, value: unknown, file: string): Value {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = `${file} is damaged: ${issue?.path.join(".")}: ${issue?.message}`;
  throw new DataError(where, "restore the file, or run again");
}
