/** @file How idle simulated nodes were. Times are in the simulation's unit. */
import { defined } from "../../src/types/assert.ts";
import type { NodeOutcome } from "./simulator.ts";

export interface BusyTime {
  readonly wall: number;
  /** Part of `wall` in which an operation ran. */
  readonly busy: number;
  /** Part of `wall` in which none did, and the main thread was busy. */
  readonly communication: number;
}

/** From each node's second step's start to its last step's start, over all nodes; nothing for fewer than three steps. */
export function steadyTimes(nodes: readonly NodeOutcome[]): BusyTime {
  return nodes.map(steadyTime).reduce(sum, { wall: 0, busy: 0, communication: 0 });
}

export function steadyTime({ stepStarts, busyUntil, communicationUntil }: NodeOutcome): BusyTime {
  const last = stepStarts.length - 1;
  if (last < 2) return { wall: 0, busy: 0, communication: 0 };
  const between = (values: Float64Array, from: number, to: number): number =>
    defined(values[to], "a step") - defined(values[from], "a step");
  return {
    wall: between(stepStarts, 1, last),
    // Up to the end of the first step and of the last but one: nothing of a step is left at its end.
    busy: between(busyUntil, 0, last - 1),
    communication: between(communicationUntil, 0, last - 1),
  };
}

/** From its first step's start to its last step's end. */
export function wholeTime({ stepStarts, busyUntil, communicationUntil, end }: NodeOutcome): BusyTime {
  const all = (values: Float64Array): number => defined(values.at(-1), "a step");
  return { wall: end - defined(stepStarts[0], "a step"), busy: all(busyUntil), communication: all(communicationUntil) };
}

export const sum = (a: BusyTime, b: BusyTime): BusyTime => ({
  ...{ wall: a.wall + b.wall, busy: a.busy + b.busy },
  communication: a.communication + b.communication,
});
