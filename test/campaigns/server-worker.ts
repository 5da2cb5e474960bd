/** @file A block of seeds of the parameter server's simulation, on a thread of its own: told the first seed, it answers with what the block came to. */
import { parentPort } from "node:worker_threads";
import { serverScenario } from "../helpers/server-scenarios.ts";
import { ServerSimulation } from "../helpers/server-simulation.ts";
import { add, BLOCK, type Block } from "./seed-blocks.ts";
import type { ServerGroup } from "./server.ts";

function runBlock(first: number): Block<ServerGroup> {
  const [counts, lags, runs] = [{}, {}, {}] as Record<string, number>[];
  const broken: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + BLOCK; seed += 1) {
    const simulation = new ServerSimulation(serverScenario(seed));
    const { kind, tau } = simulation.scenario.consistency;
    const model = kind === "bounded" || kind === "ssp" ? `${kind}, tau ${tau}` : kind;
    try {
      simulation.run();
    } catch (error) {
      broken.push({ seed, rule: error instanceof Error ? error.message : String(error) });
    }
    add(counts!, simulation.counts);
    add(runs!, { [model]: 1 });
    for (const lag of simulation.checker.lags) add(lags!, { [`${model}: ${lag}`]: 1 });
  }
  return { seed: first, counts: counts!, lags: lags!, runs: runs!, broken };
}

parentPort?.on("message", (first: number) => parentPort?.postMessage(runBlock(first)));
