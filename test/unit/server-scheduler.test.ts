/** @file The task scheduler while workers die and come back: every share is computed, every step committed once, and the run ends. */
import { expect, test } from "vitest";
import { Scheduler } from "../../baseline-ps/core/scheduler.ts";
import { SchedulerSimulation, schedulerScenario } from "../helpers/scheduler-simulation.ts";

const RUNS = 2_000;

test.each([
  ["pinned", 1],
  ["fresh", Date.now() % 1_000_000_000],
])("%s seeds from %i on: a run ends, whoever dies", (_, first) => {
  let [extinctions, extras] = [0, 0];
  for (let seed = first; seed < first + RUNS; seed += 1) {
    const simulation = new SchedulerSimulation(schedulerScenario(seed));
    try {
      simulation.run();
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
    extinctions += simulation.extinctions;
    extras += simulation.extras;
  }
  // What is to be survived did happen.
  expect(extinctions).toBeGreaterThan(RUNS / 100);
  expect(extras).toBeGreaterThan(RUNS / 10);
});

test("what workers leave who died is divided evenly among the others", () => {
  const workers = 6;
  const scheduler = new Scheduler({
    ...{ workers, assignment: "fixed", firstStep: 0, steps: 1, microBatches: workers, batch: workers },
    ...{ evaluateEvery: 0, saveEvery: 0, stopAtLoss: null },
  });
  for (const worker of [3, 4, 5]) scheduler.handle({ kind: "lost", worker });
  const shares = [0, 1, 2].map((worker) =>
    [0, 1].map((number) => {
      const [given] = scheduler.handle({ kind: "ask", worker, number });
      return given?.kind === "give" && given.task.kind === "train" ? given.task.share : undefined;
    }),
  );
  expect(shares).toEqual([
    [0, 3],
    [1, 4],
    [2, 5],
  ]);
});
