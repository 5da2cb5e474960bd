/** @file What a node says of itself at the end of a run. */
import type { Settings } from "../../src/config/settings.ts";
import type { NodeReport } from "../../src/metrics/summary.ts";
import { layerDigest } from "../../src/nn/digest.ts";
import { initializeLayer } from "../../src/nn/initialize.ts";
import { parameterCount, parseModel } from "../../src/nn/spec.ts";
import type { LayerDigest } from "../../src/runtime/compute-operations.ts";
import type { PaceCounts } from "../../src/runtime/compute-pace.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import { peakRssBytes } from "../../src/runtime/process-sample.ts";
import type { RingMember } from "../core/view.ts";
import type { LayerRange } from "../core/partition.ts";
import type { EdgeCounters } from "./edges.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";

export interface ReportSource {
  /** Of each layer of the segments, after the last step. */
  readonly final: readonly LayerDigest[];
  /** By lap, at the end. */
  readonly layers: readonly LayerRange[];
  readonly clockwork: StageClockwork;
  /** How well a stated pace was kept. */
  readonly pace: PaceCounts | null;
}

export interface ReportFacts {
  readonly member: RingMember;
  readonly counters: EdgeCounters;
  readonly neighbours: number;
  readonly settings: Settings;
  /** How well a stated link was kept. */
  readonly link: Lateness | null;
  readonly communicationCpuMs: number;
}

export function nodeReport(source: ReportSource, facts: ReportFacts): NodeReport {
  const { layers, clockwork, final, pace } = source;
  const held = layers.flatMap(([start, end]) => parseModel(facts.settings.model).layers.slice(start, end));
  return {
    node: facts.member.node,
    peerId: facts.member.peerId,
    role: layers.length > 0 ? "stage" : "spare",
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
    initialLayerDigests: byLayer(initialDigests(facts.settings, layers)),
    costs: clockwork.costs,
    pace,
    link: facts.link === null ? null : { ...facts.link },
  };
}

/** Initial weights depend on the model and the seed alone: whoever holds a layer in the end can say what it began with. */
function initialDigests({ model, seed }: Settings, ranges: readonly LayerRange[]): readonly LayerDigest[] {
  const { layers } = parseModel(model);
  return ranges.flatMap(([start, end]) =>
    layers.slice(start, end).map((spec, index) => {
      const weights = new Float32Array(parameterCount(spec));
      const weightCount = spec.inputs * spec.outputs;
      initializeLayer(spec, start + index, seed, weights.subarray(0, weightCount), weights.subarray(weightCount));
      return { layer: start + index, digest: layerDigest(new Uint8Array(weights.buffer)) };
    }),
  );
}

function byLayer(digests: readonly LayerDigest[]): Record<string, string> {
  return Object.fromEntries(digests.map(({ layer, digest }) => [String(layer), Buffer.from(digest).toString("hex")]));
}
