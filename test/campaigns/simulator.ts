/**
 * @file The simulator against reality: fitted on paced runs of 1, 2 and 4 nodes, held against runs of 8 and 12 that it has not seen,
 * over schedules, laps and numbers of micro-batches.
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { quantile } from "simple-statistics";
import { paceFor, ROOT, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WIDTH = 32;
const ROWS = 4;
const LAYERS = 24;
/** F of one layer. */
const LAYER_FORWARD_MS = 10;
const STEPS = 4;
const FIT_FOLDER = join(ROOT, "results", "runs", "campaign-simulator");

interface Result {
  readonly nodes: number;
  readonly stepMs: number;
  readonly idle: number;
  readonly runQueue: number;
  /** Null for the runs that were fitted. */
  readonly simulated: { readonly stepMs: number; readonly idle: number } | null;
}

function cell(use: "fit" | "check", schedule: string, laps: number, nodes: number, microBatches: number): Cell {
  const pace = paceFor(1, WIDTH, ROWS, LAYER_FORWARD_MS).toFixed(9);
  const shape = ["-n", String(nodes), "--schedule", schedule, "--laps", String(laps)];
  const batch = ["--batch", String(ROWS * microBatches), "--micro-batches", String(microBatches)];
  return {
    id: `${use} ${schedule}${laps > 1 ? `-v${laps}` : ""} p=${nodes} m=${microBatches}`,
    flags: [
      ...shape,
      ...batch,
      ...["--steps", String(STEPS), "--pace", `${pace}GFLOP/s`],
      ...(use === "fit" ? ["--timeline", "all"] : []),
      ...[...uniformModel(LAYERS, WIDTH), "--optimizer", "sgd", "--lr", "0.01", "--balance", "off"],
    ],
  };
}

function cells(): readonly Cell[] {
  const fitted = [1, 2, 4].flatMap((nodes) => [
    cell("fit", "zero-bubble", 1, nodes, 16),
    ...(nodes > 1 ? [cell("fit", "1f1b", 1, nodes, 16)] : []),
  ]);
  const checked = [8, 12].flatMap((nodes) =>
    [nodes, 2 * nodes].flatMap((microBatches) => [
      ...["zero-bubble", "zb-h1", "1f1b"].map((schedule) => cell("check", schedule, 1, nodes, microBatches)),
      cell("check", "interleaved", 2, nodes, microBatches),
    ]),
  );
  return [...fitted, ...checked];
}

const fitFolder = (id: string): string => join(FIT_FOLDER, id.replaceAll(/[ =]/g, "-"));

function measure({ id, flags }: Cell, summary: RunSummary, folder: string): Result {
  const { nodes, stepMsMedian: stepMs, idlePercentSteady: idle, runQueuePercent: runQueue } = summary;
  if (id.startsWith("fit")) {
    rmSync(fitFolder(id), { recursive: true, force: true });
    cpSync(folder, fitFolder(id), { recursive: true });
    return { nodes, stepMs, idle, runQueue, simulated: null };
  }
  return { nodes, stepMs, idle, runQueue, simulated: simulate(flags) };
}

function simulate(flags: readonly string[]): { readonly stepMs: number; readonly idle: number } {
  const fits = cells().flatMap(({ id }) => (id.startsWith("fit") ? [fitFolder(id)] : []));
  const missing = fits.find((folder) => !existsSync(folder));
  if (missing !== undefined) throw new Error(`${missing} is gone: delete cells.jsonl and start over`);
  // What the fitted runs share (model, pace, …) holds; the rest is this cell's.
  const own = ["-n", "--schedule", "--laps", "--batch", "--micro-batches", "--steps"];
  const wanted = flags.flatMap((flag, index) => (own.includes(flag) ? [flag, flags[index + 1]!] : []));
  const command = ["simulate", "--from", ...fits, ...wanted, "--json", "--quiet"];
  const stdout = execFileSync(join(ROOT, "bin", "ringtmp"), command, { encoding: "utf8", maxBuffer: 1 << 26 });
  const summary = JSON.parse(stdout) as RunSummary;
  return { stepMs: summary.stepMsMedian, idle: summary.idlePercentSteady };
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const checked = results.flatMap(({ simulated, ...result }) => (simulated === null ? [] : [{ ...result, simulated }]));
  const errors = checked.map(({ stepMs, simulated }) => 100 * Math.abs(simulated.stepMs / stepMs - 1));
  const rows = checked.map(({ id, stepMs, idle, runQueue, simulated }) => [
    id.replace("check ", ""),
    stepMs.toFixed(1),
    simulated.stepMs.toFixed(1),
    (100 * (simulated.stepMs / stepMs - 1)).toFixed(1),
    idle.toFixed(1),
    simulated.idle.toFixed(1),
    runQueue.toFixed(1),
  ]);
  const head = ["run", "step ms", "simulated", "error %", "idle %", "simulated idle %", "run queue %"];
  const share = (part: number): string => (errors.length === 0 ? "" : quantile(errors, part).toFixed(1));
  return [
    "# The simulator against runs it has not seen\n\n",
    `Fitted on paced runs of 1, 2 and 4 nodes (zero-bubble and 1f1b, 16 micro-batches), held against 8 and 12 nodes. ${LAYERS} layers of width ${WIDTH}, F of a layer ${LAYER_FORWARD_MS} ms, all nodes on one machine.\n\n`,
    `Absolute error of the step time: median ${share(0.5)} %, 95th percentile ${share(0.95)} %, over ${errors.length} runs.\n\n`,
    table(head, rows),
    "\nRemake with `npm run campaign -- simulator` (delete `cells.jsonl` first).\n",
  ].join("");
}

export const simulator: Campaign<Result> = { name: "simulator", cells, measure, report };
