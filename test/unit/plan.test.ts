/**
 * @file A whole plan: who wins and where that changes, what bounds a step, what fits; its text. Oracles: the schedule's closed forms,
 * planning again where a plan says that two systems are equal.
 */
import { describe, expect, test } from "vitest";
import { scheduleOf } from "../../ring/core/schedule.ts";
import { BASE_BYTES } from "../../ring/index.ts";
import { crossingFactor } from "../../src/plan/crossover.ts";
import { makePlan, withBetter, type Plan, type Prediction } from "../../src/plan/plan.ts";
import { serverStepMs } from "../../src/plan/overlap.ts";
import { computeMs, type Scenario } from "../../src/plan/scenario.ts";
import type { SystemId } from "../../src/plan/systems.ts";
import { bitRate, planText, significant } from "../../src/plan/text.ts";
import { UsageError } from "../../src/types/errors.ts";
import { scenarioOf } from "../helpers/plan-scenario.ts";

const STATED = { speed: "0.05GFLOP/s", link: "8gbit,10us" };
const MIB = 2 ** 20;

const systemOf = (plan: Plan, id: SystemId): Prediction => {
  const found = plan.systems.find(({ system }) => system === id);
  if (found === undefined) throw new Error(`the plan has no ${id}`);
  return found;
};
const ringAndServer = (scenario: Scenario): readonly [ring: number, server: number] => {
  const plan = makePlan(scenario, "zero-bubble");
  const servers = [systemOf(plan, "ps-dedicated").stepMs, systemOf(plan, "ps-co-located").stepMs];
  return [systemOf(plan, "ring").stepMs, Math.min(...servers)];
};

describe("the search for a crossing", () => {
  test("finds the one that is nearest to 1, to 1 %", () => {
    for (const root of [0.0012, 0.03, 0.9, 1.1, 7, 900]) {
      expect(Math.abs(Math.log(crossingFactor((factor) => factor - root)! / root))).toBeLessThan(0.01);
    }
    const both = crossingFactor((factor) => (factor - 5) * (factor - 0.5));
    expect(Math.abs(both! / 0.5 - 1)).toBeLessThan(0.01);
  });

  test("finds none beyond a factor of 1000, and asks for nothing beyond it", () => {
    const asked: number[] = [];
    const root = crossingFactor((factor) => {
      asked.push(factor);
      return factor - 1100;
    });
    expect(root).toBeNull();
    expect(Math.max(...asked)).toBeCloseTo(1000, 6);
    expect(Math.min(...asked)).toBeCloseTo(0.001, 9);
  });
});

