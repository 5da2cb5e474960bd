/** @file How long a step takes in the simulated ring once it has settled: over the last half of four steps, as in the reference tables. */
import type { ScheduleShape } from "../../ring/core/schedule.ts";
import { RingSimulator, type NodeCosts, type SimulationInit } from "../../ring/simulation/simulator.ts";

/** Times of F, B and W of one micro-batch in one lap. */
export type Costs = readonly [forward: number, backward: number, weight: number];

const STEPS = 4;

export const sum = (costs: Costs): number => costs[0] + costs[1] + costs[2];

export function uniformCosts({ nodes, laps }: ScheduleShape, [forward, backward, weight]: Costs): NodeCosts[] {
  const lap = { forward, backward, weight };
  return Array.from({ length: nodes }, () => ({ laps: Array.from({ length: laps }, () => lap), update: 0 }));
}

/** By node: time of a step beyond the node's own work, in the unit of the costs. */
export function idleUnits(
  shape: ScheduleShape,
  costs: Costs,
  options: Omit<SimulationInit, "shape" | "steps" | "costs"> = {},
): number[] {
  const init = { ...options, shape, steps: STEPS, costs: uniformCosts(shape, costs) };
  const work = shape.laps * shape.microBatches * sum(costs);
  return new RingSimulator(init).run().nodes.map(({ stepStarts }) => {
    const period = (stepStarts[STEPS - 1]! - stepStarts[STEPS / 2 - 1]!) / (STEPS / 2);
    return period - work;
  });
}

/** Idle share of node 0's step, in percent. */
export function idlePercent(...parameters: Parameters<typeof idleUnits>): number {
  const [{ laps, microBatches }, costs] = parameters;
  const idle = idleUnits(...parameters)[0]!;
  return (100 * idle) / (idle + laps * microBatches * sum(costs));
}
