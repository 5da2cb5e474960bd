/** @file Rings of stage machines under random delivery, a checker after every event. */
import { describe, expect, it } from "vitest";
import { SCHEDULE_KINDS } from "../../ring/core/schedule.ts";
import { RandomStream } from "../../src/types/random.ts";
import { simulatedLoss, simulateRing, type RingScenario } from "../helpers/ring-simulation.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const RINGS = 1_500;

function draw(seed: number): RingScenario {
  const random = new RandomStream(seed, 1);
  const stages = 1 + random.nextBelow(6);
  const microBatches = 1 + random.nextBelow(9);
  const firstStep = random.nextBelow(3);
  return {
    seed,
    stages,
    microBatches,
    schedule: SCHEDULE_KINDS[random.nextBelow(SCHEDULE_KINDS.length)]!,
    batch: microBatches * 2,
    firstStep,
    steps: firstStep + 1 + random.nextBelow(4),
    checkpointEvery: random.nextBelow(3),
    validateEvery: random.nextBelow(3),
    evaluationMicroBatches: random.nextBelow(8),
    stopAtLoss: null,
    ...(random.nextBelow(3) === 0 ? { stopAtEvent: random.nextBelow(200) } : {}),
  };
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("rings of stage machines, %s seed %i", (_, base) => {
  it("keep every invariant and end together", () => {
    for (let index = 0; index < RINGS; index += 1) {
      const scenario = draw(base + index);
      const context = JSON.stringify(scenario);
      const outcome = simulateRing(scenario);
      const completed = outcome.finishedSteps[0]!;
      expect(new Set(outcome.finishedSteps), context).toEqual(new Set([completed]));
      expect(new Set(outcome.updates), context).toEqual(new Set([completed - scenario.firstStep]));
      for (const losses of outcome.losses) {
        expect(losses, context).toEqual(expectedLosses(scenario, completed));
      }
      if (scenario.stopAtEvent === undefined) expect(completed, context).toBe(scenario.steps);
      for (const saves of outcome.saves) expect(saves, context).toEqual(expectedSaves(scenario, completed));
      if (scenario.evaluationMicroBatches > 0) expect(outcome.evaluations.at(-1), context).toBe(completed);
      expect(new Set(outcome.evaluations).size, context).toBe(outcome.evaluations.length);
    }
  });
});

/** The mean over the batch of every step, on every stage. */
function expectedLosses({ firstStep, microBatches, batch }: RingScenario, completed: number): number[] {
  return Array.from({ length: completed - firstStep }, (_, index) => {
    const parts = Array.from({ length: microBatches }, (_unused, m) => simulatedLoss(firstStep + index, m));
    return parts.reduce((sum, part) => sum + part, 0) / batch;
  });
}

/** Every multiple of the interval, and the end, each once. */
function expectedSaves(scenario: RingScenario, completed: number): number[] {
  const saves: number[] = [];
  for (let steps = scenario.firstStep + 1; steps <= completed; steps += 1) {
    const isDue = scenario.checkpointEvery > 0 && steps % scenario.checkpointEvery === 0;
    if (isDue || steps === completed) saves.push(steps);
  }
  return saves;
}

describe("ending early", () => {
  it("stops after the first step whose loss is low enough", () => {
    const outcome = simulateRing({ ...draw(3), stages: 3, firstStep: 0, steps: 50, stopAtLoss: 1e9, stopAtEvent: -1 });
    expect(outcome.finishedSteps).toEqual([1, 1, 1]);
  });
});