describe("a plan", () => {
  test("has every system once, each with the work of the whole batch", () => {
    const scenario = scenarioOf();
    const { systems } = makePlan(scenario, "zero-bubble");
    expect(systems.map(({ system }) => system)).toEqual([
      ...["ring", "ps-dedicated", "ps-co-located", "allreduce", "fsdp", "serial"],
    ]);
    for (const { nodes, stepMs, idlePercent, samplesPerSecond } of systems) {
      expect((1 - idlePercent / 100) * nodes * stepMs).toBeCloseTo(computeMs(scenario), 6);
      expect((samplesPerSecond * stepMs) / 1000).toBeCloseTo(scenario.batch, 6);
    }
    const runnable = systems.filter(({ isRunnable }) => isRunnable).map(({ system }) => system);
    expect(runnable).toEqual(["ring", "ps-dedicated", "serial"]);
  });

  test("no system takes less than its busiest interface, nor a node less than what the optimizer needs", () => {
    const model = `mlp:${Array<number>(9).fill(256).join("-")}`;
    const scenario = scenarioOf({ model, link: { rateBytesPerMs: 10, latencyMs: 0 }, nodes: 4, servers: 2 });
    const plan = makePlan(scenario, "zero-bubble");
    for (const { stepMs, busiestLinkBytesPerStep } of plan.systems) {
      expect(stepMs).toBeGreaterThanOrEqual((busiestLinkBytesPerStep / 10) * (1 - 1e-9));
    }
    // Equal nodes: two of the four are workers. Adam: four numbers a parameter on one server, two on a worker.
    const bytes = 4 * scenario.model.parameters;
    expect(systemOf(plan, "ps-dedicated").bytesPerStep).toBe(2 * 2 * bytes);
    expect(systemOf(plan, "ps-dedicated").stepMs).toBe(
      serverStepMs(scenario, { workers: 2, servers: 2, isCoLocated: false }),
    );
    const alone = makePlan({ ...scenario, servers: 1, nodes: 4 }, "zero-bubble");
    expect(systemOf(alone, "ps-dedicated").memory).toMatchObject({ statesBytes: 2 * bytes, activationsBytes: 0 });
    expect(systemOf(alone, "ps-dedicated").memory.totalBytes).toBe(BASE_BYTES + 4 * bytes);
    const { memory } = systemOf(plan, "ps-co-located");
    expect(memory).toMatchObject({ parametersBytes: 1.5 * bytes, gradientsBytes: 1.5 * bytes, statesBytes: bytes });
    expect(memory.totalBytes).toBe(BASE_BYTES + 4 * bytes + memory.activationsBytes);
  });

  test("leaves out servers that so few nodes do not have", () => {
    const idsOf = (nodes: number, servers: number): readonly SystemId[] =>
      makePlan(scenarioOf({ nodes, servers }), "1f1b").systems.map(({ system }) => system);
    expect(idsOf(2, 2)).not.toContain("ps-dedicated");
    expect(idsOf(2, 2)).toContain("ps-co-located");
    expect(idsOf(2, 3)).not.toContain("ps-co-located");
    expect(planText(makePlan(scenarioOf({ nodes: 2, servers: 3 }), "1f1b"), scenarioOf(), "1f1b", STATED)).toContain(
      "left out",
    );
  });

  test("one node: the ring is one process, and sends nothing", () => {
    const plan = makePlan(scenarioOf({ nodes: 1 }), "zero-bubble");
    expect(systemOf(plan, "ring")).toMatchObject({ bytesPerStep: 0, idlePercent: expect.closeTo(0, 6) });
    expect(systemOf(plan, "ring").stepMs).toBeCloseTo(systemOf(plan, "serial").stepMs, 6);
    expect(plan.crossovers).toMatchObject({ equalTrafficBatch: null });
  });

  test("names the fastest that fits, and the next", () => {
    // Parameters of 64 MiB: only one layer of eight fits with its gradient and two states.
    const model = `mlp:${Array<number>(9).fill(1448).join("-")}`;
    const open = makePlan(scenarioOf({ model, nodes: 8 }), "1f1b");
    const memoryBytes = BASE_BYTES + 50 * MIB;
    const capped = makePlan(scenarioOf({ model, nodes: 8, memoryBytes }), "1f1b");
    expect(capped.winner?.system).toBe("ring");
    expect(capped.systems.filter(({ fits }) => fits === true).map(({ system }) => system)).toEqual(["ring"]);
    expect(capped.second).toBeUndefined();
    expect(open.systems.every(({ fits }) => fits === null)).toBe(true);
    const sorted = open.systems.map(({ stepMs }) => stepMs).toSorted((one, other) => one - other);
    expect([open.winner?.stepMs, open.second?.stepMs]).toEqual(sorted.slice(0, 2));
    const none = makePlan(scenarioOf({ model, nodes: 8, memoryBytes: BASE_BYTES }), "1f1b");
    expect(none.winner).toBeUndefined();
    expect(planText(none, scenarioOf(), "1f1b", STATED)).toContain("None of these fits");
  });

  test("what an engine cannot hold does not fit, limit or not", () => {
    const model = `mlp:${Array<number>(9).fill(8192).join("-")}`;
    const plan = makePlan(scenarioOf({ model, nodes: 8 }), "1f1b");
    expect([systemOf(plan, "serial").fits, systemOf(plan, "ring").fits]).toEqual([false, null]);
    expect(plan.winner?.system).not.toBe("serial");
  });

  test("under a memory limit the ring holds fewer micro-batches, and waits more", () => {
    const model = `mlp:${Array<number>(9).fill(64).join("-")}`;
    const scenario = scenarioOf({ model, batch: 16_384, microBatches: 16 });
    const open = makePlan(scenario, "zero-bubble");
    const slotBytes = (open.schedules.find(({ schedule }) => schedule === "gpipe")!.memoryBytes - BASE_BYTES) / 18;
    const memoryBytes = Math.ceil(BASE_BYTES + 5 * slotBytes);
    const tight = makePlan({ ...scenario, memoryBytes }, "zero-bubble");
    const [held, heldTight] = [open, tight].map(
      ({ schedules }) => schedules.find(({ schedule }) => schedule === "zero-bubble")!.slots,
    );
    // Two for each node; what is on the way is less than half a micro-batch.
    expect(held).toBe(8);
    expect(heldTight).toBeLessThan(4);
    expect(systemOf(tight, "ring").fits).toBe(true);
    expect(systemOf(tight, "ring").stepMs).toBeGreaterThan(1.2 * systemOf(open, "ring").stepMs);
  });

  test("lists each schedule that exists for these counts, with the micro-batches that it holds", () => {
    const schedules = (changes: Parameters<typeof scenarioOf>[0]): readonly string[] =>
      makePlan(scenarioOf(changes), "zero-bubble").schedules.map(({ schedule }) => schedule);
    expect(schedules({})).toEqual(["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zero-bubble"]);
    expect(schedules({ microBatches: 2 })).toEqual(["naive", "gpipe", "1f1b", "zero-bubble"]);
    expect(schedules({ laps: 2 })).toEqual(["interleaved", "zero-bubble"]);
    const [naive, gpipe, , , , rule] = makePlan(scenarioOf(), "zero-bubble").schedules;
    expect([naive?.slots, gpipe?.slots, rule?.slots]).toEqual([1, 8, 8]);
    // The simulation runs the schedule that it names.
    expect(scheduleOf({ kind: "gpipe", nodes: 4, laps: 1, microBatches: 8 }, 0)).toHaveLength(24);
    expect(gpipe!.stepMs / gpipe!.formulaStepMs!).toBeCloseTo(1, 3);
    expect(naive!.stepMs / naive!.formulaStepMs!).toBeCloseTo(1, 3);
  });

  test.each([
    ["compute", 1e6, 0, 1e3],
    ["link", 1, 0, 1e9],
    ["latency", 1e6, 500, 1e9],
  ] as const)("says that %s bounds every system on which it does", (bound, rateBytesPerMs, latencyMs, flopsPerMs) => {
    const scenario = scenarioOf({ link: { rateBytesPerMs, latencyMs }, flopsPerMs });
    for (const prediction of makePlan(scenario, "zero-bubble").systems) {
      expect(prediction.bound, prediction.name).toBe(prediction.system === "serial" ? "compute" : bound);
      expect(prediction.boundShare).toBeGreaterThan(0.5);
    }
  });

  test("says where ring and server change places: there they take the same", () => {
    const scenario = scenarioOf({ flopsPerMs: 1e6, link: { rateBytesPerMs: 1000, latencyMs: 0.5 } });
    const { crossovers } = makePlan(scenario, "zero-bubble");
    if (crossovers === "too large to search" || crossovers.batch === null || crossovers.rateBytesPerMs === null) {
      throw new Error(`no crossing: ${JSON.stringify(crossovers)}`);
    }
    const { batch, rateBytesPerMs } = crossovers;
    for (const at of [
      { ...scenario, batch },
      { ...scenario, link: { ...scenario.link, rateBytesPerMs } },
    ]) {
      const [ring, server] = ringAndServer(at);
      expect(Math.abs(ring / server - 1)).toBeLessThan(0.02);
    }
    const [ring, server] = ringAndServer(scenario);
    const [ringBeyond, serverBeyond] = ringAndServer({ ...scenario, batch: batch * 1.1 });
    expect(ring < server).not.toBe(ringBeyond < serverBeyond);
    expect(withBetter(scenario, "link", 3).link.rateBytesPerMs).toBe(3000);
  });

  test("the ring's busiest link carries as much as all-reduce's at the batch that it names", () => {
    const { crossovers } = makePlan(scenarioOf(), "1f1b");
    if (crossovers === "too large to search") throw new Error("it is small");
    const plan = makePlan(scenarioOf({ batch: crossovers.equalTrafficBatch! }), "1f1b");
    const [ring, reduced] = [systemOf(plan, "ring"), systemOf(plan, "allreduce")];
    expect(ring.busiestLinkBytesPerStep / reduced.busiestLinkBytesPerStep).toBeCloseTo(1, 9);
  });

  test("is refused where the ring cannot be, or is too large", () => {
    expect(() => makePlan(scenarioOf({ nodes: 9 }), "1f1b")).toThrow(UsageError);
    expect(() => makePlan(scenarioOf({ microBatches: 2 }), "zb-h1")).toThrow(UsageError);
    expect(() => makePlan(scenarioOf({ laps: 2 }), "gpipe")).toThrow(UsageError);
    expect(() => makePlan(scenarioOf({ microBatches: 65_536, batch: 65_536 }), "1f1b")).toThrow(
      /more than a plan simulates/,
    );
  });
});

