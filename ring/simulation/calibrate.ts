/**
 * @file From timelines of runs to what operations and messages take. Pure. An operation's time is a line over its work (or, where
 * compute was paced, what the pace states and a constant), a message's a line over its bytes. Limits: nodes that share cores
 * are fitted as they ran; all CPU of the main thread is laid on messages; nodes on other machines have no timeline here.
 */
import { medianAbsoluteDeviation, quantile } from "simple-statistics";
import { parseLink, parsePace } from "../../src/config/emulation.ts";
import type { Settings } from "../../src/config/settings.ts";
import { median } from "../../src/metrics/summary.ts";
import type { LayerPass } from "../../src/nn/flops.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { defined } from "../../src/types/assert.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";
import type { LayerRange } from "../core/partition.ts";
import { isFused } from "../core/schedule.ts";
import { shapeOf } from "../runtime/segments.ts";
import { parametersOf, segmentFlops, statedMs, type CostFit, type Line } from "./plan.ts";
import {
  delaySamples,
  gapSamples,
  grouped,
  loneDelays,
  passSamples,
  updateSamples,
  withoutFirstStep,
} from "./samples.ts";
import type { NodeTimeline, PassKind, Stages } from "./samples.ts";

/** A run, as its folder tells it. */
export interface MeasuredRun {
  readonly settings: Settings;
  /** One range a stage. */
  readonly cut: readonly LayerRange[];
  /** Of the nodes whose timelines are there. */
  readonly timelines: readonly NodeTimeline[];
  /** Of all nodes together. */
  readonly communicationCpuMs: number;
  readonly messagesSent: number;
}

/** One segment's pass, or one node's update. */
interface Point {
  readonly pass: LayerPass | "update";
  /** FLOP, or parameters. */
  readonly work: number;
  readonly ms: number;
  /** What the pace states; null where there is none. */
  readonly statedMs: number | null;
}

export interface Calibration {
  readonly fit: CostFit;
  /** |fitted / measured - 1| of the medians that the lines were fitted to. */
  readonly errors: readonly number[];
  readonly gaps: number;
  readonly messages: number;
}

const PASS_OF: Readonly<Record<PassKind, LayerPass>> = { F: "forward", B: "backwardInput", W: "backwardWeight" };
/** Of messages: where fewer waited for no other, all are taken. */
const LONE_SHARE_MIN = 0.02;
/** Of standard normal numbers a tenth is above. */
const NORMAL_QUANTILE_90 = 1.2816;
/** Standard deviations in a median absolute deviation, of normal numbers. */
const DEVIATION_SCALE = 1.4826;

/**
 * @param runs all paced, or none
 * @throws DataError where their timelines hold no operation
 * @throws UsageError for paced runs beside unpaced ones
 */
export function calibrate(runs: readonly MeasuredRun[]): Calibration {
  const isPaced = runs[0]?.settings.pace !== null;
  if (runs.some(({ settings }) => (settings.pace !== null) !== isPaced)) {
    throw new UsageError("--from names paced runs and others: their costs differ in kind", "calibrate from one kind");
  }
  const steady = runs.map((run) => ({ ...run, timelines: withoutFirstStep(run.timelines) }));
  const variation = variationOf(steady);
  // An operation's mean: a lognormal's median is less.
  const points = steady.flatMap((run) => pointsOf(run, Math.hypot(1, variation)));
  if (points.length === 0) {
    throw new DataError("the runs' timelines hold no operation", "run again with --timeline last:20");
  }
  const gaps = steady.flatMap(({ timelines, settings }) =>
    timelines.flatMap((timeline) => gapSamples(timeline, stagesOf(settings))),
  );
  const { line: message, count, sigma: messageSigma } = messageLine(steady);
  const messagesSent = sumOf(runs.map((run) => run.messagesSent));
  const cpu = messagesSent > 0 ? sumOf(runs.map((run) => run.communicationCpuMs)) / (2 * messagesSent) : 0;
  const fitOf = (pass: Point["pass"]): Line => fitPoints(points.filter((point) => point.pass === pass));
  const fit: CostFit = {
    ...{ isPaced, variation, update: fitOf("update") },
    passes: {
      forward: fitOf("forward"),
      backwardInput: fitOf("backwardInput"),
      backwardWeight: fitOf("backwardWeight"),
    },
    operationOverheadMs: median(gaps),
    messageCpuMs: Math.min(cpu, message.intercept / 2),
    latencyMs: Math.max(0, message.intercept - 2 * cpu),
    msPerByte: message.slope,
    ...{ overheadSigma: sigmaOf(gaps), messageSigma },
  };
  return { fit, errors: points.map((point) => errorOf(point, fit)), gaps: gaps.length, messages: count };
}

function stagesOf(settings: Settings): Stages {
  const { nodes, laps, kind } = shapeOf(settings, settings.nodes);
  return { nodes, laps, fused: isFused(kind) };
}

function pointsOf({ settings, cut, timelines }: MeasuredRun, meanOverMedian: number): readonly Point[] {
  const { layers } = parseModel(settings.model);
  const { batch, microBatches, nodes, pace } = settings;
  const speeds = pace === null ? null : parsePace(pace, nodes);
  return timelines.flatMap((timeline): readonly Point[] => {
    const { node } = timeline;
    const passes = passSamples(timeline).map(({ lap, kind, durations }): Point => {
      const range = defined(cut[lap * nodes + node], "a segment");
      const pass = PASS_OF[kind];
      const work = segmentFlops(layers, range, batch / microBatches, pass);
      const stated = speeds === null ? null : statedMs(work, defined(speeds[node], "a speed"));
      return { pass, work, ms: median(durations) * meanOverMedian, statedMs: stated };
    });
    const updates = updateSamples(timeline);
    if (updates.length === 0) return passes;
    const held = cut.filter((_, stage) => stage % nodes === node);
    const work = sumOf(held.map(([start, end]) => parametersOf(layers.slice(start, end))));
    return [...passes, { pass: "update", work, ms: median(updates) * meanOverMedian, statedMs: null }];
  });
}

