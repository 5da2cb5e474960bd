/**
 * @file Step times of the data-parallel systems. Oracles: the same told message by message, every worker and every chunk on
 * its own; single layers worked out by hand; what no system can be faster than.
 */
import { describe, expect, test } from "vitest";
import { allReduceTraffic, coLocatedTraffic, dedicatedTraffic, shardedTraffic } from "../../src/plan/formulas.ts";
import { allReduceStepMs, laneEnds, serverStepMs, shardedStepMs } from "../../src/plan/overlap.ts";
import { computeMs, layerWork, sum, type Scenario } from "../../src/plan/scenario.ts";
import { scenarioOf } from "../helpers/plan-scenario.ts";

/** A machine of any kind that does one thing at a time; `start` may be later than it is free. */
class Busy {
  #freeMs = 0;
  take(startMs: number, durationMs: number): number {
    return (this.#freeMs = Math.max(this.#freeMs, startMs) + durationMs);
  }
}

interface Passed {
  readonly forwardMs: number;
  /** When each layer's gradient is done, by layer. */
  readonly gradients: readonly number[];
}

function passOf({ model, batch, flopsPerMs }: Scenario, workers: number): Passed {
  const layers = layerWork(model);
  let now = 0;
  for (const { forward } of layers) now += (forward * batch) / workers / flopsPerMs;
  const forwardMs = now;
  const gradients = Array<number>(layers.length).fill(0);
  for (let layer = layers.length - 1; layer >= 0; layer -= 1) {
    const { backward, weight } = layers[layer]!;
    now += ((backward + weight) * batch) / workers / flopsPerMs;
    gradients[layer] = now;
  }
  return { forwardMs, gradients };
}

/** Every push and every answer of each worker and server, in the order in which they come to the server's interface. */
function countedServerStep(scenario: Scenario, workers: number, servers: number): number {
  const { model, link } = scenario;
  const { gradients } = passOf(scenario, workers);
  let end = 0;
  for (let server = 0; server < servers; server += 1) {
    const [inlet, outlet] = [new Busy(), new Busy()];
    for (const [layer, { bytes }] of [...layerWork(model).entries()].toReversed()) {
      const shardMs = bytes / servers / link.rateBytesPerMs;
      let complete = 0;
      for (let worker = 0; worker < workers; worker += 1) complete = inlet.take(gradients[layer]!, shardMs);
      for (let worker = 0; worker < workers; worker += 1) {
        end = Math.max(end, outlet.take(complete + link.latencyMs, shardMs) + link.latencyMs);
      }
    }
  }
  return end;
}

/** Each round of each reduction after the other. */
function countedReductions(scenario: Scenario, isWhole: boolean): number {
  const { model, nodes, link } = scenario;
  const { gradients } = passOf(scenario, nodes);
  let now = 0;
  const reduce = (readyMs: number, bytes: number): void => {
    now = Math.max(now, readyMs);
    for (let round = 0; round < 2 * (nodes - 1); round += 1)
      now += bytes / nodes / link.rateBytesPerMs + link.latencyMs;
  };
  const layers = layerWork(model);
  if (isWhole) reduce(gradients[0]!, sum(layers.map(({ bytes }) => bytes)));
  else for (let layer = layers.length - 1; layer >= 0; layer -= 1) reduce(gradients[layer]!, layers[layer]!.bytes);
  return Math.max(now, gradients[0]!);
}

const MODEL = "mlp:100-80-120-60-40";

test("lanes do one task at a time, in order, after what it needs", () => {
  const ends = laneEnds([
    { lane: "compute", duration: 3, after: [] },
    { lane: "out", duration: 5, after: [0], lag: 2 },
    { lane: "compute", duration: 1, after: [] },
    { lane: "out", duration: 1, after: [2] },
    { lane: "in", duration: 1, after: [1, 3] },
  ]);
  expect(ends).toEqual([3, 10, 4, 9, 11]);
});

describe("a parameter server", () => {
  test.each([
    [1, 1],
    [3, 1],
    [4, 2],
    [4, 4],
  ])("of %i workers and %i servers, counted message by message", (workers, servers) => {
    for (const rateBytesPerMs of [1e2, 3e3, 1e5, Infinity]) {
      for (const latencyMs of [0, 0.3, 20]) {
        const scenario = scenarioOf({ model: MODEL, link: { rateBytesPerMs, latencyMs } });
        const step = serverStepMs(scenario, { workers, servers, isCoLocated: false });
        expect(step).toBeCloseTo(countedServerStep(scenario, workers, servers), 6);
      }
    }
  });

  test("on the workers' nodes: as many servers as workers take what all-reduce takes on the wire", () => {
    const link = { rateBytesPerMs: 10, latencyMs: 0 };
    const scenario = scenarioOf({ model: MODEL, link, flopsPerMs: 1e12 });
    const step = serverStepMs(scenario, { workers: 4, servers: 4, isCoLocated: true });
    expect(step / allReduceStepMs(scenario)).toBeCloseTo(1, 3);
    expect(serverStepMs(scenario, { workers: 1, servers: 1, isCoLocated: true })).toBeCloseTo(computeMs(scenario), 9);
  });
});

test.each([1, 2, 5])(
  "all-reduce on %i nodes: the better of each layer's and one for all, counted round by round",
  (nodes) => {
    for (const latencyMs of [0, 1, 50]) {
      const scenario = scenarioOf({ model: MODEL, nodes, link: { rateBytesPerMs: 500, latencyMs } });
      const counted = [true, false].map((isWhole) => countedReductions(scenario, isWhole));
      expect(allReduceStepMs(scenario)).toBeCloseTo(Math.min(...counted), 9);
    }
  },
);

describe("sharded data parallel", () => {
  test("one layer, by hand: both gathers are under way before the backward pass, the scatter comes last", () => {
    const scenario = scenarioOf({ model: "mlp:100-50", nodes: 4, link: { rateBytesPerMs: 100, latencyMs: 1 } });
    const [{ bytes, forward, weight }] = layerWork(scenario.model) as [ReturnType<typeof layerWork>[number]];
    const collective = 3 * (bytes / 4 / 100 + 1);
    const perFlop = scenario.batch / 4 / scenario.flopsPerMs;
    const computed = Math.max(collective + forward * perFlop, 2 * collective) + weight * perFlop;
    expect(shardedStepMs(scenario)).toBeCloseTo(computed + collective, 9);
  });

  test("two layers, by hand, with a slow link: three collectives a layer, and the passes that nothing hides", () => {
    const link = { rateBytesPerMs: 1, latencyMs: 0 };
    const scenario = scenarioOf({ model: "mlp:10-10-10", nodes: 2, link });
    const [first, last] = layerWork(scenario.model) as [
      ReturnType<typeof layerWork>[number],
      ReturnType<typeof layerWork>[number],
    ];
    const collective = first.bytes / 2;
    const perFlop = scenario.batch / 2 / scenario.flopsPerMs;
    // Gathers of 1, 2, 2 (when layer 1 is used), 1 (when layer 2 is used), scatters of 2 and of 1.
    const [f1, f2] = [first.forward * perFlop, last.forward * perFlop];
    const gathered2 = 2 * collective;
    const again2 = Math.max(gathered2, collective + f1) + collective;
    const again1 = Math.max(again2, gathered2 + f2) + collective;
    const done2 = Math.max(again2, gathered2 + f2) + (last.backward + last.weight) * perFlop;
    const scattered2 = Math.max(again1, done2) + collective;
    const done1 = Math.max(again1, done2) + first.weight * perFlop;
    expect(shardedStepMs(scenario)).toBeCloseTo(Math.max(scattered2, done1) + collective, 6);
  });
});

test("no system is faster than its compute or its busiest link, nor slower than all of it one after the other", () => {
  for (const nodes of [2, 3, 8]) {
    for (const rateBytesPerMs of [10, 1e3, 1e5]) {
      const scenario = scenarioOf({ model: MODEL, nodes, link: { rateBytesPerMs, latencyMs: 0 } });
      const bytes = sum(layerWork(scenario.model).map((layer) => layer.bytes));
      const cases = [
        [
          serverStepMs(scenario, { workers: nodes - 1, servers: 1, isCoLocated: false }),
          dedicatedTraffic(bytes, nodes - 1, 1),
          nodes - 1,
        ],
        [
          serverStepMs(scenario, { workers: nodes, servers: 2, isCoLocated: true }),
          coLocatedTraffic(bytes, nodes, 2),
          nodes,
        ],
        [allReduceStepMs(scenario), allReduceTraffic(bytes, nodes), nodes],
        [shardedStepMs(scenario), shardedTraffic(bytes, nodes), nodes],
      ] as const;
      for (const [step, { busiestLinkBytes }, workers] of cases) {
        const [compute, link] = [computeMs(scenario) / workers, busiestLinkBytes / rateBytesPerMs];
        expect(step).toBeGreaterThanOrEqual(Math.max(compute, link) * (1 - 1e-9));
        // What comes in and what goes out may be apart.
        expect(step).toBeLessThanOrEqual((compute + 2 * link) * (1 + 1e-9));
      }
    }
  }
});
