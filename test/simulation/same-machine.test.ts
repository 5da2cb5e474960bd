/**
 * @file Two drivers of one machine: the timed ring of stage machines, with its messages, credits and slots, and the simulator,
 * which has the decisions alone, start and end every F, B and W at the same times. Costs are multiples of 1/64, so that sums are exact.
 */
import { describe, expect, test } from "vitest";
import { startWindow, type Window } from "../../ring/core/pipeline.ts";
import { isFused, type ScheduleShape } from "../../ring/core/schedule.ts";
import { mostSlots } from "../../ring/core/slots.ts";
import { windowFor } from "../../ring/core/window.ts";
import { RingSimulator, type SimulatedTask } from "../../ring/simulation/simulator.ts";
import { RandomStream } from "../../src/types/random.ts";
import { drawShape } from "../helpers/draw-shape.ts";
import { simulateRing, type RingScenario, type RingTiming } from "../helpers/ring-simulation.ts";

const PINNED_SEED = 20_261_122;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const RINGS = 150;
const GRAIN = 64;
/** What a ring measures in its first steps has set its windows by the third. */
const STEPS = 5;

interface Case {
  readonly shape: ScheduleShape;
  readonly canSplit: boolean;
  readonly slices: number;
  readonly timing: RingTiming;
}

function draw(seed: number): Case {
  const random = new RandomStream(seed, 3);
  const shape = drawShape(random, random.nextBelow(4) === 0 ? 8 : 4);
  const canSplit = shape.kind === "zb-h1" || random.nextBelow(4) > 0;
  const cost = (): number => (shape.laps * (1 + random.nextBelow(999))) / GRAIN;
  // Without latency, a lap's gradient can be ready in the very instant in which a node decides: the order of equals differs.
  const mayBeImmediate = shape.laps === 1 || isFused(shape.kind);
  const hopLatency = mayBeImmediate && random.nextBelow(2) === 0 ? 0 : (1 + random.nextBelow(300)) / GRAIN;
  const [forward, backward, weight] = [cost(), cost(), cost()];
  return {
    shape,
    canSplit,
    slices: 1 + random.nextBelow(2),
    timing: { forward, backward, weight, hopLatency, jitter: 0, measures: false },
  };
}

function scenarioOf({ shape, canSplit, slices, timing }: Case): RingScenario {
  return {
    seed: 1,
    shape,
    canSplit,
    slots: 4 * mostSlots(shape),
    slices,
    batch: 1,
    firstStep: 0,
    steps: STEPS,
    checkpointEvery: 0,
    validateEvery: 0,
    evaluationMicroBatches: 0,
    stopAtLoss: null,
    timing,
  };
}

/** `node step task start end`, from the moment when node 0 began. */
function timesOfMachines(scenario: Case): string[] {
  const { tasks } = simulateRing(scenarioOf(scenario));
  const begin = Math.min(...tasks.map(({ start }) => start));
  return tasks
    .map(({ node, step, task, start, end }) => `${node} ${step} ${task} ${start - begin} ${end - begin}`)
    .toSorted();
}

function runSimulator({ shape, canSplit, slices, timing }: Case, windowOf: (node: number) => Window): SimulatedTask[] {
  const { forward, backward, weight, hopLatency } = timing;
  const lap = { forward: forward / shape.laps, backward: backward / shape.laps, weight: weight / shape.laps };
  const perLap = <Value>(value: Value): Value[] => Array<Value>(shape.laps).fill(value);
  const perNode = <Value>(value: Value): Value[] => Array<Value>(shape.nodes).fill(value);
  const tasks: SimulatedTask[] = [];
  new RingSimulator({
    shape,
    steps: STEPS,
    canSplit,
    costs: perNode({ laps: perLap(lap), update: 0 }),
    slices: perNode(perLap(slices)),
    link: { latency: hopLatency },
    window: windowOf,
    onTask: (task) => void tasks.push(task),
  }).run();
  return tasks.filter(({ kind }) => kind !== "update");
}

const splits = ({ shape, canSplit }: Case): boolean => canSplit && !isFused(shape.kind);

function timesOfSimulator(scenario: Case): string[] {
  const { nodes } = scenario.shape;
  const tasks = runSimulator(scenario, (node) => startWindow(scenario.shape, node, splits(scenario)));
  const lines: string[] = [];
  for (const { node, step, lap, kind, microBatch, start, end } of tasks) {
    const name = `${node} ${step} ${lap * nodes + node}`;
    // A fused operation is told as its two parts, one right behind the other.
    if (splits(scenario) || kind === "F") lines.push(`${name}${kind}${microBatch} ${start} ${end}`);
    else if (kind === "B") lines.push(`${name}X${microBatch} ${start} `);
    else lines[lines.length - 1] += String(end);
  }
  return lines.toSorted();
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("machines and simulator, %s seed %i", (_, base) => {
  test("run every operation at the same times", () => {
    for (let index = 0; index < RINGS; index += 1) {
      const scenario = draw(base + index);
      expect(timesOfMachines(scenario), JSON.stringify(scenario)).toEqual(timesOfSimulator(scenario));
    }
  });
});

describe("machines that measure their round trips", () => {
  /** Start of each step at node 0. */
  const stepStarts = (tasks: readonly { readonly node: number; readonly step: number; readonly start: number }[]) =>
    Array.from({ length: STEPS }, (_, step) =>
      Math.min(...tasks.filter((task) => task.node === 0 && task.step === step).map(({ start }) => start)),
    );
  const periods = (starts: readonly number[]): number[] =>
    starts.slice(1).map((start, index) => start - starts[index]!);

  test.each([0, 0.25, 1, 4])("work as far ahead as nodes that know a latency of %f", (hopLatency) => {
    for (const [nodes, microBatches] of [
      [2, 8],
      [4, 16],
      [8, 64],
    ] as const) {
      const shape: ScheduleShape = { kind: "zero-bubble", nodes, laps: 1, microBatches };
      const costs = { forward: 1, backward: 1, weight: 1 };
      const timing = { ...costs, hopLatency, jitter: 0, measures: true };
      const scenario = { shape, canSplit: true, slices: 1, timing };
      const trip = (node: number): number => 2 * hopLatency * (nodes - 1 - node);
      const known = runSimulator(scenario, (node) => windowFor(shape, node, true, costs, trip(node), trip(0)));
      const measured = periods(stepStarts(simulateRing(scenarioOf(scenario)).tasks)).slice(2);
      const expected = periods(stepStarts(known)).slice(2);
      expect(measured, `${nodes} nodes`).toEqual(expected);
    }
  });
});
