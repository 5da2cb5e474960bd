/**
 * @file The formulas of a plan. Oracles: every message of a small configuration, counted one by one; the layouts that the engine
 * uses; the ring in virtual time.
 */
import { describe, expect, test } from "vitest";
import { copiedBy, copyTraffic } from "../../ring/core/copies.ts";
import type { ScheduleKind, ScheduleShape } from "../../ring/core/schedule.ts";
import { steadyTimes } from "../../ring/simulation/idle.ts";
import { RingSimulator } from "../../ring/simulation/simulator.ts";
import { planSegment, replicaSizeBytes } from "../../src/nn/layout.ts";
import { parseOptimizer } from "../../src/optim/optimizers.ts";
import {
  allReduceTraffic, coLocatedTraffic, dedicatedTraffic, equalTrafficBatch, pipelineStep, ringMessages, ringStateMemory,
  ringTraffic, sampleTraffic, serverMemory, shardedMemory, shardedTraffic, wholeMemory, workerMemory, type Traffic,
} from "../../src/plan/formulas.ts"; // prettier-ignore
import { activationBytes, nodeMemory } from "../../src/plan/memory.ts";
import { layerWork, sum } from "../../src/plan/scenario.ts";
import { scenarioOf } from "../helpers/plan-scenario.ts";

/** Divisible by all that the tests divide it by. */
const W = 720;

/** Counts messages between nodes; one to itself is none. */
class Counter {
  readonly #sent = new Map<string, number>();
  readonly #received = new Map<string, number>();

  send(from: string, to: string, bytes: number): void {
    if (from === to) return;
    this.#sent.set(from, (this.#sent.get(from) ?? 0) + bytes);
    this.#received.set(to, (this.#received.get(to) ?? 0) + bytes);
  }

