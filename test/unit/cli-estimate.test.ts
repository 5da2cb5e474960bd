/** @file What copies add to the estimate before a run. Oracles: the same run's without them, and closed forms for equal layers. */
import { availableParallelism } from "node:os";
import { expect, test } from "vitest";
import { firstView } from "../../ring/runtime/segments.ts";
import { estimateRun, UPDATES } from "../../src/cli/estimate.ts";
import { parseSettings } from "../../src/config/settings.ts";

/** Four equal layers on as many nodes; costs in microseconds of a step. */
const PARAMETERS = 512 * 512 + 512;
const LAYER_US = 100_000;
const STEPS = 10;

function estimateOf(replicas: number, machineOf: (node: number) => string) {
  const shape = { model: "mlp:512-512-512-512-512", data: "synthetic:classes=512,features=512", balance: "off" };
  const settings = parseSettings({ ...shape, nodes: 4, batch: 64, microBatches: 8, steps: STEPS, replicas });
  const members = [0, 1, 2, 3].map((node) => ({
    ...{ node, peerId: `peer ${node}`, addresses: [], machine: machineOf(node), incarnation: "0", boot: 0 },
    ...{ engines: ["wasm:0"], wish: null },
  }));
  const layerCosts = Array<number>(4).fill(LAYER_US);
  const job = { job: "0", settings, dataSha256: "0", testCount: 0, firstStep: 0 };
  const view = firstView(settings, { view: 0, members, layerCosts, engine: "wasm:0" }, job.firstStep);
  return estimateRun(job, view, { layerCosts, engine: "wasm:0" });
}

test("on machines of their own nodes wait long enough for all copies: a kept version of their own is left", () => {
  const [without, one, three] = [0, 1, 3].map((replicas) => estimateOf(replicas, (node) => `machine ${node}`));
  expect(without!.stepMs).toBeCloseTo((LAYER_US * (8 + 3)) / 8 / 1000, 9);
  expect(one!.stepMs - without!.stepMs).toBeCloseTo((UPDATES.keptMs - UPDATES.plainMs) * PARAMETERS, 9);
  expect(three!.stepMs).toBe(one!.stepMs);
  expect(one!.runSeconds).toBeCloseTo((STEPS * one!.stepMs) / 1000, 9);
});

const cores = availableParallelism();

// With more cores the pipeline is what bounds four nodes, as on machines of their own.
test.runIf(cores < 3)("nodes that share the cores pay for every update", () => {
  const [without, one, three] = [0, 1, 3].map((replicas) => estimateOf(replicas, () => "here").stepMs);
  const { plainMs, keptMs } = UPDATES;
  expect(one! - without!).toBeCloseTo((4 * PARAMETERS * (2 * keptMs - plainMs)) / cores, 6);
  expect(three! - one!).toBeCloseTo((4 * PARAMETERS * 2 * keptMs) / cores, 6);
});

test("memory has the copies: a version and a gradient of the own layers, two versions and a gradient of each copy", () => {
  const [without, one, two] = [0, 1, 2].map((replicas) => estimateOf(replicas, () => "here").nodeBytesMax);
  // Adam: a version is three arrays. Digests and alignment take a few hundred bytes.
  expect((one! - without!) / (4 * PARAMETERS)).toBeCloseTo(3 + 1 + 7, 2);
  expect((two! - one!) / (4 * PARAMETERS)).toBeCloseTo(7, 2);
});
