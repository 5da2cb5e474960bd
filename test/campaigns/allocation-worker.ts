/** @file A block of seeds of the simulation of dynamic allocation, on a thread of its own: told the first seed, it answers with what the block came to. */
import { parentPort } from "node:worker_threads";
import { allocationScenario, AllocationSimulation } from "../helpers/allocation-simulation.ts";
import type { AllocationGroup } from "./allocation.ts";
import { add, BLOCK, type Block } from "./seed-blocks.ts";

function runBlock(first: number): Block<AllocationGroup> {
  const [counts, runs] = [{}, {}] as Record<string, number>[];
  const broken: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + BLOCK; seed += 1) {
    const simulation = new AllocationSimulation(allocationScenario(seed));
    try {
      simulation.run();
    } catch (error) {
      broken.push({ seed, rule: error instanceof Error ? error.message : String(error) });
    }
    add(counts!, simulation.counts);
    add(runs!, { [simulation.scenario.nodes]: 1 });
  }
  return { seed: first, counts: counts!, runs: runs!, broken };
}

parentPort?.on("message", (first: number) => parentPort?.postMessage(runBlock(first)));
