/** @file Scenarios of servers that die, by seed. */
import { RandomStream } from "../../src/types/random.ts";
import type { ChainScenario } from "./chain-simulation.ts";

const KINDS = ["bsp", "bounded", "ssp", "async"] as const;
const FAULTS = ["kill", "kill", "pause", "join", "leave", "killWorker"] as const;

export function chainScenarioOf(seed: number): ChainScenario {
  const random = new RandomStream(seed, 2_001);
  const kind = KINDS[random.nextBelow(KINDS.length)]!;
  const tau = kind === "bsp" ? 0 : kind === "async" ? Infinity : random.nextBelow(4);
  const replicas = 1 + random.nextBelow(2);
  const servers = replicas + 1 + random.nextBelow(3);
  const shardsEach = 1 + random.nextBelow(3);
  return {
    ...{ seed, consistency: { kind, tau }, workers: 1 + random.nextBelow(3), servers, replicas, shardsEach },
    keys: servers * shardsEach + 2 + random.nextBelow(8),
    steps: 3 + random.nextBelow(8),
    faults: Array.from({ length: random.nextBelow(6) }, () => ({
      kind: FAULTS[random.nextBelow(FAULTS.length)]!,
      atMs: random.nextFloat() * 400,
    })),
  };
}
