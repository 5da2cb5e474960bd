/** @file What a node says of itself at the end of a run. */
import type { NodeReport } from "../../src/metrics/summary.ts";
import { parameterCount, parseModel } from "../../src/nn/spec.ts";
import type { LayerDigest } from "../../src/runtime/compute-operations.ts";
import type { PaceCounts } from "../../src/runtime/compute-pace.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import { peakRssBytes } from "../../src/runtime/process-sample.ts";
import type { Member } from "../core/formation.ts";
import type { LayerRange } from "../core/partition.ts";
import type { EdgeCounters } from "./edges.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";

export interface ReportSource {
  /** Of each layer of the segment, before the first and after the last step. */
  readonly initial: readonly LayerDigest[];
  readonly final: readonly LayerDigest[];
  /** By lap, at the end. */
  readonly layers: readonly LayerRange[];
  readonly clockwork: StageClockwork;
  /** How well a stated pace was kept. */
  readonly pace: PaceCounts | null;
}

export interface ReportFacts {
  readonly member: Member;
  readonly counters: EdgeCounters;
  readonly neighbours: number;
  readonly model: string;
  /** How well a stated link was kept. */
  readonly link: Lateness | null;
  readonly communicationCpuMs: number;
}

export function nodeReport(source: ReportSource, facts: ReportFacts): NodeReport {
  const { layers, clockwork, initial, final, pace } = source;
  const held = layers.flatMap(([start, end]) => parseModel(facts.model).layers.slice(start, end));
  return {
    node: facts.member.node,
    peerId: facts.member.peerId,
    role: "stage",
    layers,
    parameters: held.reduce((sum, layer) => sum + parameterCount(layer), 0),
    times: clockwork.times,
    steadyTimes: clockwork.steadyTimes,
    communicationCpuMs: facts.communicationCpuMs,
    ...facts.counters,
    neighbours: facts.neighbours,
    peakRssBytes: peakRssBytes(),
    stepMsMedian: clockwork.stepMsMedian,
    layerDigests: byLayer(final),
    initialLayerDigests: byLayer(initial),
    costs: clockwork.costs,
    pace,
    link: facts.link === null ? null : { ...facts.link },
  };
}

function byLayer(digests: readonly LayerDigest[]): Record<string, string> {
  return Object.fromEntries(digests.map(({ layer, digest }) => [String(layer), Buffer.from(digest).toString("hex")]));
}