describe("its text", () => {
  test.each([
    ["small", scenarioOf()],
    ["uneven, capped", scenarioOf({ model: "mlp:784-16-16-16-10", memoryBytes: 64 * MIB })],
    [
      "large",
      scenarioOf({ model: `mlp:${Array<number>(30).fill(4000).join("-")}`, nodes: 16, batch: 4096, microBatches: 64 }),
    ],
    ["laps", scenarioOf({ laps: 2, nodes: 4, microBatches: 4 })],
  ])("of a %s one has 80 columns, a winner or none, every system, every schedule", (_, scenario) => {
    const plan = makePlan(scenario, "zero-bubble");
    const text = planText(plan, scenario, "zero-bubble", STATED);
    expect(
      text.split("\n").filter((line) => line.length > 80 && line.includes(" ") && !line.startsWith("mlp:")),
    ).toEqual([]);
    for (const { name } of plan.systems) expect(text).toContain(`\n- ${name}: `);
    for (const { schedule } of plan.schedules) expect(text).toMatch(new RegExp(`\n[ *] ${schedule} `));
    expect(text.match(/\n\* /g)).toHaveLength(plan.winner === undefined ? 1 : 2);
    expect(text).not.toMatch(/NaN|Infinity|undefined/);
    expect(text).toMatch(/Predicted, not measured[^]+full-duplex[^]+messages take no\s+CPU/);
  });

  test("warns where messages cost more than a tenth of a step", () => {
    const texts = [50_000, 5e9].map((flopsPerMs) => {
      const scenario = scenarioOf({ flopsPerMs });
      return planText(makePlan(scenario, "1f1b"), scenario, "1f1b", STATED);
    });
    expect(texts.map((text) => text.includes("Caution"))).toEqual([false, true]);
  });

  test("prints numbers with three digits, rates as tc does", () => {
    expect([0, 0.001234, 1.234, 12.34, 123.4, 12_345].map(significant)).toEqual([
      ...["0", "0.00123", "1.23", "12.3", "123", "12345"],
    ]);
    expect([12.5, 12_500, 1.25e6].map(bitRate)).toEqual(["100 kbit", "100 mbit", "10.0 gbit"]);
  });
});
