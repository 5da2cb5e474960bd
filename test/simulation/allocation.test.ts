/**
 * @file Machines of dynamic parameter allocation over links with arbitrary delays: the invariants of `baseline-ps/README.md` after every event, and the
 * history of every run against sequential consistency.
 */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import { allocationScenario, AllocationSimulation } from "../helpers/allocation-simulation.ts";

const SEEDS = 1_500;

function runSeeds(first: number): AllocationSimulation["counts"] {
  const sum = { events: 0, messages: 0, operationsDuringRelocation: 0, relocationsDuringRelocation: 0 };
  for (let seed = first; seed < first + SEEDS; seed += 1) {
    const scenario = allocationScenario(seed);
    const simulation = new AllocationSimulation(scenario);
    try {
      simulation.run();
    } catch (error) {
      throw new Error(`seed ${seed} ${JSON.stringify(scenario)}: ${String(error)}`, { cause: error });
    }
    for (const name of Object.keys(sum) as (keyof typeof sum)[]) sum[name] += simulation.counts[name];
  }
  return sum;
}

test("pinned seeds: every invariant, after every event", { timeout: 60_000 }, () => {
  const { operationsDuringRelocation, relocationsDuringRelocation } = runSeeds(1);
  // What is rare elsewhere is common here: operations during a relocation, and relocations of keys that have not come.
  expect(operationsDuringRelocation).toBeGreaterThan(2 * SEEDS);
  expect(relocationsDuringRelocation).toBeGreaterThan(SEEDS);
});

test("fresh seeds: every invariant, after every event", { timeout: 60_000 }, () => {
  runSeeds(randomInt(1, 1_000_000_000));
});
