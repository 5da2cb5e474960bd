/**
 * @file From settings to what the simulator runs: each node's costs, in units or as a model's work at a pace, and the links.
 * Limit: a slice of a W takes its layer's mean, and a node's micro-batches are limited as a whole, not lap by lap.
 */
import { parseLink, parsePace } from "../../src/config/emulation.ts";
import type { Settings } from "../../src/config/settings.ts";
import { LAYER_PASSES, operationFlops, type LayerPass } from "../../src/nn/flops.ts";
import { parameterCount, parseModel, type DenseSpec } from "../../src/nn/spec.ts";
import { HEADER_BYTES } from "../../src/wire/header.ts";
import { defined } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { bestPartition, type LayerRange } from "../core/partition.ts";
import type { ScheduleShape, Task } from "../core/schedule.ts";
import { CAN_SPLIT, layerBytes, layersCapBytes, planNode, rangesOf, shapeOf } from "../runtime/segments.ts";
import type { Tails } from "./jitter.ts";
import type { LinkModel } from "./links.ts";
import type { SimulationSettings, UnitCosts } from "./settings.ts";
import type { NodeCosts } from "./simulator.ts";

/** `slope · work + intercept`, in milliseconds. */
export interface Line {
  readonly slope: number;
  readonly intercept: number;
}

/** What operations and messages take beside, or instead of, what a pace states. Times in milliseconds. */
export interface CostFit {
  /** Whether a pass takes what the pace states, and its line's intercept more; else its line over FLOP. */
  readonly isPaced: boolean;
  readonly passes: Readonly<Record<LayerPass, Line>>;
  /** Over parameters. */
  readonly update: Line;
  readonly operationOverheadMs: number;
  /** Of the main thread, for a message, at each end. */
  readonly messageCpuMs: number;
  /** Of a message without bytes, one way, beside an emulated link's. */
  readonly latencyMs: number;
  readonly msPerByte: number;
  /** Coefficient of variation of an operation's time. */
  readonly variation: number;
  /** Of the logarithms of what lies between operations, and of a message's time beside an emulated link's. */
  readonly overheadSigma: number;
  readonly messageSigma: number;
}

const nothing: Line = { slope: 0, intercept: 0 };

/** A pace, and no costs beside it. */
export const IDEAL_FIT: CostFit = {
  ...{
    isPaced: true,
    update: nothing,
    operationOverheadMs: 0,
    messageCpuMs: 0,
    latencyMs: 0,
    msPerByte: 0,
    variation: 0,
    overheadSigma: 0,
    messageSigma: 0,
  },
  passes: { forward: nothing, backwardInput: nothing, backwardWeight: nothing },
};

/** Of a simulated model. */
export interface ModelFacts {
  readonly text: string;
  readonly parameters: number;
  /** One a stage. */
  readonly cut: readonly LayerRange[];
  /** By node. */
  readonly nodeParameters: readonly number[];
  /** Of an activation or its gradient with its header, by the lower of the two stages. */
  readonly messageBytes: readonly number[];
}

export interface SimulationPlan {
  readonly shape: ScheduleShape;
  readonly canSplit: boolean;
  readonly tasks?: readonly (readonly Task[])[];
  readonly costs: readonly NodeCosts[];
  readonly slices?: readonly (readonly number[])[];
  readonly heldMax?: readonly number[];
  readonly link: LinkModel;
  readonly operationOverhead: number;
  readonly jitter: number;
  readonly tails: Tails;
  /** Null for unit costs. */
  readonly model: ModelFacts | null;
}

/** @param cut another than the best one, one range a stage */
export function planSimulation(
  settings: SimulationSettings,
  fit: CostFit,
  cut?: readonly LayerRange[],
): SimulationPlan {
  const { run, given, units, jitter } = settings;
  const shape: ScheduleShape =
    given === null
      ? shapeOf(run, run.nodes)
      : { kind: run.schedule, nodes: given.nodes, laps: given.laps, microBatches: given.microBatches };
  const common = {
    ...{ shape, canSplit: CAN_SPLIT, jitter: jitter ?? fit.variation, tails: tailsOf(fit) },
    ...(given === null ? {} : { tasks: given.tasks }),
  };
  return units === null
    ? { ...common, ...planModel(run, shape, fit, cut) }
    : { ...common, ...planUnits(units, shape.laps), operationOverhead: 0, model: null };
}

const tailsOf = ({ overheadSigma, messageSigma, latencyMs, messageCpuMs }: CostFit): Tails => ({
  ...{ overheadSigma, messageSigma },
  messageMs: latencyMs + 2 * messageCpuMs,
});

function planUnits({ forward, backward, weight, hopLatency, speeds }: UnitCosts, laps: number) {
  const costs = speeds.map((speed): NodeCosts => {
    const lap = { forward: forward / speed, backward: backward / speed, weight: weight / speed };
    return { laps: Array.from({ length: laps }, () => lap), update: 0 };
  });
  return { costs, link: { latency: hopLatency } };
}

