/** @file The summary from the nodes' reports: digests against hashes made by hand, sums against sums. */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { parseSettings } from "../../src/config/settings.ts";
import { buildSummary, lossCurveSha256, median, modelSha256 } from "../../src/metrics/summary.ts";
import { weightsSha256 } from "../../src/nn/digest.ts";
import { madeReport as report, sha } from "../helpers/made-report.ts";

test("the curve's digest is over little-endian float64 in step order", () => {
  const losses = [2.3125, 0.1, -0, Number.MIN_VALUE, 1e300];
  const bytes = Buffer.alloc(8 * losses.length);
  losses.forEach((loss, step) => bytes.writeDoubleLE(loss, 8 * step));
  expect(lossCurveSha256(losses)).toBe(createHash("sha256").update(bytes).digest("hex"));
  expect(lossCurveSha256([1, 2])).not.toBe(lossCurveSha256([2, 1]));
  expect(lossCurveSha256([0.5])).toBe(
    createHash("sha256").update(Buffer.from("000000000000e03f", "hex")).digest("hex"),
  );
  expect(lossCurveSha256([])).toBe(sha(""));
});

describe("the model's digest", () => {
  const digests = Array.from({ length: 12 }, (_, layer) => sha(`layer ${layer}`));
  const expected = createHash("sha256")
    .update(Buffer.from(digests.join(""), "hex"))
    .digest("hex");
  const held = (layers: readonly number[]) =>
    Object.fromEntries(layers.map((layer) => [String(layer), digests[layer]!]));

  test("is over the layers' digests in layer order, 10 after 9, wherever they are held", () => {
    expect(modelSha256([held([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])])).toBe(expected);
    expect(modelSha256([held([8, 9, 10, 11]), held([0, 1]), held([2, 3, 4, 5, 6, 7])])).toBe(expected);
    expect(modelSha256(digests.map((_, layer) => held([layer])).toReversed())).toBe(expected);
    expect(weightsSha256(digests.map((digest) => Buffer.from(digest, "hex")))).toBe(expected);
  });

  test("differs where two layers are exchanged", () => {
    const exchanged = { ...held([0, 1]), 0: digests[1]!, 1: digests[0]! };
    expect(modelSha256([exchanged])).not.toBe(modelSha256([held([0, 1])]));
  });
});

test.each([
  [[], 0],
  [[3], 3],
  [[10, 9], 9.5],
  [[100, 9, 20], 20],
])("the median of %j is %d", (values, expected) => {
  expect(median(values)).toBe(expected);
});

describe("a summary", () => {
  const settings = parseSettings({ nodes: 2, batch: 128, microBatches: 8, steps: 10 });
  const facts = {
    ...{ settings, parameters: 20, engine: "wasm", losses: [3, 2, 1, 0.5], firstStep: 2, testAccuracy: 0.9 },
    ...{ idleTheory: 0.1, idleFormula: 1 / 9 },
  };

  test("sums over the nodes, and counts per step that this run did", () => {
    expect(buildSummary(facts, [report(0), report(1)])).toMatchObject({
      ...{ system: "ring", nodes: 2, parameters: 20, steps: 4, firstLoss: 3, finalLoss: 0.5, testAccuracy: 0.9 },
      ...{ wallMs: 100, samplesPerSecond: (1000 * 128 * 2) / 100, stepMsMedian: 7 },
      ...{ idlePercent: 25, idlePercentSteady: 6.25, idlePercentTheory: 10, idlePercentFormula: 100 / 9 },
      ...{ runQueuePercent: 5, bytesPerStep: 1_500, busiestNodeBytesPerStep: 1_250, peakRssBytesMax: 101 },
      lossCurveSha256: lossCurveSha256([3, 2, 1, 0.5]),
      weightsSha256: modelSha256([{ 0: sha("0"), 1: sha("1") }]),
      initialWeightsSha256: modelSha256([{ 0: sha("initial 0"), 1: sha("initial 1") }]),
      ...{ exact: true, simulated: false, views: 1, lostCommittedSteps: 0, recomputedSteps: 0, recoveries: [] },
    });
  });

  test("shows each node's account, whose parts are its wall time", () => {
    const perNode = buildSummary(facts, [report(0), report(1)])["perNode"] as Record<string, number>[];
    expect(perNode.map((node) => node["node"])).toEqual([0, 1]);
    for (const node of perNode) {
      const parts = ["computeMs", "communicationMs", "runQueueMs", "waitMs"].map((part) => node[part]!);
      expect(parts.reduce((sum, part) => sum + part, 0)).toBe(node["wallMs"]);
      expect(node["idlePercent"]).toBe(25);
    }
  });

  test("of a serial run names no schedule, and its idle formula may be absent", () => {
    const serial = { ...facts, settings: parseSettings({ system: "serial" }), idleFormula: null, testAccuracy: null };
    expect(buildSummary(serial, [report(0)])).toMatchObject({
      ...{ system: "serial", nodes: 1, schedule: null, idlePercentFormula: null, testAccuracy: null },
    });
  });

  const asStated = {
    pacedOperations: 0,
    missedPaces: 0,
    worstPaceRatio: 1,
    shapedParts: 0,
    lateParts: 0,
    worstLateMs: 0,
  };

  test("names nothing as emulated where nothing is", () => {
    const { emulated } = buildSummary(facts, [report(0), report(1)]);
    expect(emulated).toEqual({ pace: null, link: null, memoryLimit: null, ...asStated });
  });

  test("says what is emulated, and how often it was missed: sums over the nodes, the worst of all", () => {
    const stated = { pace: "2,1MFLOP/s", link: "1gbit,1ms", memoryLimit: "1GiB" };
    const emulating = { ...facts, settings: parseSettings({ ...settings, ...stated }) };
    const reports = [
      report(0, { pace: { paced: 90, missed: 2, worstRatio: 1.5 }, link: { sent: 40, late: 3, worstLateMs: 7 } }),
      report(1, { pace: { paced: 10, missed: 1, worstRatio: 4 }, link: { sent: 2, late: 0, worstLateMs: 0 } }),
    ];
    expect(buildSummary(emulating, reports)["emulated"]).toEqual({
      ...stated,
      ...{ pacedOperations: 100, missedPaces: 3, worstPaceRatio: 4, shapedParts: 42, lateParts: 3, worstLateMs: 7 },
    });
    const kept = [report(0, { pace: { paced: 5, missed: 0, worstRatio: 0.9 } }), report(1)];
    expect(buildSummary(emulating, kept)["emulated"]).toEqual({ ...stated, ...asStated, pacedOperations: 5 });
  });

  test("of several laps says so, and a node's layers by lap", () => {
    const lapped = { ...facts, settings: parseSettings({ ...settings, laps: 2 }) };
    const layers = [
      [0, 1],
      [2, 4],
    ] as const;
    const summary = buildSummary(lapped, [report(0, { layers }), report(1)]);
    expect(summary).toMatchObject({ laps: 2, schedule: "zero-bubble", perNode: [{ layers }, { layers: [[1, 2]] }] });
  });

  test("of no step has no loss, and divides by nothing", () => {
    const none = buildSummary({ ...facts, losses: [], firstStep: 0 }, [report(0)]);
    expect(none).toMatchObject({
      steps: 0,
      firstLoss: null,
      finalLoss: null,
      samplesPerSecond: 0,
      bytesPerStep: 1_000,
    });
  });
});
