/** @file Scenarios of a simulated parameter server, drawn from a seed. */
import { CONSISTENCY_KINDS } from "../../baseline-ps/core/consistency.ts";
import { RandomStream } from "../../src/types/random.ts";
import type { ServerScenario } from "./server-simulation.ts";

const TAUS = [0, 1, 2, 4, 8, 16];

export function serverScenario(seed: number): ServerScenario {
  const random = new RandomStream(seed, 1_001);
  const one = <Value>(values: readonly Value[]): Value => values[random.nextBelow(values.length)]!;
  const kind = one(CONSISTENCY_KINDS);
  const tau = kind === "bsp" ? 0 : kind === "async" ? Infinity : one(TAUS);
  const workers = 1 + random.nextBelow(4);
  const servers = 1 + random.nextBelow(4);
  const keys = servers + random.nextBelow(12);
  const steps = 1 + random.nextBelow(12);
  const isStraggling = random.nextBelow(2) === 0;
  const isQuiet = random.nextBelow(4) === 0;
  return {
    ...{ seed, consistency: { kind, tau }, workers, servers, keys, steps },
    microBatches: workers + random.nextBelow(5),
    layers: 1 + random.nextBelow(Math.min(4, keys)),
    lossPermille: isQuiet ? 0 : random.nextBelow(200),
    duplicatePermille: isQuiet ? 0 : random.nextBelow(300),
    delayMsMax: one([1, 10, 100]),
    computeMs: Array.from({ length: workers }, (_, worker) => (isStraggling && worker === 0 ? 50 : 10)),
    evaluateEvery: one([0, 0, 1, 3]),
    saveEvery: one([0, 0, 2]),
    stopAtLoss: one([null, null, null, 0.3]),
    stopMs: one([Infinity, Infinity, Infinity, 1, 200]),
    isBroadcast: random.nextBelow(3) === 0,
  };
}
