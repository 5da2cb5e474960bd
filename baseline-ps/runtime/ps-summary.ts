/** @file `summary.json` of a parameter server: that of every system, and what only servers and workers have. */
import type { MetricsLine } from "../../src/metrics/run-folder.ts";
import { buildSummary, median, type NodeReport } from "../../src/metrics/summary.ts";
import { parseModel } from "../../src/nn/spec.ts";
import type { MemberReport, PsJob } from "./messages.ts";

/** @param reports by role, such as `worker 2` */
export function psSummary(job: PsJob, reports: ReadonlyMap<string, MemberReport>): Record<string, unknown> {
  const { settings, engine, firstStep } = job;
  const run = reports.get("scheduler 0")!.run!;
  const nodes = [...reports.values()].flatMap(({ report }) => report ?? []).toSorted((a, b) => a.node - b.node);
  // Servers hold parts of layers: whoever saved the model tells what it is.
  const [first, ...others] = nodes;
  const whole: NodeReport[] = [{ ...first!, layerDigests: run.layerDigests }, ...others];
  const facts = {
    ...{ settings, engine: engine.split(":")[0]!, firstStep, losses: run.losses, testAccuracy: run.testAccuracy },
    parameters: parseModel(settings.model).parameters,
    ...{ idleTheory: idleFormula(nodes) ?? 0, idleFormula: idleFormula(nodes) },
  };
  const { servers, consistency, tau, workerHolds, overlap, dataServers, parameters } = settings;
  const dataBytes = [...reports.values()].reduce((sum, { dataBytesSent = 0 }) => sum + dataBytesSent, 0);
  return {
    ...buildSummary(facts, whole),
    // A worker's share is not a step where others go on meanwhile.
    stepMsMedian: run.stepMs,
    ...{ workers: settings.nodes, servers, consistency, tau, workerHolds, overlap, dataServers },
    parametersBy: parameters,
    dataBytesPerStep: Math.round(dataBytes / Math.max(1, run.losses.length - firstStep)),
    lagHistogram: run.lags,
    sharesServersWith: [...new Set([...reports.values()].flatMap(({ sharedWith }) => sharedWith ?? []))].toSorted(),
    bytesPerStepFormula: 2 * settings.nodes * 4 * facts.parameters,
  };
}

/** Steps that are often committed together, where workers need not wait for each other. */
const WINDOW = 10;

/** Of a step of this run, in milliseconds: the median over windows of commits. */
export function stepMsMedian(lines: readonly MetricsLine[]): number {
  const width = Math.min(WINDOW, lines.length - 1);
  if (width < 1) return 0;
  const ends = lines.slice(width);
  return median(ends.map(({ elapsedMs }, index) => (elapsedMs - lines[index]!.elapsedMs) / width));
}

/**
 * Of bsp, where messages and updates take no time: a step lasts as long as its slowest worker computes, servers do nothing:
 * 1 - Σ c / ((N + S) max c). Null where nothing was computed.
 */
function idleFormula(nodes: readonly NodeReport[]): number | null {
  const computeMs = nodes.filter(({ role }) => role === "worker").map(({ times }) => times.computeMs);
  const longest = Math.max(0, ...computeMs);
  return longest === 0 ? null : 1 - computeMs.reduce((sum, each) => sum + each, 0) / (nodes.length * longest);
}
