/**
 * @file What copies add to the ring's plan. Oracles: the same plan without copies and closed forms for equal nodes, whose layers
 * are W/p each.
 */
import { describe, expect, test } from "vitest";
import { BASE_BYTES } from "../../ring/index.ts";
import { makePlan, type Plan, type Prediction } from "../../src/plan/plan.ts";
import type { Scenario } from "../../src/plan/scenario.ts";
import { planText } from "../../src/plan/text.ts";
import { scenarioOf } from "../helpers/plan-scenario.ts";

const ringOf = ({ systems }: Plan): Prediction => systems[0]!;
const ringWith = (replicas: number, scenario = scenarioOf()): Prediction =>
  ringOf(makePlan({ ...scenario, replicas }, "zero-bubble"));
const textOf = (scenario: Scenario): string =>
  planText(makePlan(scenario, "1f1b"), scenario, "1f1b", { speed: "1GFLOP/s", link: "1gbit,1ms" }).replaceAll(
    "\n",
    " ",
  );

/** Of the eight equal layers on four nodes. */
const PARAMETERS = 2 * (64 * 64 + 64);
const NODE_BYTES = 4 * PARAMETERS;

describe("copies", () => {
  test("add to the bytes of a step rW in all, rW/p each way at a node", () => {
    const without = ringWith(0);
    for (const replicas of [1, 2, 3]) {
      const { bytesPerStep, busiestNodeBytesPerStep, busiestLinkBytesPerStep } = ringWith(replicas);
      expect(bytesPerStep - without.bytesPerStep).toBe(replicas * 4 * NODE_BYTES);
      expect(busiestNodeBytesPerStep - without.busiestNodeBytesPerStep).toBe(2 * replicas * NODE_BYTES);
      expect(busiestLinkBytesPerStep - without.busiestLinkBytesPerStep).toBe(replicas * NODE_BYTES);
    }
  });

  test("add to a node's memory a version and a gradient of its own, two versions and a gradient of each copy", () => {
    const without = ringWith(0).memory;
    for (const replicas of [1, 2, 3]) {
      const { totalBytes, activationsBytes } = ringWith(replicas).memory;
      expect(activationsBytes).toBe(without.activationsBytes);
      // Adam: a version is three arrays.
      expect(totalBytes - without.totalBytes).toBe((3 + 1 + replicas * (2 * 3 + 1)) * NODE_BYTES);
    }
  });

  test("are the ring's alone", () => {
    const others = (replicas: number) => makePlan(scenarioOf({ replicas }), "zero-bubble").systems.slice(1);
    expect(others(3)).toEqual(others(0));
  });

  test("do not fit where the ring without them does", () => {
    const scenario = scenarioOf({ model: `mlp:${Array<number>(9).fill(1024).join("-")}` });
    const memoryBytes = Math.ceil(
      (ringWith(0, scenario).memory.totalBytes + ringWith(1, scenario).memory.totalBytes) / 2,
    );
    expect([0, 1].map((replicas) => ringWith(replicas, { ...scenario, memoryBytes }).fits)).toEqual([true, false]);
    expect(memoryBytes).toBeGreaterThan(BASE_BYTES);
  });

  test("move the cut where memory rules it: a layer counts with its copies", () => {
    // The first layer has six times the parameters and four times the work of each of the six others.
    const scenario = scenarioOf({ model: `mlp:384-${Array<number>(7).fill(64).join("-")}`, nodes: 2 });
    const cutWith = (replicas: number, memoryBytes: number | null) =>
      makePlan({ ...scenario, replicas, memoryBytes }, "zero-bubble").cut;
    const byTime = [[0, 2], [2, 7]]; // prettier-ignore
    expect(cutWith(1, null)).toEqual(byTime);
    // Adam: state and gradient are four arrays; kept and with an equal neighbour's copies, 8 + 7.
    const room = (arrays: number, layers: number) => BASE_BYTES + arrays * layers * 4 * (64 * 64 + 64);
    expect(cutWith(0, room(15, 6.5))).toEqual(byTime);
    expect(cutWith(1, room(15, 6.5))).toEqual([[0, 1], [1, 7]]); // prettier-ignore
    expect(cutWith(1, room(15, 7.5))).toEqual(byTime);
  });
});

