/** @file Servers of keys that die, stand still, join and leave: rules C1 to C5 after every event, for pinned and for fresh seeds. */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import { chainScenarioOf } from "../helpers/chain-scenarios.ts";
import { type ChainScenario, ChainSimulation } from "../helpers/chain-simulation.ts";

const RUNS = 200;

function runAll(first: number): ChainSimulation["counts"] {
  const all = { events: 0, kills: 0, views: 0, gone: 0 };
  for (let seed = first; seed < first + RUNS; seed += 1) {
    const { counts } = run(chainScenarioOf(seed));
    for (const name of Object.keys(all) as (keyof typeof all)[]) all[name] += counts[name];
  }
  return all;
}

function run(scenario: ChainScenario): ChainSimulation {
  const simulation = new ChainSimulation(scenario);
  try {
    simulation.run();
  } catch (error) {
    throw new Error(`seed ${scenario.seed} ${JSON.stringify(scenario)}: ${String(error)}`, { cause: error });
  }
  return simulation;
}

test("pinned seeds: every rule, after every event", { timeout: 120_000 }, () => {
  const { kills, views, gone } = runAll(1);
  // They reach what they are for.
  expect(kills).toBeGreaterThan(RUNS / 2);
  expect(views).toBeGreaterThan(4 * RUNS);
  expect(gone).toBeGreaterThan(0);
  expect(gone).toBeLessThan(RUNS / 4);
});

// In these a server that was taken out while it stood still speaks up when others have gone on without it.
test.each([3406, 3755, 3980, 5374])("a server that does not know that it is out changes nothing: seed %i", (seed) => {
  run(chainScenarioOf(seed));
});

test("fresh seeds: every rule, after every event", { timeout: 120_000 }, () => {
  runAll(randomInt(2 ** 30));
});
