/** @file `summary.json` of a parameter server: that of every system, and what only servers and workers have. */
import type { MetricsLine } from "../../src/metrics/run-folder.ts";
import { buildSummary, median, type NodeReport } from "../../src/metrics/summary.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { initialDigests } from "./layer-keys.ts";
import type { MemberReport, PsJob } from "./messages.ts";

/** @param reports by role, such as `worker 2` */
export function psSummary(job: PsJob, reports: ReadonlyMap<string, MemberReport>): Record<string, unknown> {
  const { settings, engine, firstStep } = job;
  const run = [...reports.values()].find((report) => report.run !== null)!.run!;
  const each = [...reports.values()].flatMap(({ report }) => report ?? []);
  const byNode = Map.groupBy(each, ({ node }) => node);
  const nodes = [...byNode.values()].map(ofProcess).toSorted((a, b) => a.node - b.node);
  // Servers hold parts of layers: whoever saved the model tells what it is.
  const [first, ...others] = nodes;
  const initialLayerDigests = initialDigests(parseModel(settings.model), settings.seed);
  const whole: NodeReport[] = [{ ...first!, layerDigests: run.layerDigests, initialLayerDigests }, ...others];
  const facts = {
    ...{ settings, engine: engine.split(":")[0]!, firstStep, losses: run.losses, testAccuracy: run.testAccuracy },
    parameters: parseModel(settings.model).parameters,
    // What servers and workers wait for each other has a closed form in bsp alone, and no dry run.
    ...{ idleTheory: null, idleFormula: settings.consistency === "bsp" ? idleFormula(nodes) : null },
  };
  const { servers, coLocate, consistency, tau, workerHolds, overlap, dataServers, parameters } = settings;
  const ranSteps = Math.max(1, run.losses.length - firstStep);
  const perStep = (bytesOf: (report: MemberReport) => number | undefined): number =>
    Math.round([...reports.values()].reduce((sum, report) => sum + (bytesOf(report) ?? 0), 0) / ranSteps);
  return {
    ...buildSummary(facts, whole),
    // A worker's share is not a step where others go on meanwhile.
    stepMsMedian: run.stepMs,
    ...{ workers: settings.nodes, servers, coLocate, consistency, tau, workerHolds, overlap, dataServers },
    parametersBy: parameters,
    // Of `bytesPerStep` values alone; the rest is headers, requests and acknowledgements.
    pushedBytesPerStep: perStep(({ values }) => values?.pushedBytes),
    pulledBytesPerStep: perStep(({ values }) => values?.pulledBytes),
    dataBytesPerStep: perStep(({ dataBytesSent }) => dataBytesSent),
    lagHistogram: run.lags,
    sharesServersWith: [...new Set([...reports.values()].flatMap(({ sharedWith }) => sharedWith ?? []))].toSorted(),
    // A worker on a server's node sends that part to nobody.
    bytesPerStepFormula: 2 * (coLocate ? settings.nodes - 1 : settings.nodes) * 4 * facts.parameters,
  };
}

/** A worker and the server in its process are one node: its account is one, its parameters and traffic add up. */
function ofProcess([first, second]: readonly NodeReport[]): NodeReport {
  if (second === undefined) return first!;
  const [worker, server] = first!.role === "worker" ? [first!, second] : [second, first!];
  return {
    ...worker,
    role: "worker+server",
    parameters: worker.parameters + server.parameters,
    bytesSent: worker.bytesSent + server.bytesSent,
    bytesReceived: worker.bytesReceived + server.bytesReceived,
    messagesSent: worker.messagesSent + server.messagesSent,
    neighbours: Math.max(worker.neighbours, server.neighbours),
    communicationCpuMs: Math.max(worker.communicationCpuMs, server.communicationCpuMs),
    peakRssBytes: Math.max(worker.peakRssBytes, server.peakRssBytes),
    // Of the process's one shape, as the last to end saw it.
    link: server.link,
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
 * 1 - Σ c / ((N + S) max c), and without dedicated servers 1 - Σ c / (N max c). Null where nothing was computed.
 */
function idleFormula(nodes: readonly NodeReport[]): number | null {
  const computeMs = nodes.filter(({ role }) => role.startsWith("worker")).map(({ times }) => times.computeMs);
  const longest = Math.max(0, ...computeMs);
  return longest === 0 ? null : 1 - computeMs.reduce((sum, each) => sum + each, 0) / (nodes.length * longest);
}
