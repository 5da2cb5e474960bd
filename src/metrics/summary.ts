/**
 * @file `summary.json`: put together from what every node reports of itself. A pure function, so every node that heard
 * all reports writes the same.
 */
import { createHash } from "node:crypto";
import type { Settings } from "../config/settings.ts";
import { addTimes, idlePercent, noTime, wallOf, type TimeSplit } from "./accounting.ts";

/** What a node says of itself when it has finished. */
export interface NodeReport {
  readonly node: number;
  readonly peerId: string;
  readonly role: string;
  /** `[start, end)` a lap. */
  readonly layers: readonly (readonly [number, number])[];
  readonly parameters: number;
  /** From its first step's start to its last step's end. */
  readonly times: TimeSplit;
  /** From its second step's start to its last step's start. */
  readonly steadyTimes: TimeSplit;
  readonly communicationCpuMs: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly messagesSent: number;
  readonly neighbours: number;
  readonly peakRssBytes: number;
  readonly stepMsMedian: number;
  /** SHA-256 of each of its layers, hexadecimal, by layer. */
  readonly layerDigests: Readonly<Record<string, string>>;
  readonly initialLayerDigests: Readonly<Record<string, string>>;
  readonly costs: NodeCosts;
  /** Of paced operations, how many took longer than stated, and by what ratio at worst; null without a pace. */
  readonly pace: { readonly paced: number; readonly missed: number; readonly worstRatio: number } | null;
  /** Of parts sent over a shaped link, how many left late; null without one. */
  readonly link: { readonly sent: number; readonly late: number; readonly worstLateMs: number } | null;
}

/** Median milliseconds of one micro-batch's F, B and W, by lap, and of an update. */
export interface NodeCosts {
  readonly laps: readonly { readonly forward: number; readonly backward: number; readonly weight: number }[];
  readonly update: number;
}

/** What is not in the reports. */
export interface RunFacts {
  readonly settings: Settings;
  readonly parameters: number;
  readonly engine: string;
  readonly losses: readonly number[];
  readonly firstStep: number;
  readonly testAccuracy: number | null;
  /** Null where there is none. */
  readonly idleTheory: number | null;
  readonly idleFormula: number | null;
  /** What the ring went through; none of it where the system does not recover. */
  readonly recovery?: RecoveryFacts;
}

export interface RecoveryFacts {
  readonly views: number;
  readonly recoveries: readonly RecoveryRecord[];
  /** Who took part once and is gone. */
  readonly departed: readonly { readonly node: number; readonly peerId: string }[];
}

/** A view that went on without a node. Times from the last sign of life. */
export interface RecoveryRecord {
  readonly cause: "closed" | "silent" | "left";
  readonly node: number;
  /** With which the new view began. */
  readonly step: number;
  readonly view: number;
  readonly detectedMs: number;
  /** To the first newly committed step; null where none came. */
  readonly resumedMs: number | null;
  readonly recomputedSteps: number;
}

/** SHA-256 over the losses as little-endian float64, in step order. */
export function lossCurveSha256(losses: readonly number[]): string {
  const bytes = new DataView(new ArrayBuffer(8 * losses.length));
  for (const [step, loss] of losses.entries()) bytes.setFloat64(8 * step, loss, true);
  return createHash("sha256").update(new Uint8Array(bytes.buffer)).digest("hex");
}

