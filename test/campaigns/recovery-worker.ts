/**
 * @file A block of seeds of the recovery simulation, on a thread of its own: told the first seed, it answers with what the block came to.
 */
import { parentPort } from "node:worker_threads";
import { drawScenario } from "../helpers/recovery-simulation-scenario.ts";
import { brokenRule } from "../helpers/recovery-simulation-shrink.ts";
import { simulateRecovery, type RecoveryOutcome } from "../helpers/recovery-simulation.ts";
import type { RecoveryGroup } from "./recovery.ts";
import { add, BLOCK, type Block } from "./seed-blocks.ts";

/** Upper ends, in virtual milliseconds. */
const RESUME_MS = [100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 90_000];

function runBlock(first: number): Block<RecoveryGroup> {
  const [counts, crashes, recomputed, resumed] = [{}, {}, {}, {}] as Record<string, number>[];
  const broken: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + BLOCK; seed += 1) {
    const scenario = drawScenario(seed);
    let outcome: RecoveryOutcome;
    try {
      outcome = simulateRecovery(scenario);
    } catch {
      broken.push({ seed, rule: brokenRule(scenario) ?? "it does not break again" });
      continue;
    }
    const { events, views, steps, restarts, isExceeded, resumeMs } = outcome;
    add(counts!, { events, views, steps, restarts, exceeded: isExceeded ? 1 : 0 });
    add(crashes!, outcome.crashes);
    for (const each of outcome.recomputed) add(recomputed!, { [each]: 1 });
    if (resumeMs !== null && !isExceeded) add(resumed!, { [RESUME_MS.find((end) => resumeMs <= end) ?? "more"]: 1 });
  }
  return { seed: first, counts: counts!, crashes: crashes!, recomputed: recomputed!, resumed: resumed!, broken };
}

parentPort?.on("message", (first: number) => parentPort?.postMessage(runBlock(first)));
