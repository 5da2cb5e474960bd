/** @file `summary.json` of a parameter server: that of every system, and what only servers and workers have. */
import { buildSummary, type NodeReport } from "../../src/metrics/summary.ts";
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
    ...{ workers: settings.nodes, servers, consistency, tau, workerHolds, overlap, dataServers },
    parametersBy: parameters,
    dataBytesPerStep: Math.round(dataBytes / Math.max(1, run.losses.length - firstStep)),
    lagHistogram: lagHistogram([...reports.values()]),
    bytesPerStepFormula: 2 * settings.nodes * 4 * facts.parameters,
  };
}

/** Shares by how many steps their parameters lagged. */
function lagHistogram(reports: readonly MemberReport[]): readonly number[] {
  const length = Math.max(0, ...reports.map(({ lags }) => lags.length));
  return Array.from({ length }, (_, lag) => reports.reduce((sum, { lags }) => sum + (lags[lag] ?? 0), 0));
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
