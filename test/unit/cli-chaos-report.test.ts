/** @file What `chaos` reports: times against events made by hand, and that every way to differ is told. */
import { describe, expect, test } from "vitest";
import { buildReport, percentiles, recoveriesWithTimes, type ReportInit } from "../../src/cli/chaos-report.ts";
import { lossCurveSha256 } from "../../src/metrics/summary.ts";

const LOSSES = [2.5, 2.25, 2, 1.75, 1.5];
const metricsOf = (losses: readonly number[]) =>
  losses.map((loss, step) => ({ step, loss, samples: 8 * (step + 1), elapsedMs: step, view: 0 }));

const SUMMARY = {
  ...{ steps: 5, views: 4, weightsSha256: "aa", lossCurveSha256: lossCurveSha256(LOSSES) },
  ...{ initialWeightsSha256: "bb", testAccuracy: 0.5 },
};
const recovery = (node: number, view: number, recomputedSteps: number) => ({
  ...{ cause: "closed", node, step: 1, view, detectedMs: 1, resumedMs: 2, recomputedSteps },
});
const viewEvent = (timeMs: number, view: number, ...removed: readonly number[]) => ({
  ...{ kind: "view", timeMs, view },
  removed: removed.map((node) => ({ node, cause: "closed" })),
});
const recovered = (timeMs: number, node: number, view: number, recomputedSteps = 0) => ({
  ...{ kind: "recovered", timeMs, ...recovery(node, view, recomputedSteps) },
});

/** Node 2 at 1000, nodes 0 and 1 at 2000 and 2300, node 3 paused at 5000 and never missed. */
const INIT: ReportInit = {
  faults: [
    { kind: "kill", step: 1, blows: [{ node: 2, signalMs: 1000 }] },
    { kind: "double", step: 2, blows: [0, 1].map((node) => ({ node, signalMs: 2000 + 300 * node })) },
    { kind: "pause:0.2", step: 3, blows: [{ node: 3, signalMs: 5000 }] },
  ],
  startedMs: 500,
  told: new Map(LOSSES.entries()),
  retold: [],
  stuck: null,
  events: [
    { kind: "ready", timeMs: 10, view: 0 },
    viewEvent(900, 1, 2),
    viewEvent(1100, 2, 2),
    recovered(1600, 2, 2, 1),
    viewEvent(2150, 3, 0),
    viewEvent(2500, 4, 1),
    recovered(2900, 0, 3, 2),
    recovered(2900.04, 1, 4, 1),
  ],
  run: {
    summary: { ...SUMMARY, recoveries: [recovery(2, 2, 1), recovery(0, 3, 2), recovery(1, 4, 1), recovery(9, 9, 0)] },
    metrics: metricsOf(LOSSES),
  },
  reference: { summary: SUMMARY, metrics: metricsOf(LOSSES) },
};

describe("times", () => {
  const report = buildReport(INIT);

  test("run from the signal, to the last of several nodes; what was before the signal is not it", () => {
    expect(report.faults).toEqual([
      ...[
        {
          kind: "kill",
          nodes: [2],
          step: 1,
          atMs: 500,
          faultToDetectedMs: 100,
          faultToResumedMs: 600,
          recomputedSteps: 1,
        },
      ],
      ...[
        {
          kind: "double",
          nodes: [0, 1],
          step: 2,
          atMs: 1500,
          faultToDetectedMs: 200,
          faultToResumedMs: 900,
          recomputedSteps: 3,
        },
      ],
      ...[
        {
          kind: "pause:0.2",
          nodes: [3],
          step: 3,
          atMs: 4500,
          faultToDetectedMs: null,
          faultToResumedMs: null,
          recomputedSteps: 0,
        },
      ],
    ]);
    expect(report.faultToDetectedMs).toEqual({ count: 2, p50: 100, p99: 200, max: 200 });
    expect(report).toMatchObject({ isEqual: true, differences: [], recomputedSteps: 4, lostCommittedSteps: 0 });
  });

  test("the next fault's events are not this one's", () => {
    const events = [viewEvent(2600, 3, 2), recovered(2900, 2, 3)];
    expect(buildReport({ ...INIT, events }).faults[0]).toMatchObject({ faultToDetectedMs: null });
  });

  test("go into the summary's recoveries, where the fault is known", () => {
    expect(
      recoveriesWithTimes(INIT).map((each) => [each["node"], each["faultToDetectedMs"], each["faultToResumedMs"]]),
    ).toEqual([...[[2, 100, 600]], ...[[0, 150, 900]], ...[[1, 200, 600]], ...[[9, null, null]]]);
  });

  test("percentiles by nearest rank", () => {
    const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
    expect(percentiles([null, ...hundred])).toEqual({ count: 100, p50: 50, p99: 99, max: 100 });
    expect(percentiles([5])).toEqual({ count: 1, p50: 5, p99: 5, max: 5 });
    expect(percentiles([null])).toBeNull();
  });
});

describe("every difference is told", () => {
  const [first, ...others] = metricsOf(LOSSES);
  const cases: readonly (readonly [string, Partial<ReportInit>, RegExp])[] = [
    ["weights", { run: { ...INIT.run, summary: { ...INIT.run.summary, weightsSha256: "ab" } } }, /weightsSha256 is ab/],
    ["accuracy", { run: { ...INIT.run, summary: { ...INIT.run.summary, testAccuracy: 0.4 } } }, /testAccuracy is 0.4/],
    ["steps", { run: { ...INIT.run, summary: { ...INIT.run.summary, steps: 6 } } }, /steps is 6, undisturbed 5/],
    ["one loss", { run: { ...INIT.run, metrics: metricsOf(LOSSES.with(3, 1.7500000000000002)) } }, /loss of step 3 is/],
    [
      "a step twice",
      { run: { ...INIT.run, metrics: [first!, first!, ...others.slice(1)] } },
      /line 2 .* is step 0, not 1/,
    ],
    ["a step too many", { run: { ...INIT.run, metrics: metricsOf([...LOSSES, 1]) } }, /holds 6 steps, the summary 5/],
    ["a step told and lost", { told: new Map([[7, 1]]) }, /committed steps were lost or changed: 7$/],
    ["a step told otherwise", { told: new Map([[2, 1.99]]) }, /committed steps were lost or changed: 2$/],
    ["a step told twice", { retold: [4] }, /committed steps were lost or changed: 4$/],
    ["a ring that is stuck", { stuck: "the ring was not whole" }, /^the ring was not whole$/],
  ];
  test.each(cases)("%s", (_, changes, told) => {
    const report = buildReport({ ...INIT, ...changes });
    expect(report.isEqual).toBe(false);
    expect(
      report.differences.some((difference) => told.test(difference)),
      report.differences.join("\n"),
    ).toBe(true);
  });
});
