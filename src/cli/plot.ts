/** @file `plot`: the figures of runs, as files and on the terminal. */
import { existsSync } from "node:fs";
import { FILE_FORMATS, writeFigures, type FileFormat } from "../plot/run-figures.ts";
import { readRun } from "../plot/run-record.ts";
import { stepWindow } from "../plot/step-window.ts";
import { terminalFigure } from "../plot/terminal.ts";
import { ExitCode, UsageError } from "../types/errors.ts";

type Options = Readonly<Record<string, unknown>>;

const FORMATS = [...FILE_FORMATS, "terminal"] as const;
const LATER_FORMATS = ["html"];
const LATER_EXPERIMENTS = [
  ...["equality", "idle", "progress", "scaling", "bandwidth", "latency", "stragglers", "resilience", "max-model"],
  ...["consistency", "filters", "overlap", "schedules", "balance", "elastic", "simulator", "transport", "engine"],
];
const COLUMNS_DEFAULT = 80;

export async function plot(paths: readonly string[], options: Options): Promise<number> {
  const formats = formatsOf(options["format"] as string | undefined);
  for (const path of paths) refuseExperiment(path);
  const runs = paths.map(readRun);
  for (const { folder, timelines } of runs) {
    if (timelines.length > 0) continue;
    process.stderr.write(`${folder.path} kept no timeline (--timeline none): its idle time only is drawn\n`);
  }
  if (formats.includes("terminal")) {
    // Not there where this is no terminal, and 0 where the terminal does not know.
    const columns = process.stdout.columns || COLUMNS_DEFAULT;
    // The convention of no-color.org: any text that is not empty.
    const isColoured = process.stdout.isTTY && (process.env["NO_COLOR"] ?? "") === "";
    for (const run of runs) {
      process.stdout.write(`${terminalFigure(run, stepWindow(run.timelines), { columns, isColoured })}\n`);
    }
  }
  const files = await writeFigures(
    runs,
    FILE_FORMATS.filter((format) => formats.includes(format)),
    options["out"] as string | undefined,
  );
  for (const file of files) process.stdout.write(`${file}\n`);
  return ExitCode.done;
}

function formatsOf(text: string | undefined): readonly (FileFormat | "terminal")[] {
  if (text === undefined) return process.stdout.isTTY ? FORMATS : FILE_FORMATS;
  return text.split(",").map((name) => {
    const format = FORMATS.find((candidate) => candidate === name.trim());
    if (format !== undefined) return format;
    const what = LATER_FORMATS.includes(name.trim()) ? "not in this version" : "there is no such format";
    throw new UsageError(`--format ${name.trim()}: ${what}`, `use some of ${FORMATS.join(", ")}`);
  });
}

function refuseExperiment(path: string): void {
  if (existsSync(path) || !LATER_EXPERIMENTS.includes(path)) return;
  throw new UsageError(
    `plot ${path}: figures of experiments are not in this version`,
    "name the folder that a run wrote (its --out)",
  );
}
