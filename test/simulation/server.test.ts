/**
 * @file The parameter server's machines over a network that loses, delays, doubles and reorders: the invariants of `baseline-ps/README.md` after
 * every event.
 */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import { CONSISTENCY_KINDS } from "../../baseline-ps/core/consistency.ts";
import { serverScenario } from "../helpers/server-scenarios.ts";
import { ServerSimulation } from "../helpers/server-simulation.ts";

const SEEDS = 400;

function runSeeds(first: number): void {
  for (let seed = first; seed < first + SEEDS; seed += 1) {
    const scenario = serverScenario(seed);
    try {
      new ServerSimulation(scenario).run();
    } catch (error) {
      throw new Error(`seed ${seed} ${JSON.stringify(scenario)}: ${String(error)}`, { cause: error });
    }
  }
}

test("pinned seeds: every invariant, after every event", { timeout: 60_000 }, () => runSeeds(1));

test("fresh seeds: every invariant, after every event", { timeout: 60_000 }, () =>
  runSeeds(randomInt(1, 1_000_000_000)),
);

test("the seeds reach every consistency model, and lags up to tau", () => {
  const kinds = new Map<string, number>();
  for (let seed = 1; seed <= 300; seed += 1) {
    const simulation = new ServerSimulation(serverScenario(seed));
    simulation.run();
    const { kind } = simulation.scenario.consistency;
    kinds.set(kind, Math.max(kinds.get(kind) ?? 0, ...simulation.checker.lags));
  }
  expect([...kinds.keys()].toSorted()).toEqual(CONSISTENCY_KINDS.toSorted());
  expect(kinds.get("bsp")).toBe(0);
  for (const kind of ["bounded", "ssp", "async"]) expect(kinds.get(kind), kind).toBeGreaterThan(1);
});
