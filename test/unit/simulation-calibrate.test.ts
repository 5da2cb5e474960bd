/** @file Calibration from timelines that the simulator wrote: what it was told comes back. */
import { describe, expect, test } from "vitest";
import { calibrate, fitLine, type MeasuredRun } from "../../ring/simulation/calibrate.ts";
import { planSimulation, type CostFit } from "../../ring/simulation/plan.ts";
import { summarize } from "../../ring/simulation/result.ts";
import { parseSimulation } from "../../ring/simulation/settings.ts";
import { simulate } from "../../ring/simulation/simulate.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";

const KNOWN: CostFit = {
  isPaced: false,
  passes: {
    forward: { slope: 2e-7, intercept: 0.11 },
    backwardInput: { slope: 2.5e-7, intercept: 0.07 },
    backwardWeight: { slope: 3e-7, intercept: 0.2 },
  },
  update: { slope: 4e-6, intercept: 0.3 },
  ...{ operationOverheadMs: 0.25, messageCpuMs: 0.15, latencyMs: 0.6, msPerByte: 2e-6 },
  ...{ variation: 0, overheadSigma: 0, messageSigma: 0 },
};
const MODEL = "mlp:300-200-100-400-150-250-90-60-10";

/** A run as the simulator writes it with known costs. */
function runOf(fit: CostFit, values: Readonly<Record<string, unknown>>): MeasuredRun {
  const settings = parseSimulation({ model: MODEL, batch: 128, microBatches: 8, steps: 6, ...values }, () => "");
  const plan = planSimulation(settings, fit);
  const { outcome, recording } = simulate(settings, plan, { timelineSteps: Infinity, wantsTasks: false });
  const perNode = summarize(settings, plan, outcome)["perNode"] as Record<
    "communicationCpuMs" | "messagesSent",
    number
  >[];
  const sum = (name: "communicationCpuMs" | "messagesSent"): number =>
    perNode.reduce((total, node) => total + node[name], 0);
  return {
    settings: settings.run,
    cut: plan.model?.cut ?? [],
    timelines: outcome.nodes.map((_, node) => ({ node, entries: recording?.entries(node) ?? [] })),
    ...{ communicationCpuMs: sum("communicationCpuMs"), messagesSent: sum("messagesSent") },
  };
}

/** Every number of the fit, by its path. */
function numbersOf(value: unknown, path = ""): readonly (readonly [string, number])[] {
  if (typeof value === "number") return [[path, value]];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, part]) => numbersOf(part, `${path}.${name}`));
}

function expectWithin(fitted: CostFit, known: CostFit, tolerance: number): void {
  const found = new Map(numbersOf(fitted));
  for (const [path, number] of numbersOf(known)) {
    const error = Math.abs((found.get(path) ?? Number.NaN) - number);
    expect(error, `${path}: ${found.get(path)}, not ${number}`).toBeLessThanOrEqual(tolerance * number + 1e-9);
  }
}

describe.each(["1f1b", "zb-h1", "zero-bubble", "gpipe"])("%s", (schedule) => {
  test("costs of unpaced runs come back within 1 %", () => {
    const runs = [runOf(KNOWN, { schedule, nodes: 4 }), runOf(KNOWN, { schedule, nodes: 2, link: "3ms" })];
    const { fit, errors, messages } = calibrate(runs);
    expectWithin(fit, KNOWN, 0.01);
    expect(Math.max(...errors)).toBeLessThan(0.01);
    expect(messages).toBeGreaterThan(0);
  });
});

test("costs of paced runs come back within 1 %", () => {
  const { passes, ...known } = KNOWN;
  const constant = ({ intercept }: { readonly intercept: number }) => ({ slope: 0, intercept });
  const paced: CostFit = {
    ...known,
    isPaced: true,
    passes: {
      forward: constant(passes.forward),
      backwardInput: constant(passes.backwardInput),
      backwardWeight: constant(passes.backwardWeight),
    },
  };
  const stated = { nodes: 4, link: "800mbit,1ms" };
  // Micro-batches of two sizes: one alone tells nothing of a rate.
  const runs = [
    runOf(paced, { ...stated, pace: "2GFLOP/s" }),
    runOf(paced, { ...stated, pace: "1,2,2,1GFLOP/s", batch: 256 }),
  ];
  const { fit } = calibrate(runs);
  expectWithin(fit, paced, 0.01);
  expect(fit.isPaced).toBe(true);
});