function planModel(run: Settings, shape: ScheduleShape, fit: CostFit, givenCut?: readonly LayerRange[]) {
  const { nodes, laps } = shape;
  const model = parseModel(run.model);
  const speeds = speedsOf(run, nodes, fit);
  const cut = givenCut ?? cutOf(run, shape, fit, speeds);
  const { batch, microBatches } = run;
  const rows = batch / microBatches;
  const held = Array.from({ length: nodes }, (_, node) => rangesOf(cut, nodes, node));
  const nodeParameters = held.map((ranges) =>
    ranges.reduce((sum, [start, end]) => sum + parametersOf(model.layers.slice(start, end)), 0),
  );
  const costs = held.map((ranges, node): NodeCosts => ({
    laps: ranges.map((range) => {
      const time = (pass: LayerPass): number =>
        timeOf(fit, pass, segmentFlops(model.layers, range, rows, pass), defined(speeds[node], "a speed"));
      return { forward: time("forward"), backward: time("backwardInput"), weight: time("backwardWeight") };
    }),
    update: at(fit.update, defined(nodeParameters[node], "a node")),
  }));
  const messageBytes = cut.slice(0, -1).map(([, end]) => 4 * rows * model.layers[end - 1]!.outputs + HEADER_BYTES);
  const capped = layersCapBytes(run) === null ? {} : { heldMax: heldMaxOf(run, cut, nodes, laps) };
  return {
    ...{ costs, ...capped },
    slices: held.map((ranges) => ranges.map(([start, end]) => end - start)),
    link: linkOf(run, fit, messageBytes),
    operationOverhead: fit.operationOverheadMs,
    model: { text: model.text, parameters: model.parameters, cut, nodeParameters, messageBytes },
  };
}

/** GFLOP/s of each node; a fit of unpaced runs has its own. */
function speedsOf({ pace }: Settings, nodes: number, { isPaced }: CostFit): readonly (number | null)[] {
  if (pace !== null) return parsePace(pace, nodes);
  if (!isPaced) return Array<null>(nodes).fill(null);
  throw new UsageError(
    "--model without --pace: how fast the nodes are is not known",
    "say it with --pace 2GFLOP/s, or calibrate with --from a run that was not paced",
  );
}

export function segmentFlops(layers: readonly DenseSpec[], [start, end]: LayerRange, rows: number, pass: LayerPass) {
  const flopsOf = (layer: DenseSpec, index: number): number => operationFlops(layer, rows, pass, start + index === 0);
  return layers.slice(start, end).reduce((sum, layer, index) => sum + flopsOf(layer, index), 0);
}

export const parametersOf = (layers: readonly DenseSpec[]): number =>
  layers.reduce((sum, layer) => sum + parameterCount(layer), 0);

/** A pass of a micro-batch through a segment. What is beside the arithmetic hides in the sleep of a pace that was not the runs'. */
function timeOf({ isPaced, passes }: CostFit, pass: LayerPass, flops: number, gigaflops: number | null): number {
  const line = passes[pass];
  if (gigaflops === null) return at(line, flops);
  return statedMs(flops, gigaflops) + (isPaced ? line.intercept : 0);
}

export const statedMs = (flops: number, gigaflops: number): number => flops / (gigaflops * 1e6);

const at = ({ slope, intercept }: Line, work: number): number => slope * work + intercept;

/** The best cut at these costs: for nodes of their speeds where layers would move to where the time is, for equal ones elsewhere. */
function cutOf(run: Settings, { nodes, laps }: ScheduleShape, fit: CostFit, speeds: readonly (number | null)[]) {
  const { layers } = parseModel(run.model);
  const rows = run.batch / run.microBatches;
  const times = layers.map((_, index) => {
    const range = [index, index + 1] as const;
    const passes = LAYER_PASSES.map((pass) => ({ pass, flops: segmentFlops(layers, range, rows, pass) }));
    // Without what an operation takes beside: a segment pays that once, however many layers it has.
    return passes.reduce((sum, { pass, flops }) => sum + flops * (fit.isPaced ? 1 : fit.passes[pass].slope), 0);
  });
  const total = times.reduce((sum, time) => sum + time, 0);
  const fastest = Math.max(...speeds.map((speed) => speed ?? 0));
  const slownessOf = (speed: number | null): number => (speed === null ? 1 : Math.round((1000 * fastest) / speed));
  const capBytes = layersCapBytes(run);
  const caps = Array<number | null>(nodes).fill(capBytes);
  return bestPartition({
    layerCosts: times.map((time) => Math.max(1, Math.round((COST_SUM * time) / total))),
    slowness: speeds.map((speed) => (run.balance === "auto" ? slownessOf(speed) : 1)),
    laps,
    ...(capBytes === null ? {} : { memory: { layerBytes: layerBytes(run), capBytes: caps } }),
  }).ranges;
}

/** Costs of a cut are whole numbers that sum up to about this. */
const COST_SUM = 1e9;

function heldMaxOf(run: Settings, cut: readonly LayerRange[], nodes: number, laps: number): readonly number[] {
  return Array.from({ length: nodes }, (_, node) => laps * planNode(run, "wasm", cut, nodes, node).slots);
}

function linkOf({ link }: Settings, fit: CostFit, messageBytes: readonly number[]): LinkModel {
  const { rateBytesPerMs, latencyMs } = link === null ? { rateBytesPerMs: null, latencyMs: 0 } : parseLink(link);
  const msPerByte = fit.msPerByte + (rateBytesPerMs === null ? 0 : 1 / rateBytesPerMs);
  return {
    latency: fit.latencyMs + latencyMs,
    ...(msPerByte > 0 ? { transfers: messageBytes.map((bytes) => bytes * msPerByte) } : {}),
    ...{ sendCpu: fit.messageCpuMs, receiveCpu: fit.messageCpuMs },
  };
}
