/**
 * @file A campaign: many runs of the command line, one after the other, each written down when it is done, so that an interrupted
 * campaign goes on where it was. The table is made from what is written down.
 */
import { execFile } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { InterruptedError, UsageError } from "../../src/types/errors.ts";

export const ROOT = join(import.meta.dirname, "..", "..");
const CELL_LIMIT_MS = 15 * 60_000;

/** One run: flags of the campaign's command, and what its folder gives. */
export interface Cell {
  readonly id: string;
  readonly flags: readonly string[];
}

/** `Output`: what the command prints with --json. */
export interface Campaign<Result extends object, Output = RunSummary, Disturbed = void> {
  readonly name: string;
  /** Default `train`, whose nodes then end with it. */
  readonly command?: "chaos";
  readonly cells: () => readonly Cell[];
  /** Goes on beside the run; what it returns is told to `measure`. @param folder the run's */
  readonly disturb?: (cell: Cell, folder: string) => Promise<Disturbed>;
  /** @param folder the run's, which is deleted afterwards */
  readonly measure: (cell: Cell, output: Output, folder: string, disturbed: Disturbed) => Result;
  /** Markdown. */
  readonly report: (results: readonly (Result & { readonly id: string })[]) => string;
}

/** The fields of `summary.json` that campaigns read. */
export interface RunSummary {
  readonly nodes: number;
  readonly weightsSha256: string;
  readonly lossCurveSha256: string;
  readonly stepMsMedian: number;
  readonly idlePercentSteady: number;
  readonly idlePercentTheory: number;
  readonly idlePercentFormula: number | null;
  readonly runQueuePercent: number;
  readonly emulated: {
    readonly missedPaces: number;
    readonly pacedOperations: number;
    readonly worstPaceRatio: number;
  };
  readonly perNode: readonly {
    readonly node: number;
    readonly layers: readonly (readonly [number, number])[];
    readonly computeMs: number;
    readonly communicationCpuMs: number;
    readonly messagesSent: number;
  }[];
}

/**
 * @param only ids of cells to run now; none: all that are not there yet. Processes that run different cells may share the folder.
 * @throws UsageError where there is no such cell
 */
export async function runCampaign<Result extends object, Output, Disturbed>(
  campaign: Campaign<Result, Output, Disturbed>,
  only: readonly string[],
): Promise<void> {
  const folder = join(ROOT, "results", "campaigns", campaign.name);
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "cells.jsonl");
  const cells = campaign.cells();
  const unknown = only.filter((id) => cells.every((cell) => cell.id !== id));
  if (unknown.length > 0)
    throw new UsageError(`no cell ${unknown.join(", ")}`, `cells: ${cells.map(({ id }) => id).join(", ")}`);
  const wanted = cells.filter(({ id }) => only.length === 0 || only.includes(id));
  // A campaign that is interrupted ends its run too, and can go on with it later.
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  // Read anew each time: another process may have written.
  const results = (): readonly (Result & { readonly id: string })[] => {
    const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
    return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Result & { readonly id: string });
  };
  for (const [index, cell] of wanted.entries()) {
    if (results().some(({ id }) => id === cell.id)) continue;
    process.stderr.write(`${index + 1} of ${wanted.length}: ${cell.id}\n`);
    const result = { id: cell.id, ...(await runCell(campaign, cell, interrupted.signal)) };
    appendFileSync(file, `${JSON.stringify(result)}\n`);
    // What is there is worth reading before all is.
    writeFileSync(join(folder, "README.md"), campaign.report(results()));
  }
  const report = campaign.report(results());
  writeFileSync(join(folder, "README.md"), report);
  process.stdout.write(report);
}

async function runCell<Result extends object, Output, Disturbed>(
  campaign: Campaign<Result, Output, Disturbed>,
  cell: Cell,
  interrupted: AbortSignal,
): Promise<Result> {
  const folder = mkdtempSync(join(tmpdir(), "ringtmp-campaign-"));
  try {
    const out = join(folder, "run");
    const running = promisify(execFile)(
      join(ROOT, "bin", "ringtmp"),
      [
        ...(campaign.command === undefined ? ["train", "--orphans", "end"] : [campaign.command]),
        ...[...cell.flags, "--out", out, "--json", "--quiet"],
      ],
      { timeout: CELL_LIMIT_MS, maxBuffer: 64 * 1024 * 1024, signal: interrupted },
    );
    const [{ stdout }, disturbed] = await Promise.all([running, campaign.disturb?.(cell, out)]);
    return campaign.measure(cell, JSON.parse(stdout) as Output, out, disturbed as Disturbed);
  } catch (error) {
    if (interrupted.aborted) throw new InterruptedError(`interrupted at ${cell.id}`, "the same command goes on there");
    throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A Markdown table. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const line = (cells: readonly (string | number)[]): string => `| ${cells.join(" | ")} |\n`;
  return line(head) + line(head.map(() => "---")) + rows.map(line).join("");
}

/** A model whose dense layers all have one width, and data with as many features and classes; the test set is tiny, since only steps are measured. */
export function uniformModel(layers: number, width: number): readonly string[] {
  const model = `mlp:${Array<number>(layers + 1)
    .fill(width)
    .join("-")}`;
  return ["--model", model, "--data", `synthetic:classes=${width},features=${width},test=8`];
}

/** GFLOP/s at which a node with `layers` uniform layers takes `forwardMs` for F of `rows` samples. */
export function paceFor(layers: number, width: number, rows: number, forwardMs: number): number {
  return (2 * layers * width * width * rows) / (forwardMs * 1e6);
}
