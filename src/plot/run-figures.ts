/**
 * @file The figures of runs as files: one step's timeline of each run, and the idle time of all of them.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { UsageError } from "../types/errors.ts";
import { idleFigure } from "./idle-figure.ts";
import { renderPng, renderSvg } from "./render.ts";
import { readRun, type RunRecord } from "./run-record.ts";
import { stepWindow } from "./step-window.ts";
import { timelineFigure } from "./timeline-figure.ts";

export const FILE_FORMATS = ["svg", "png"] as const;
export type FileFormat = (typeof FILE_FORMATS)[number];

/**
 * Draws one run into its own `figures` folder, `timeline` only where a timeline was kept.
 * @returns the files written
 * @throws DataError where `folder` holds no run that has ended
 */
export const writeRunFigures = async (folder: string, formats: readonly FileFormat[]): Promise<readonly string[]> =>
  writeFigures([readRun(folder)], formats, undefined);

/**
 * @param out where all figures go; without it each run's timeline goes into its own `figures` folder, and the idle times of all runs
 * into the first one's
 * @returns the files written
 */
export async function writeFigures(
  runs: readonly RunRecord[],
  formats: readonly FileFormat[],
  out: string | undefined,
): Promise<readonly string[]> {
  const files: string[] = [];
  for (const [index, run] of runs.entries()) {
    const window = stepWindow(run.timelines);
    if (window === undefined) continue;
    const name = out === undefined || runs.length === 1 ? "timeline" : `timeline-${index + 1}`;
    files.push(...(await write(timelineFigure(run, window), join(out ?? figuresOf(run), name), formats)));
  }
  const [first] = runs;
  if (first === undefined) return files;
  return [...files, ...(await write(idleFigure(runs), join(out ?? figuresOf(first), "idle"), formats))];
}

const figuresOf = (run: RunRecord): string => run.folder.file("figures");

/** @param base the file's path without its ending */
async function write(spec: TopLevelSpec, base: string, formats: readonly FileFormat[]): Promise<readonly string[]> {
  const files: string[] = [];
  for (const format of formats) {
    const content = format === "svg" ? await renderSvg(spec) : await renderPng(spec);
    const file = `${base}.${format}`;
    try {
      mkdirSync(join(base, ".."), { recursive: true });
      writeFileSync(file, content);
    } catch (cause) {
      throw new UsageError(`${file} cannot be written`, "name a folder that you may write to with --out", { cause });
    }
    files.push(file);
  }
  return files;
}
