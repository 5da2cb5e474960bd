/** @file Rings of stage machines under random delivery and in virtual time, a checker after every event. */
import { describe, expect, it } from "vitest";
import { leastSlots, mostSlots } from "../../ring/core/slots.ts";
import { RandomStream } from "../../src/types/random.ts";
import { drawShape } from "../helpers/draw-shape.ts";
import { simulatedLoss, simulateRing, type RingScenario, type RingTiming } from "../helpers/ring-simulation.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const RINGS = 800;
/** None; activations; gradients and credits; computing; a node; bytes on their way out. */
const SLOW = [/^$/, />/, /</, /^compute/, /^compute 1$|>1$|<1$/, /^left|^flush/];

function draw(seed: number): RingScenario {
  const random = new RandomStream(seed, 1);
  const shape = drawShape(random, random.nextBelow(8) === 0 ? 12 : 6);
  const firstStep = random.nextBelow(3);
  const least = Math.max(...Array.from({ length: shape.nodes }, (_, node) => leastSlots(shape, node)));
  const spare = Math.max(0, mostSlots(shape) - least);
  return {
    seed,
    shape,
    canSplit: shape.kind === "zb-h1" || random.nextBelow(4) > 0,
    slots: random.nextBelow(2) === 0 ? least : least + random.nextBelow(spare + 1),
    slices: 1 + random.nextBelow(3),
    batch: shape.microBatches * 2,
    firstStep,
    steps: firstStep + 1 + random.nextBelow(4),
    checkpointEvery: random.nextBelow(3),
    validateEvery: random.nextBelow(3),
    evaluationMicroBatches: random.nextBelow(8),
    stopAtLoss: null,
    ...(random.nextBelow(3) === 0 ? { stopAtEvent: random.nextBelow(200) } : {}),
    ...(random.nextBelow(3) === 0 ? { plansAtEvents: [10, 30, 200, 500].map((most) => random.nextBelow(most)) } : {}),
    ...(random.nextBelow(3) === 0 ? { timing: drawTiming(random) } : { slow: SLOW[random.nextBelow(SLOW.length)]! }),
  };
}

function drawTiming(random: RandomStream): RingTiming {
  const upTo = (most: number): number => most * random.nextFloat();
  return {
    forward: 0.1 + upTo(2),
    backward: 0.1 + upTo(2),
    weight: 0.1 + upTo(2),
    hopLatency: random.nextBelow(2) === 0 ? 0 : upTo(4),
    jitter: random.nextBelow(2) === 0 ? 0 : upTo(0.5),
    measures: random.nextBelow(2) === 0,
  };
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("rings of stage machines, %s seed %i", (_, base) => {
  it("keep every invariant and end together", () => {
    for (let index = 0; index < RINGS; index += 1) {
      const scenario = draw(base + index);
      const context = JSON.stringify({ ...scenario, slow: scenario.slow?.source });
      const outcome = run(scenario, context);
      const completed = outcome.finishedSteps[0]!;
      expect(new Set(outcome.finishedSteps), context).toEqual(new Set([completed]));
      expect(new Set(outcome.updates), context).toEqual(new Set([completed - scenario.firstStep]));
      for (const losses of outcome.losses) {
        expect(losses, context).toEqual(expectedLosses(scenario, completed));
      }
      if (scenario.stopAtEvent === undefined) expect(completed, context).toBe(scenario.steps);
      for (const saves of outcome.saves) expect(saves, context).toEqual(expectedSaves(scenario, completed));
      for (const moves of outcome.moves) expect(moves, context).toEqual(outcome.moves[0]);
      if (scenario.evaluationMicroBatches > 0) expect(outcome.evaluations.at(-1), context).toBe(completed);
      expect(new Set(outcome.evaluations).size, context).toBe(outcome.evaluations.length);
    }
  });
});

function run(scenario: RingScenario, context: string): ReturnType<typeof simulateRing> {
  try {
    return simulateRing(scenario);
  } catch (cause) {
    throw new Error(`${String(cause)}\nin ${context}`, { cause });
  }
}

/** The mean over the batch of every step, on every stage. */
function expectedLosses({ firstStep, shape, batch }: RingScenario, completed: number): number[] {
  return Array.from({ length: completed - firstStep }, (_, index) => {
    const parts = Array.from({ length: shape.microBatches }, (_unused, m) => simulatedLoss(firstStep + index, m));
    return parts.reduce((sum, part) => sum + part, 0) / batch;
  });
}

/** Every multiple of the interval, and the end, each once. */
/** The last weights are saved where nothing is left to train, too: the view before may have ended ahead of that. */
function expectedSaves({ firstStep, checkpointEvery }: RingScenario, completed: number): number[] {
  const saves: number[] = completed === firstStep ? [completed] : [];
  for (let step = firstStep + 1; step <= completed; step += 1) {
    const isDue = checkpointEvery > 0 && step % checkpointEvery === 0;
    if (isDue || step === completed) saves.push(step);
  }
  return saves;
}

describe("ending early", () => {
  it("stops after the first step whose loss is low enough", () => {
    const shape = { kind: "1f1b", nodes: 3, laps: 1, microBatches: 4 } as const;
    const scenario = {
      ...draw(3),
      shape,
      slots: 4,
      firstStep: 0,
      steps: 50,
      stopAtLoss: 1e9,
      stopAtEvent: -1,
      plansAtEvents: [],
    };
    expect(simulateRing(scenario).finishedSteps).toEqual([1, 1, 1]);
  });
});
