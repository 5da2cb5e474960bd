/** @file What a node says of itself at the end of a run. */
import type { NodeReport } from "../../src/metrics/summary.ts";
import { parameterCount, parseModel } from "../../src/nn/spec.ts";
import type { LayerDigest } from "../../src/runtime/compute-operations.ts";
import { peakRssBytes } from "../../src/runtime/process-sample.ts";
import type { Member } from "../core/formation.ts";
import type { LayerRange } from "../core/partition.ts";
import type { EdgeCounters } from "./edges.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";

export interface ReportSource {
  /** Of each layer of the segment, before the first and after the last step. */
  readonly initial: readonly LayerDigest[];
  readonly final: readonly LayerDigest[];
  readonly layers: LayerRange;
  readonly clockwork: StageClockwork;
}

export interface ReportFacts {
  readonly member: Member;
  readonly counters: EdgeCounters;
  readonly neighbours: number;
  readonly model: string;
  readonly communicationCpuMs: number;
}

export function nodeReport(source: ReportSource, facts: ReportFacts): NodeReport {
  const { layers, clockwork, initial, final } = source;
  const held = parseModel(facts.model).layers.slice(layers[0], layers[1]);
  return {
    node: facts.member.node,
    peerId: facts.member.peerId,
    role: "stage",
    layers: [[layers[0], layers[1]]],
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
  };
}

function byLayer(digests: readonly LayerDigest[]): Record<string, string> {
  return Object.fromEntries(digests.map(({ layer, digest }) => [String(layer), Buffer.from(digest).toString("hex")]));
}
