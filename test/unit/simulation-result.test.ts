/** @file A simulation's summary against closed forms, hand counts and the fields of a real run. */
import { describe, expect, test } from "vitest";
import { dryRunIdle } from "../../ring/simulation/dry-run.ts";
import { IDEAL_FIT, planSimulation } from "../../ring/simulation/plan.ts";
import { summarize } from "../../ring/simulation/result.ts";
import { parseSimulation } from "../../ring/simulation/settings.ts";
import { simulate } from "../../ring/simulation/simulate.ts";
import { SCHEDULE_KINDS } from "../../ring/core/schedule.ts";
import { parseSettings } from "../../src/config/settings.ts";
import { buildSummary } from "../../src/metrics/summary.ts";

type Values = Readonly<Record<string, unknown>>;
type Node = Readonly<Record<string, number>>;

function run(values: Values) {
  const settings = parseSimulation(values, () => "");
  const plan = planSimulation(settings, IDEAL_FIT);
  const result = simulate(settings, plan, { timelineSteps: Infinity, wantsTasks: true });
  return { ...result, plan, summary: summarize(settings, plan, result.outcome) };
}
const summaryOf = (values: Values): Values & { readonly perNode: readonly Node[] } =>
  run(values).summary as Values & { readonly perNode: readonly Node[] };

test("every field of a real run's summary is there", () => {
  const settings = parseSettings({ nodes: 2 });
  const facts = { settings, parameters: 1, engine: "wasm", losses: [1], firstStep: 0, testAccuracy: null };
  const real = buildSummary({ ...facts, idleTheory: 0, idleFormula: 0 }, []);
  const simulated = summaryOf({ nodes: 2 });
  expect(Object.keys(simulated)).toEqual(expect.arrayContaining(Object.keys(real)));
  for (const name of ["firstLoss", "finalLoss", "testAccuracy", "lossCurveSha256", "weightsSha256"]) {
    expect(simulated[name], name).toBeNull();
  }
  expect([simulated["simulated"], simulated["timeUnit"]]).toEqual([true, "units"]);
});

describe("units", () => {
  test.each(SCHEDULE_KINDS)("%s meets its closed form", (schedule) => {
    const summary = summaryOf({ nodes: 4, microBatches: 8, schedule });
    expect(summary["idlePercentSteady"]).toBeCloseTo(summary["idlePercentFormula"] as number, 10);
    expect(summary["idlePercentTheory"]).toBeCloseTo(summary["idlePercentFormula"] as number, 10);
  });

  test("1f1b, counted by hand", () => {
    const { perNode, ...summary } = summaryOf({ nodes: 3, microBatches: 5, schedule: "1f1b", steps: 4 });
    // A step: (5 + 2) turns of F, B and W at node 0.
    expect([summary["stepMsMedian"], summary["wallMs"]]).toEqual([21, 4 * 21]);
    for (const node of perNode) expect(node["computeMs"]).toBe(4 * 5 * 3);
    // Activations, gradients, and node 0's labels.
    expect(perNode.map((node) => node["messagesSent"])).toEqual([4 * 5 + 4, 4 * 10, 4 * 5]);
    expect(summary["bytesPerStep"]).toBeNull();
  });

  test("a node's times are divided by its speed", () => {
    const { perNode, ...summary } = summaryOf({ nodes: 2, microBatches: 4, speeds: "2,0.5", costs: "1,2,3", steps: 3 });
    expect(perNode.map((node) => node["computeMs"])).toEqual([(3 * 4 * 6) / 2, (3 * 4 * 6) / 0.5]);
    // The slow node is never idle once it has begun: the fast one works a quarter of the time.
    expect(summary["idlePercentSteady"]).toBeCloseTo(37.5, 10);
  });

  test("latency makes a step longer than its dry run", () => {
    const summary = summaryOf({ nodes: 8, microBatches: 64, schedule: "1f1b", hopLatency: 1 });
    expect(summary["idlePercentSteady"]).toBeCloseTo(43, 1);
    expect(summary["idlePercentTheory"]).toBeCloseTo(100 * (7 / 71), 10);
  });

  test("fewer than three steps have no steady state", () => {
    expect(summaryOf({ nodes: 2, steps: 2 })["idlePercentSteady"]).toBeNull();
    expect(summaryOf({ nodes: 1, steps: 3 })["idlePercentSteady"]).toBe(0);
  });
});

describe("chance", () => {
  const far = { nodes: 8, microBatches: 64, hopLatency: 0.2, jitter: 0.5, steps: 20 };

  test("the same seed, the same summary; another seed, another one", () => {
    const [first, again, other] = [1, 1, 2].map((seed) => summaryOf({ ...far, steps: 3, seed }));
    expect(again).toEqual(first);
    expect(other?.["wallMs"]).not.toBe(first?.["wallMs"]);
  });

  // Means of five runs of twenty steps: 38.8 and 24.2. The reference has one run of four steps, which spread by 1.5 points.
  test.each([
    ["1f1b", 37.7],
    ["zb-h1", 23.3],
  ])("%s is as idle as the reference at a variation of one half", (schedule, reference) => {
    const idle = [1, 2, 3, 4, 5].map((seed) => summaryOf({ ...far, schedule, seed })["idlePercentSteady"] as number);
    const mean = idle.reduce((sum, value) => sum + value, 0) / idle.length;
    expect(Math.abs(mean - reference)).toBeLessThan(1.5);
  });

  test("an operation's time has the stated mean and variation, and is lognormal", () => {
    const { recording } = run({ nodes: 1, microBatches: 20_000, jitter: 0.5, steps: 1, schedule: "1f1b" });
    const forwards = recording?.entries(0).filter(({ kind }) => kind === "F") ?? [];
    const times = forwards.map(({ startMs, endMs }) => endMs - startMs);
    const meanOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const mean = meanOf(times);
    // Four standard errors.
    expect(Math.abs(mean - 1)).toBeLessThan((4 * 0.5) / Math.sqrt(times.length));
    const deviation = Math.sqrt(meanOf(times.map((time) => (time - mean) ** 2)));
    expect(Math.abs(deviation - 0.5)).toBeLessThan(0.03);
    // A lognormal's logarithms are symmetric: half of the times are below the geometric mean.
    const logarithms = times.map(Math.log);
    const middle = meanOf(logarithms);
    const below = logarithms.filter((value) => value < middle).length / times.length;
    expect(Math.abs(below - 0.5)).toBeLessThan(0.015);
  });
});

