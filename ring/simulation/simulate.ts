/** @file Runs a plan: the simulator with its chance, and what is to be recorded. */
import type { Task } from "../core/schedule.ts";
import { Recording, TaskOrder } from "./recording.ts";
import { jitterOf, messageExtra, overheadFactor } from "./jitter.ts";
import type { SimulationPlan } from "./plan.ts";
import type { SimulationSettings } from "./settings.ts";
import { RingSimulator, type SimulationOutcome } from "./simulator.ts";

export interface SimulationResult {
  readonly outcome: SimulationOutcome;
  readonly recording: Recording | null;
  /** One step's tasks by node, where they were asked for. */
  readonly tasks: readonly (readonly Task[])[] | null;
}

export interface SimulationWishes {
  /** Newest steps whose timeline is kept. */
  readonly timelineSteps: number;
  readonly wantsTasks: boolean;
  readonly onProgress?: (tasks: number) => void;
}

export function simulate(
  settings: SimulationSettings,
  plan: SimulationPlan,
  { timelineSteps, wantsTasks, onProgress }: SimulationWishes,
): SimulationResult {
  const { steps, seed } = settings.run;
  const { nodes } = plan.shape;
  const recording = timelineSteps > 0 ? new Recording(plan, Math.max(0, steps - timelineSteps)) : null;
  // The second step is the first of the steady ones.
  const order = wantsTasks ? new TaskOrder(nodes, Math.min(1, steps - 1)) : null;
  const { shape, canSplit, tasks, costs, slices, heldMax, operationOverhead, jitter, tails } = plan;
  const link = tails.messageSigma > 0 ? { ...plan.link, extra: messageExtra(tails, nodes, seed) } : plan.link;
  const outcome = new RingSimulator({
    ...{ shape, steps, canSplit, costs, link, operationOverhead },
    ...(tasks === undefined ? {} : { tasks }),
    ...(slices === undefined ? {} : { slices }),
    ...(heldMax === undefined ? {} : { heldMax }),
    ...(tails.overheadSigma > 0 ? { overheadFactor: overheadFactor(tails, nodes, seed) } : {}),
    ...(jitter > 0 ? { factor: jitterOf(jitter, nodes, seed) } : {}),
    ...(onProgress === undefined ? {} : { onProgress }),
    ...(recording === null && order === null
      ? {}
      : {
          onTask: (task) => {
            recording?.task(task);
            order?.task(task);
          },
        }),
    ...(recording === null ? {} : { onMessage: (message) => recording.message(message) }),
  }).run();
  return { outcome, recording, tasks: order?.tasks ?? null };
}