  get traffic(): Traffic {
    const names = [...this.#sent.keys(), ...this.#received.keys()];
    const [sent, received] = [this.#sent, this.#received].map((counts) => names.map((name) => counts.get(name) ?? 0));
    return {
      totalBytes: [...this.#sent.values()].reduce((total, bytes) => total + bytes, 0),
      busiestNodeBytes: Math.max(0, ...names.map((_, index) => sent![index]! + received![index]!)),
      busiestLinkBytes: Math.max(0, ...sent!, ...received!),
    };
  }
}

function countServers(workers: number, servers: number, isCoLocated: boolean): Traffic {
  const counter = new Counter();
  for (let worker = 0; worker < workers; worker += 1) {
    for (let server = 0; server < servers; server += 1) {
      const names = [`node ${worker}`, isCoLocated ? `node ${server}` : `server ${server}`] as const;
      counter.send(names[0], names[1], W / servers);
      counter.send(names[1], names[0], W / servers);
    }
  }
  return counter.traffic;
}

/** `passes` times once round less one, every node sends a chunk to the next. */
function countRounds(nodes: number, passes: number): Traffic {
  const counter = new Counter();
  for (let round = 0; round < passes * (nodes - 1); round += 1) {
    for (let node = 0; node < nodes; node += 1) counter.send(`${node}`, `${(node + 1) % nodes}`, W / nodes);
  }
  return counter.traffic;
}

describe("bytes", () => {
  test.each([
    [1, 1],
    [3, 1],
    [4, 2],
    [2, 4],
    [6, 6],
  ])("of %i workers and %i dedicated servers", (workers, servers) => {
    expect(dedicatedTraffic(W, workers, servers)).toEqual(countServers(workers, servers, false));
  });

  test.each([
    [1, 1],
    [3, 1],
    [4, 2],
    [4, 3],
    [6, 6],
  ])("of %i workers, %i of which serve too", (workers, servers) => {
    expect(coLocatedTraffic(W, workers, servers)).toEqual(countServers(workers, servers, true));
  });

  test.each([1, 2, 3, 8])("of all-reduce and of sharded data parallel on %i nodes", (nodes) => {
    expect(allReduceTraffic(W, nodes)).toEqual(countRounds(nodes, 2));
    expect(shardedTraffic(W, nodes)).toEqual(countRounds(nodes, 3));
  });

  test.each([
    [1, 1, 2],
    [2, 1, 3],
    [4, 1, 8],
    [4, 2, 8],
    [3, 3, 6],
  ])("of a ring of %i nodes and %i laps with %i micro-batches", (nodes, laps, microBatches) => {
    const widths = Array.from({ length: nodes * laps - 1 }, (_, boundary) => 5 + boundary);
    const rows = 3;
    const batch = rows * microBatches;
    const counter = new Counter();
    const messages = Array<number>(nodes).fill(0);
    const lap = { forward: 1, backward: 1, weight: 1 };
    const kind = laps > 1 ? "interleaved" : "1f1b";
    new RingSimulator({
      shape: { kind, nodes, laps, microBatches },
      steps: 1,
      costs: Array.from({ length: nodes }, () => ({ laps: Array.from({ length: laps }, () => lap), update: 0 })),
      onMessage: ({ from, to }) => {
        counter.send(`${from % nodes}`, `${to % nodes}`, 4 * rows * widths[Math.min(from, to)]!);
        messages[from % nodes]! += 1;
        messages[to % nodes]! += 1;
      },
    }).run();
    counter.send("0", `${nodes - 1}`, 4 * batch);
    if (nodes > 1) for (const node of [0, nodes - 1]) messages[node]! += 1;
    const sample = sampleTraffic(nodes === 1 ? [] : widths, nodes);
    expect(ringTraffic(sample, batch, copyTraffic(Array<number>(nodes).fill(W), 0))).toEqual(counter.traffic);
    // Every node is counted with the labels that only two of them see.
    expect(ringMessages({ kind, nodes, laps, microBatches }) - Math.max(...messages)).toBeOneOf([0, 1]);
  });

  test.each([
    [2, 1],
    [4, 1],
    [4, 2],
    [5, 4],
  ])("of a ring of %i nodes with %i copies: each owner's gradient to each of its successors", (nodes, replicas) => {
    const nodeBytes = Array.from({ length: nodes }, (_, node) => W + 16 * node ** 2);
    const batch = 6;
    const widths = Array<number>(nodes - 1).fill(5);
    const counter = new Counter();
    for (const [stage, width] of widths.entries()) {
      counter.send(`${stage}`, `${stage + 1}`, 4 * batch * width);
      counter.send(`${stage + 1}`, `${stage}`, 4 * batch * width);
    }
    counter.send("0", `${nodes - 1}`, 4 * batch);
    for (const [owner, bytes] of nodeBytes.entries()) {
      for (let hop = 1; hop <= replicas; hop += 1) counter.send(`${owner}`, `${(owner + hop) % nodes}`, bytes);
    }
    const copies = copyTraffic(nodeBytes, replicas);
    expect(ringTraffic(sampleTraffic(widths, nodes), batch, copies)).toEqual(counter.traffic);
    expect(sum(copies.map(({ sent }) => sent))).toBe(replicas * sum(nodeBytes));
    // Each node copies those that send to it.
    const holders = nodeBytes.map((_, owner) =>
      nodeBytes.keys().filter((node) => copiedBy(node, nodes, replicas).includes(owner)),
    );
    expect(holders.map((each) => each.toArray().length)).toEqual(Array(nodes).fill(replicas));
  });

  test.each([0, 1, 2, 3])(
    "a ring with %i copies and all-reduce send the same at the batch where they are equal",
    (replicas) => {
      const bytes = 4 * 1024 * 1024;
      const sample = sampleTraffic([512, 512, 512], 4);
      const copies = copyTraffic(Array<number>(4).fill(bytes / 4), replicas);
      const batch = equalTrafficBatch(bytes, sample, copies);
      expect(ringTraffic(sample, batch, copies).busiestLinkBytes).toBeCloseTo(
        allReduceTraffic(bytes, 4).busiestLinkBytes,
      );
      // BASELINES: B·d·v < W(p-1)/p, here with labels, in bytes, and less what copies take.
      expect(batch).toBeCloseTo((bytes * (3 / 4 - replicas / 8)) / (4 * 512), 0);
    },
  );

  test("copies of a node with nearly all parameters are more than all-reduce carries, at any batch", () => {
    const nodeBytes = [1_000_000, 10, 10, 10];
    const sample = sampleTraffic([5, 5, 5], 4);
    expect(equalTrafficBatch(sum(nodeBytes), sample, copyTraffic(nodeBytes, 1))).toBeGreaterThan(0);
    expect(equalTrafficBatch(sum(nodeBytes), sample, copyTraffic(nodeBytes, 2))).toBe(0);
  });
});

describe("memory", () => {
  test.each([
    ["sgd", 0],
    ["momentum", 1],
    ["adam", 2],
  ])("with %s is that of the engine's layout", (optimizer, states) => {
    const scenario = scenarioOf({ model: "mlp:20-33-7", optimizer });
    const bytes = layerWork(scenario.model).reduce((total, layer) => total + layer.bytes, 0);
    const memory = nodeMemory(wholeMemory(bytes, states), activationBytes(scenario, [0, 2], 5, 3));
    const segment = {
      model: "mlp:20-33-7",
      layers: [0, 2] as const,
      rows: 5,
      slots: 3,
      optimizer,
      rate: 1,
      seed: 0,
      batch: 5,
    };
    const layout = planSegment(segment, scenario.kernels);
    // Blocks begin at multiples of 64 bytes.
    const difference = layout.sizeBytes - (memory.totalBytes - memory.baseBytes);
    expect(difference).toBeGreaterThanOrEqual(0);
    expect(difference).toBeLessThan(64 * 2 * states + 1);
    const parameters = layout.layers.reduce((total, layer) => total + 4 * layer.parameters.all.length, 0);
    expect(memory).toMatchObject({
      parametersBytes: parameters,
      gradientsBytes: parameters,
      statesBytes: states * parameters,
    });
  });

  test.each([
    ["sgd", 1],
    ["momentum", 2],
    ["adam", 1],
    ["adam", 3],
  ])("of a ring's node with %s and %i copies is that of the layouts of segment and copies", (optimizer, replicas) => {
    const text = "mlp:20-33-7-50-9";
    const scenario = scenarioOf({ model: text, optimizer });
    const nodeBytes = layerWork(scenario.model).map(({ bytes }) => bytes);
    const { stateNames } = parseOptimizer(optimizer);
    const common = { model: text, optimizer, rate: 1, seed: 0 };
    for (const node of nodeBytes.keys()) {
      const state = ringStateMemory(nodeBytes, node, replicas, stateNames.length);
      const layers = [node, node + 1] as const;
      const memory = nodeMemory(state, activationBytes(scenario, layers, 5, 3));
      const segment = planSegment({ ...common, layers, rows: 5, slots: 3, batch: 5 }, scenario.kernels, true);
      const copies = copiedBy(node, 4, replicas).map((owner) =>
        replicaSizeBytes({ ...common, layers: [owner, owner + 1] }),
      );
      // Blocks begin at multiples of 64 bytes, and a copy has a digest and its accumulators, which take a few hundred.
      const difference = segment.sizeBytes + sum(copies) - (memory.totalBytes - memory.baseBytes);
      expect(difference).toBeGreaterThanOrEqual(0);
      expect(difference).toBeLessThan(64 * 12 + 1024 * (1 + replicas));
    }
  });

  test("of equal nodes' copies: two versions of 1 + r segments, gradients of 2 + r", () => {
    for (const replicas of [1, 2, 3]) {
      expect(ringStateMemory([W, W, W, W], 2, replicas, 2)).toEqual({
        parametersBytes: 2 * (1 + replicas) * W,
        gradientsBytes: (2 + replicas) * W,
        statesBytes: 4 * (1 + replicas) * W,
      });
    }
    expect(ringStateMemory([W, 2 * W, W], 1, 0, 2)).toEqual(wholeMemory(2 * W, 2));
  });

  test("of workers and servers adds up to one optimizer in all", () => {
    expect(workerMemory(W)).toEqual({ parametersBytes: W, gradientsBytes: W, statesBytes: 0 });
    const { parametersBytes, gradientsBytes, statesBytes } = serverMemory(W, 3, 2);
    expect([3 * parametersBytes, 3 * gradientsBytes, 3 * statesBytes]).toEqual([W, W, 2 * W]);
  });

  test("of a sharded worker: its shard, the layer in use and the next, one layer's whole gradient", () => {
    const layers = [40, 80, 120, 8];
    const own = (40 + 80 + 120 + 8) / 4;
    let most = 0;
    for (const [index, bytes] of layers.entries()) most = Math.max(most, bytes + (layers[index + 1] ?? 0));
    expect(shardedMemory(layers, 4, 2)).toEqual({
      parametersBytes: own + most,
      gradientsBytes: own + 120,
      statesBytes: 2 * own,
    });
    expect(shardedMemory(layers, 1, 2)).toEqual(wholeMemory(248, 2));
  });
});

describe("a pipeline's step", () => {
  const costsOf = (works: readonly number[], unit: number) =>
    works.map((work) => ({ laps: [{ forward: work, backward: work * unit, weight: work }], update: 0 }));

  function simulated(
    shape: ScheduleShape,
    works: readonly number[],
    latency = 0,
    transfers: readonly number[] = Array<number>(shape.nodes * shape.laps).fill(0),
  ): number {
    const steps = 6;
    const costs = costsOf(works, 1).map(({ laps: [lap], update }) => ({ laps: Array(shape.laps).fill(lap), update }));
    const { nodes } = new RingSimulator({ shape, steps, costs, link: { latency, transfers } }).run();
    return steadyTimes(nodes).wall / nodes.length / (steps - 2);
  }

  const worksOf = (works: readonly number[], laps = 1) =>
    works.map((work) => ({ forward: work * laps, backward: 2 * work * laps }));

  test.each(["naive", "gpipe", "1f1b", "zb-h1", "zero-bubble"] as const)("%s: to the digit without latency", (kind) => {
    for (const [nodes, microBatches] of [
      [1, 4],
      [2, 4],
      [4, 8],
      [8, 16],
    ] as const) {
      const works = Array<number>(nodes).fill(3);
      const shape = { kind, nodes, laps: 1, microBatches };
      const form = pipelineStep(
        shape,
        worksOf(works),
        works.slice(1).map(() => ({ latency: 0, transfer: 0 })),
      );
      expect(form?.hasLatency).toBe(true);
      expect(form?.step).toBeCloseTo(simulated(shape, works), 9);
    }
  });

  test("interleaved: to the digit without latency; where messages take time it says that it leaves them out", () => {
    const shape = { kind: "interleaved", nodes: 4, laps: 2, microBatches: 8 } as const;
    const works = [3, 3, 3, 3];
    const hops = works.slice(1).map(() => ({ latency: 0, transfer: 0 }));
    expect(pipelineStep(shape, worksOf(works, 2), hops)?.step).toBeCloseTo(simulated(shape, works), 9);
    const late = hops.map(() => ({ latency: 1, transfer: 0 }));
    expect(pipelineStep(shape, worksOf(works, 2), late)?.hasLatency).toBe(false);
  });

  test.each<ScheduleKind>(["naive", "gpipe"])("%s: to the digit with unequal stages, latency and transfers", (kind) => {
    const shape = { kind, nodes: 4, laps: 1, microBatches: 6 };
    const works = [5, 9, 6, 7];
    const transfers = [1, 2, 3];
    const hops = transfers.map((transfer) => ({ latency: 0.5, transfer }));
    const form = pipelineStep(shape, worksOf(works), hops);
    expect(form).toEqual({ step: expect.closeTo(simulated(shape, works, 0.5, transfers), 9), hasLatency: true });
  });

  test("1f1b: within 2 % where the latency is at most a node's work (Little's law is of the steady part)", () => {
    for (const latency of [0, 1, 2, 3]) {
      const shape = { kind: "1f1b", nodes: 8, laps: 1, microBatches: 64 } as const;
      const works = Array<number>(8).fill(1);
      const form = pipelineStep(
        shape,
        worksOf(works),
        works.slice(1).map(() => ({ latency, transfer: 0 })),
      );
      const ratio =
        form!.step /
        simulated(
          shape,
          works,
          latency,
          works.slice(1).map(() => 0),
        );
      expect(Math.abs(ratio - 1), `latency ${latency}`).toBeLessThan(0.02);
    }
  });

  test("is unknown where a message would wait for the one before it", () => {
    const hops = [{ latency: 0, transfer: 2 }];
    for (const kind of ["gpipe", "1f1b"] as const) {
      expect(pipelineStep({ kind, nodes: 2, laps: 1, microBatches: 4 }, worksOf([1, 1]), hops)).toBeNull();
    }
    const naive = { kind: "naive", nodes: 2, laps: 1, microBatches: 4 } as const;
    expect(pipelineStep(naive, worksOf([1, 1]), hops)?.step).toBeCloseTo(simulated(naive, [1, 1], 0, [2]), 9);
  });
});
