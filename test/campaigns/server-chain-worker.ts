/** @file A block of seeds of servers that die, on a thread of its own: told the first seed, it answers with what the block came to. */
import { parentPort } from "node:worker_threads";
import { chainScenarioOf } from "../helpers/chain-scenarios.ts";
import { ChainSimulation } from "../helpers/chain-simulation.ts";
import { add, BLOCK, type Block } from "./seed-blocks.ts";
import type { ServerChainGroup } from "./server-chain.ts";

function runBlock(first: number): Block<ServerChainGroup> {
  const [counts, faults, runs] = [{}, {}, {}] as Record<string, number>[];
  const broken: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + BLOCK; seed += 1) {
    const simulation = new ChainSimulation(chainScenarioOf(seed));
    try {
      simulation.run();
    } catch (error) {
      broken.push({ seed, rule: error instanceof Error ? error.message : String(error) });
    }
    add(counts!, simulation.counts);
    add(runs!, { [simulation.scenario.consistency.kind]: 1 });
    for (const { kind } of simulation.scenario.faults) add(faults!, { [kind]: 1 });
  }
  return { seed: first, counts: counts!, faults: faults!, runs: runs!, broken };
}

parentPort?.on("message", (first: number) => parentPort?.postMessage(runBlock(first)));