describe("a step with copies", () => {
  const updates = { plainMs: 1e-4, keptMs: 3e-4 };
  const stepsOf = (replicas: number, changes: Parameters<typeof scenarioOf>[0] = {}) =>
    makePlan(scenarioOf({ updates, link: { rateBytesPerMs: Infinity, latencyMs: 0 }, replicas, ...changes }), "naive")
      .schedules;
  const stepOf = (schedule: string, ...given: Parameters<typeof stepsOf>) =>
    stepsOf(...given).find((each) => each.schedule === schedule)!;
  const addedMs = (updates.keptMs - updates.plainMs) * PARAMETERS;

  test("is longer by its own kept version and all its copies' updates where nodes never wait", () => {
    const flopsOfFirst = { microBatches: 64 };
    const without = stepOf("zero-bubble", 0, flopsOfFirst).stepMs;
    for (const replicas of [1, 2, 3]) {
      const { stepMs } = stepOf("zero-bubble", replicas, flopsOfFirst);
      // The node of the model's begin has no gradient of inputs in its first layer: the others have all of the work.
      expect(stepMs - without).toBeCloseTo(addedMs + replicas * updates.keptMs * PARAMETERS, 6);
    }
  });

  test("hides the copies' updates where nodes wait: only the kept version of their own is left", () => {
    for (const schedule of ["naive", "gpipe"]) {
      const [without, one, three] = [0, 1, 3].map((replicas) => stepOf(schedule, replicas).stepMs);
      expect(one! - without!).toBeCloseTo(addedMs, 6);
      expect(three).toBe(one);
    }
  });

  test("has the closed form, and the update after it", () => {
    for (const { schedule, stepMs, formulaStepMs, formulaHasLatency } of stepsOf(1)) {
      if (formulaStepMs === null || !formulaHasLatency) continue;
      expect(formulaStepMs / stepMs, schedule).toBeGreaterThan(0.9);
      expect(formulaStepMs / stepMs, schedule).toBeLessThan(1.1);
    }
    expect(stepOf("naive", 1).formulaStepMs! - stepOf("naive", 0).formulaStepMs!).toBeCloseTo(addedMs, 6);
  });

  test("waits until copies have the version before: gradient and word, and the token once round", () => {
    // Nothing takes time but latency: without copies a batch goes through two nodes and back.
    const still = { nodes: 2, flopsPerMs: 1e12, updates: { plainMs: 0, keptMs: 0 } };
    const link = { rateBytesPerMs: Infinity, latencyMs: 50 };
    expect(stepOf("gpipe", 0, { ...still, link }).stepMs).toBeCloseTo(2 * 50, 3);
    expect(stepOf("gpipe", 1, { ...still, link }).stepMs).toBeCloseTo((2 + 2) * 50, 3);
    // Four layers a node.
    const rated = { rateBytesPerMs: 100, latencyMs: 50 };
    const { stepMs } = stepOf("gpipe", 1, { ...still, link: rated, batch: 8 });
    expect(stepMs).toBeCloseTo((2 * NODE_BYTES) / 100 + (2 + 2) * 50, 3);
  });
});

test("the text says how many copies there are, and where they alone are too much", () => {
  expect(textOf(scenarioOf({ replicas: 1 }))).toContain("--replicas 1: a copy of each segment");
  expect(textOf(scenarioOf({ replicas: 2 }))).toContain("--replicas 2: 2 copies of each segment");
  expect(textOf(scenarioOf())).toContain("no copies, so no node may fail");
  expect(textOf(scenarioOf({ nodes: 1 }))).toContain("one node has no copies");
  expect(textOf(scenarioOf({ model: "mlp:784-16-16-16-10", replicas: 3 }))).toContain("copies alone are more");
});
