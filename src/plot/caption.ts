/**
 * @file The words of every figure: what ran, what came out, and what of it was emulated. Pure.
 */
import type { RunRecord, RunSummary } from "./run-record.ts";
import type { BarKind } from "./step-window.ts";

const COMMIT_DIGITS = 7;

export const KIND_NAMES: Readonly<Record<BarKind, string>> = {
  F: "forward",
  B: "backward, inputs",
  W: "backward, weights",
  update: "update",
  recover: "recovery",
};

/** `1 node`, `2 nodes`, `8 micro-batches`. */
export const plural = (count: number, thing: string): string =>
  `${count} ${thing}${count === 1 ? "" : thing.endsWith("ch") ? "es" : "s"}`;

export const percentText = (value: number | null): string => (value === null ? "unknown" : `${value.toFixed(1)} %`);

/** `1f1b`, `interleaved, 2 laps`; a system without schedules goes by its name. */
export const scheduleText = ({ schedule, system, laps }: RunSummary): string =>
  [schedule ?? system, ...(laps === 1 ? [] : [plural(laps, "lap")])].join(", ");

/** `4 nodes, 8 micro-batches`. */
export const sizeText = ({ nodes, microBatches }: RunSummary): string =>
  [plural(nodes, "node"), plural(microBatches, "micro-batch")].join(", ");

/** The finding: how idle the nodes were, in steady state. */
export const runTitle = (summary: RunSummary): string =>
  `${scheduleText(summary)}, ${sizeText(summary)}: ${percentText(summary.idlePercentSteady)} idle`;

/** Whatever is not the plain hardware, by name; empty where nothing is. */
function emulationText({ simulated, emulated: { pace, link, memoryLimit } }: RunSummary): string {
  const stated = [
    ...(pace === null ? [] : [`pace ${pace}`]),
    ...(link === null ? [] : [`link ${link}`]),
    ...(memoryLimit === null ? [] : [`memory limit ${memoryLimit}`]),
  ];
  const emulations = stated.length === 0 ? [] : [`emulated: ${stated.join(", ")}`];
  return [...(simulated ? ["simulated"] : []), ...emulations].join("; ");
}

/** Model, engine, emulation and commit of a run. */
export function runDetail({ summary, gitCommit }: Pick<RunRecord, "summary" | "gitCommit">): string {
  const commit = gitCommit === undefined ? [] : [`commit ${gitCommit.slice(0, COMMIT_DIGITS)}`];
  const emulation = emulationText(summary);
  return [summary.model, `engine ${summary.engine}`, ...(emulation === "" ? [] : [emulation]), ...commit].join(" · ");
}

/** What times are in: simulations of unit costs have no milliseconds. */
export const timeUnit = ({ timeUnit: unit }: RunSummary): "ms" | "units" => unit ?? "ms";