/** Paced passes are beside what was stated by a constant; those without work are not paced. */
function fitPoints(points: readonly Point[]): Line {
  const paced = points.flatMap((point) =>
    point.statedMs !== null && point.work > 0 ? [point.ms - point.statedMs] : [],
  );
  if (paced.length > 0) return { slope: 0, intercept: Math.max(0, median(paced)) };
  // By relative error: a short operation counts as much as a long one.
  return fitLine(points.map(({ work, ms }) => ({ x: work, y: ms, weight: ms > 0 ? 1 / (ms * ms) : 0 })));
}

/** Least squares with neither slope nor intercept below 0; through the origin where x does not vary. */
export function fitLine(points: readonly { readonly x: number; readonly y: number; readonly weight: number }[]): Line {
  const mean = (value: (point: { readonly x: number; readonly y: number }) => number): number =>
    sumOf(points.map((point) => point.weight * value(point))) / sumOf(points.map(({ weight }) => weight));
  if (!points.some(({ weight }) => weight > 0)) return { slope: 0, intercept: 0 };
  const [x, y, xx, xy] = [
    mean((point) => point.x),
    mean((point) => point.y),
    mean((p) => p.x * p.x),
    mean((p) => p.x * p.y),
  ];
  const variance = xx - x * x;
  const slope = variance > 1e-9 * xx ? (xy - x * y) / variance : xx > 0 ? xy / xx : 0;
  if (slope < 0 || xx === 0) return { slope: 0, intercept: y };
  const intercept = y - slope * x;
  return intercept >= 0 ? { slope, intercept } : { slope: xy / xx, intercept: 0 };
}

/** Coefficient of variation of an operation, from its logarithm: robust against stalls. */
function variationOf(runs: readonly MeasuredRun[]): number {
  const deviations = runs.flatMap(({ timelines }) =>
    timelines.flatMap(passSamples).flatMap(({ durations }) => {
      const middle = median(durations);
      return middle > 0 ? durations.filter((ms) => ms > 0).map((ms) => Math.log(ms / middle)) : [];
    }),
  );
  if (deviations.length === 0) return 0;
  const sigma = DEVIATION_SCALE * medianAbsoluteDeviation(deviations);
  return Math.sqrt(Math.expm1(sigma * sigma));
}

/** Of the logarithm, from the upper half: an event loop is held up now and then, and never runs ahead. */
function sigmaOf(values: readonly number[]): number {
  const middle = median(values);
  return middle > 0 ? Math.max(0, Math.log(quantile([...values], 0.9) / middle) / NORMAL_QUANTILE_90) : 0;
}

interface MessageFit {
  readonly line: Line;
  readonly sigma: number;
  readonly count: number;
}

/** Delays over bytes, less what an emulated link takes of them. */
function messageLine(runs: readonly MeasuredRun[]): MessageFit {
  const delays = runs.flatMap(ownDelays);
  const sizes = [...grouped(delays, ({ bytes }) => bytes)].map(([bytes, group]) => {
    const values = group.map(({ delay }) => delay);
    const middle = Math.max(0, median(values));
    return { x: bytes, y: middle, weight: group.length, ratios: values.map((value) => value / middle) };
  });
  const [only] = sizes;
  const rest = { sigma: sigmaOf(sizes.flatMap(({ y, ratios }) => (y > 0 ? ratios : []))), count: delays.length };
  // One size tells nothing of a rate.
  if (sizes.length === 1 && only !== undefined) return { line: { slope: 0, intercept: only.y }, ...rest };
  return { line: fitLine(sizes), ...rest };
}

/** Of messages that waited for no other one: the simulator lets them wait. Of all, where next to none was alone. */
function ownDelays({
  timelines,
  settings,
}: MeasuredRun): readonly { readonly bytes: number; readonly delay: number }[] {
  const { rateBytesPerMs, latencyMs } =
    settings.link === null ? { rateBytesPerMs: null, latencyMs: 0 } : parseLink(settings.link);
  const transfer = (bytes: number): number => (rateBytesPerMs === null ? 0 : bytes / rateBytesPerMs);
  const all = delaySamples(timelines, stagesOf(settings));
  const least = all.reduce((found, { sentMs, receivedMs }) => Math.min(found, receivedMs - sentMs), Infinity);
  const lone = loneDelays(all, timelines, Math.max(0, least - latencyMs));
  return (lone.length < LONE_SHARE_MIN * all.length ? all : lone).map(({ bytes, sentMs, receivedMs }) => ({
    bytes,
    delay: receivedMs - sentMs - latencyMs - transfer(bytes),
  }));
}

function errorOf({ pass, work, ms, statedMs: stated }: Point, fit: CostFit): number {
  const { slope, intercept } = pass === "update" ? fit.update : fit.passes[pass];
  const fitted = (stated ?? slope * work) + intercept;
  return ms > 0 ? Math.abs(fitted / ms - 1) : 0;
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