describe("a model", () => {
  const model = { model: "mlp:100-100-100-100-100", batch: 64, microBatches: 8, nodes: 4, pace: "2GFLOP/s" };

  test("takes its work at the pace; the first layer has no gradient to send", () => {
    const { perNode, ...summary } = summaryOf({ ...model, steps: 3 });
    const passMs = (2 * 100 * 100 * 8) / 2e6;
    for (const [node, { computeMs }] of perNode.entries()) {
      expect(computeMs).toBeCloseTo(3 * 8 * passMs * (node === 0 ? 2 : 3), 8);
    }
    expect(perNode.map((node) => node["layers"])).toEqual([[[0, 1]], [[1, 2]], [[2, 3]], [[3, 4]]]);
    expect(summary["parameters"]).toBe(4 * (100 * 100 + 100));
    // Six hops of eight micro-batches with headers, and the labels.
    const messages = 6 * 8 * (8 * 100 * 4 + 80) + 64 * 4 + 80;
    // Of each layer's gradient for its copy a frame, and one that ends it.
    const gradient = 4 * (100 * 100 + 100) + 2 * 80;
    expect(summary["bytesPerStep"]).toBe(messages + 4 * gradient);
    expect(summaryOf({ ...model, replicas: 0 })["bytesPerStep"]).toBe(messages);
    const { perNode: three } = summaryOf({ ...model, steps: 3, replicas: 3 });
    expect(Number(three[1]!["bytesReceived"]) - Number(perNode[1]!["bytesReceived"])).toBe(3 * 2 * gradient);
    expect(summary["busiestNodeBytesPerStep"]).toBe(4 * 8 * (8 * 100 * 4 + 80) + 2 * gradient);
    expect(summary["timeUnit"]).toBe("ms");
  });

  test("an emulated link costs its latency and its bytes", () => {
    const far = { ...model, schedule: "naive", steps: 3 };
    const near = summaryOf(far)["stepMsMedian"] as number;
    const hop = 5 + (8 * 100 * 4 + 80) / (10e6 / 8e3);
    // One micro-batch at a time: three hops there and three back.
    expect(summaryOf({ ...far, link: "10mbit,5ms" })["stepMsMedian"]).toBeCloseTo(near + 8 * 6 * hop, 6);
  });

  test("nodes of other speeds get other shares of it, unless the cut is to stay", () => {
    const uneven = { model: "mlp:50-50-50-50-50-50-50", nodes: 2, pace: "2,1GFLOP/s", batch: 64, steps: 3 };
    const layers = (balance: string) => summaryOf({ ...uneven, balance }).perNode.map((node) => node["layers"]);
    expect(layers("auto")).toEqual([[[0, 4]], [[4, 6]]]);
    expect(layers("off")).toEqual([[[0, 3]], [[3, 6]]]);
  });

  test("a memory limit shortens the windows", () => {
    const large = {
      model: "mlp:4096-4096-4096",
      batch: 4096,
      microBatches: 16,
      nodes: 2,
      replicas: 0,
      pace: "1GFLOP/s",
      steps: 3,
    };
    const free = summaryOf({ ...large, optimizer: "sgd", link: "1s" });
    const tight = summaryOf({ ...large, optimizer: "sgd", link: "1s", memoryLimit: "362MiB" });
    expect(tight["idlePercentSteady"]).toBeGreaterThan((free["idlePercentSteady"] as number) + 1);
  });
});

describe("dry run", () => {
  const uniform = (nodes: number, forward: number, backward: number, weight: number, update = 0) =>
    Array.from({ length: nodes }, () => ({ laps: [{ forward, backward, weight }], update }));
  const shapeOf = (kind: "1f1b" | "gpipe", nodes: number, microBatches: number) => ({
    kind,
    nodes,
    laps: 1,
    microBatches,
  });

  test("one node never waits, whatever it costs", () => {
    for (const kind of SCHEDULE_KINDS) {
      expect(dryRunIdle({ kind, nodes: 1, laps: 1, microBatches: 3 }, uniform(1, 3, 5, 0, 7)), kind).toBe(0);
    }
  });

  test("an update that every node pays fills part of the bubble: nodes update while others drain", () => {
    const idle = dryRunIdle(shapeOf("1f1b", 4, 8), uniform(4, 1, 1, 1, 5));
    // A step's period: (m + p - 1) turns of F, B and W at node 0, and its update.
    expect(idle).toBeCloseTo(1 - (8 * 3 + 5) / ((8 + 3) * 3 + 5), 14);
  });

  test("a node twice as slow makes the others wait for it", () => {
    const costs = [...uniform(1, 1, 1, 1), ...uniform(1, 2, 2, 2)];
    // Two nodes, one micro-batch: they take turns, F F B B, and never work at the same time.
    expect(dryRunIdle(shapeOf("gpipe", 2, 1), costs)).toBeCloseTo(1 - (3 + 6) / (2 * 9), 14);
  });
});