test("laps: each segment of a node has its own costs", () => {
  const { fit } = calibrate([runOf(KNOWN, { nodes: 2, laps: 3, schedule: "zero-bubble" })]);
  // Between two nodes hardly a message is alone, and some that seem to be have waited.
  const { messageSigma, ...others } = KNOWN;
  expectWithin(fit, { ...others, messageSigma: fit.messageSigma }, 0.01);
  expect(fit.messageSigma - messageSigma).toBeLessThan(0.03);
});

test("the spread of an operation comes back within 10 %, and its mean within 3 %", () => {
  const stated = { nodes: 4, jitter: 0.3, steps: 40, schedule: "1f1b" };
  const { fit } = calibrate([4, 8, 32].map((microBatches) => runOf(KNOWN, { ...stated, microBatches })));
  expect(Math.abs(fit.variation - 0.3)).toBeLessThan(0.03);
  expect(Math.abs(fit.operationOverheadMs - 0.25)).toBeLessThan(0.0025);
  const mean = 2e-7 * 1e6 + 0.11;
  expect(Math.abs(fit.passes.forward.slope * 1e6 + fit.passes.forward.intercept - mean)).toBeLessThan(0.03 * mean);
});

test("tails of what lies between operations, and of messages, come back within 10 %", () => {
  const tails = { ...KNOWN, overheadSigma: 0.5, messageSigma: 0.7 };
  const { fit } = calibrate([runOf(tails, { nodes: 4, steps: 60, schedule: "1f1b" })]);
  expect(Math.abs(fit.overheadSigma - 0.5)).toBeLessThan(0.05);
  expect(Math.abs(fit.messageSigma - 0.7)).toBeLessThan(0.07);
  expect(Math.abs(fit.operationOverheadMs - 0.25)).toBeLessThan(0.01);
});

test("what was fitted is simulated as it was measured", () => {
  const values = { nodes: 4, schedule: "1f1b" };
  const settings = parseSimulation({ model: MODEL, batch: 128, microBatches: 8, steps: 6, ...values }, () => "");
  const idleOf = (fit: CostFit): number => {
    const plan = planSimulation(settings, fit);
    const { outcome } = simulate(settings, plan, { timelineSteps: 0, wantsTasks: false });
    return summarize(settings, plan, outcome)["idlePercentSteady"] as number;
  };
  const { fit } = calibrate([runOf(KNOWN, values), runOf(KNOWN, { nodes: 2 })]);
  expect(Math.abs(idleOf(fit) - idleOf(KNOWN))).toBeLessThan(0.2);
});

describe("refused", () => {
  test("paced runs beside others", () => {
    const paced = runOf({ ...KNOWN, isPaced: true }, { pace: "1GFLOP/s", nodes: 2 });
    expect(() => calibrate([paced, runOf(KNOWN, { nodes: 2 })])).toThrow(UsageError);
  });

  test("timelines without an operation", () => {
    const run = runOf(KNOWN, { nodes: 2 });
    expect(() => calibrate([{ ...run, timelines: [] }])).toThrow(DataError);
  });
});

describe("a line", () => {
  const points = (...pairs: readonly (readonly [number, number])[]) => pairs.map(([x, y]) => ({ x, y, weight: 1 }));

  test.each([
    ["through two points", points([1, 3], [2, 5]), 2, 1],
    ["that would begin below 0 begins at 0", points([1, 1], [2, 3]), 7 / 5, 0],
    ["that would fall is level", points([1, 5], [2, 3]), 0, 4],
    ["of one work has no constant", points([2, 6], [2, 8]), 3.5, 0],
    ["of no work is a constant", points([0, 6], [0, 8]), 0, 7],
    ["without points is 0", [], 0, 0],
  ])("%s", (_, given, slope, intercept) => {
    const line = fitLine(given);
    expect(line.slope).toBeCloseTo(slope, 12);
    expect(line.intercept).toBeCloseTo(intercept, 12);
  });
});