/** SHA-256 over the layers' SHA-256 digests, in layer order. */
export function modelSha256(digests: readonly Readonly<Record<string, string>>[]): string {
  const byLayer = digests.flatMap((layers) => Object.entries(layers)).toSorted(([a], [b]) => Number(a) - Number(b));
  const hash = createHash("sha256");
  for (const [, digest] of byLayer) hash.update(Buffer.from(digest, "hex"));
  return hash.digest("hex");
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return 0;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function buildSummary(facts: RunFacts, reports: readonly NodeReport[]): Record<string, unknown> {
  const { settings, losses } = facts;
  const times = reports.reduce((sum, report) => addTimes(sum, report.times), noTime);
  const steady = reports.reduce((sum, report) => addTimes(sum, report.steadyTimes), noTime);
  const wallMs = wallOf(reports[0]?.times ?? noTime);
  const ranSteps = losses.length - facts.firstStep;
  const perStep = (bytes: number): number => Math.round(bytes / Math.max(1, ranSteps));
  return {
    system: settings.system,
    nodes: reports.length,
    model: settings.model,
    parameters: facts.parameters,
    steps: losses.length,
    seed: settings.seed,
    engine: facts.engine,
    schedule: settings.system === "ring" ? settings.schedule : null,
    laps: settings.laps,
    microBatches: settings.microBatches,
    exact: settings.wire === "f32",
    firstLoss: losses[0] ?? null,
    finalLoss: losses.at(-1) ?? null,
    testAccuracy: facts.testAccuracy,
    lossCurveSha256: lossCurveSha256(losses),
    weightsSha256: modelSha256(reports.map((report) => report.layerDigests)),
    initialWeightsSha256: modelSha256(reports.map((report) => report.initialLayerDigests)),
    wallMs,
    samplesPerSecond: wallMs > 0 ? (1000 * settings.batch * ranSteps) / wallMs : 0,
    stepMsMedian: reports[0]?.stepMsMedian ?? 0,
    idlePercent: idlePercent(times),
    idlePercentSteady: idlePercent(steady),
    idlePercentTheory: facts.idleTheory === null ? null : 100 * facts.idleTheory,
    idlePercentFormula: facts.idleFormula === null ? null : 100 * facts.idleFormula,
    runQueuePercent: wallOf(times) > 0 ? (100 * times.runQueueMs) / wallOf(times) : 0,
    bytesPerStep: perStep(reports.reduce((sum, report) => sum + report.bytesSent, 0)),
    busiestNodeBytesPerStep: perStep(Math.max(...reports.map((report) => report.bytesSent + report.bytesReceived))),
    peakRssBytesMax: Math.max(...reports.map((report) => report.peakRssBytes)),
    simulated: false,
    emulated: emulated(settings, reports),
    views: facts.recovery?.views ?? 1,
    lostCommittedSteps: 0,
    recomputedSteps: recomputed(facts.recovery?.recoveries ?? []),
    recoveries: facts.recovery?.recoveries ?? [],
    perNode: [...reports.map(perNode), ...(facts.recovery?.departed ?? []).map(perDeparted)].toSorted(
      (a, b) => a.node - b.node,
    ),
  };
}

/** What was stated, and how far it was missed. */
function emulated({ pace, link, memoryLimit }: Settings, reports: readonly NodeReport[]): Record<string, unknown> {
  const paces = reports.flatMap((report) => report.pace ?? []);
  const links = reports.flatMap((report) => report.link ?? []);
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  return {
    pace,
    link,
    memoryLimit,
    pacedOperations: sum(paces.map(({ paced }) => paced)),
    missedPaces: sum(paces.map(({ missed }) => missed)),
    worstPaceRatio: Math.max(1, ...paces.map(({ worstRatio }) => worstRatio)),
    shapedParts: sum(links.map(({ sent }) => sent)),
    lateParts: sum(links.map(({ late }) => late)),
    worstLateMs: Math.max(0, ...links.map(({ worstLateMs }) => worstLateMs)),
  };
}

/** Two nodes that go at once make one view, and its steps are recomputed once. */
function recomputed(recoveries: readonly RecoveryRecord[]): number {
  const byView = new Map(recoveries.map(({ view, recomputedSteps }) => [view, recomputedSteps]));
  return [...byView.values()].reduce((sum, steps) => sum + steps, 0);
}

/** What is known of a node that did not report. */
function perDeparted({ node, peerId }: RecoveryFacts["departed"][number]): PerNode {
  const times = { ...noTime, wallMs: 0, communicationCpuMs: 0, idlePercent: 0, idlePercentSteady: 0 };
  const traffic = { bytesSent: 0, bytesReceived: 0, messagesSent: 0, neighbours: 0, peakRssBytes: 0 };
  return { node, peerId, role: "gone", layers: [], parameters: 0, ...times, ...traffic };
}

interface PerNode extends Record<string, unknown> {
  readonly node: number;
}

function perNode(report: NodeReport): PerNode {
  return {
    node: report.node,
    peerId: report.peerId,
    role: report.role,
    layers: report.layers,
    parameters: report.parameters,
    ...report.times,
    wallMs: wallOf(report.times),
    communicationCpuMs: report.communicationCpuMs,
    idlePercent: idlePercent(report.times),
    idlePercentSteady: idlePercent(report.steadyTimes),
    bytesSent: report.bytesSent,
    bytesReceived: report.bytesReceived,
    messagesSent: report.messagesSent,
    neighbours: report.neighbours,
    peakRssBytes: report.peakRssBytes,
  };
}
