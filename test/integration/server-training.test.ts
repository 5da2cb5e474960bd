/** @file A parameter server trains: in bsp with the bits of one process, whatever the servers and workers; else within its bounds. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ShareLine } from "../../baseline-ps/runtime/share-history.ts";
import { RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { newestCheckpoint } from "../../src/runtime/checkpoint.ts";
import { bits, type Outcome, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { runServers } from "../helpers/memory-servers.ts";

const LIMIT_MS = 60_000;
const scratch = new Scratch();
afterAll(() => scratch.remove());

const psSettings = (changes: Readonly<Record<string, unknown>>) => tinySettings({ system: "ps", ...changes });

describe("bsp with one micro-batch a worker has the bits of one process", () => {
  const serials = new Map<number, Outcome>();
  beforeAll(async () => {
    for (const microBatches of [1, 2, 3, 4]) {
      serials.set(
        microBatches,
        await runSerial(tinySettings({ system: "serial", nodes: 1, microBatches }), scratch.folder()),
      );
    }
  });

  // Every number of workers with every number of servers; what a worker holds and overlap take turns, so that each pair of values is there.
  const cases = [1, 2, 3, 4].flatMap((nodes) =>
    [1, 2, 4].map((servers, place) => {
      const turn = nodes + place;
      return { nodes, servers, workerHolds: turn % 2 === 0 ? "model" : "range", overlap: turn % 4 < 2 ? "on" : "off" };
    }),
  );
  test.each(cases)(
    "$nodes workers, $servers servers, a worker holds $workerHolds, overlap $overlap",
    async (changes) => {
      const settings = psSettings({ ...changes, microBatches: changes.nodes });
      const outcome = await runServers(settings, scratch.folder());
      expect(bits(outcome)).toEqual(bits(serials.get(changes.nodes)!));
      expect(outcome.summary).toMatchObject({
        nodes: changes.nodes + changes.servers,
        lagHistogram: [5 * changes.nodes],
      });
    },
    LIMIT_MS,
  );
});

describe("servers on the workers' nodes", () => {
  test.each([
    { nodes: 1, servers: 1 },
    { nodes: 3, servers: 1 },
    { nodes: 3, servers: 3, workerHolds: "range" },
  ])("have the bits of dedicated ones, and less traffic: $nodes workers, $servers servers", async (changes) => {
    const settings = psSettings({ ...changes, microBatches: changes.nodes });
    const dedicated = await runServers(settings, scratch.folder());
    const outcome = await runServers({ ...settings, coLocate: true }, scratch.folder());
    expect(bits(outcome)).toEqual(bits(dedicated));
    const { nodes, servers } = changes;
    const perNode = outcome.summary["perNode"] as readonly Record<string, unknown>[];
    expect(perNode.map(({ role }) => role)).toEqual(
      Array.from({ length: nodes }, (_, node) => (node < servers ? "worker+server" : "worker")),
    );
    for (const summary of [dedicated.summary, outcome.summary]) {
      const held = (summary["perNode"] as readonly { readonly parameters: number }[]).map(
        ({ parameters }) => parameters,
      );
      expect(held.reduce((sum, count) => sum + count, 0)).toBe(
        (dedicated.summary["perNode"] as typeof perNode).reduce((sum, node) => sum + Number(node["parameters"]), 0),
      );
    }
    // Of each server's traffic with N workers, that with one takes no line.
    const modelBytes = 4 * Number(outcome.summary["parameters"]);
    expect(dedicated.summary["pushedBytesPerStep"]).toBe(nodes * modelBytes);
    expect(outcome.summary["pushedBytesPerStep"]).toBe((nodes - 1) * modelBytes);
    const pulled = ({ summary }: Outcome): number => Number(summary["pulledBytesPerStep"]);
    expect(pulled(outcome)).toBeLessThan(pulled(dedicated));
    for (const { summary } of [dedicated, outcome]) {
      const values = Number(summary["pushedBytesPerStep"]) + Number(summary["pulledBytesPerStep"]);
      expect(Number(summary["bytesPerStep"])).toBeGreaterThanOrEqual(values);
    }
    for (const node of perNode) {
      const { computeMs, communicationMs, runQueueMs, waitMs, wallMs } = node as Record<string, number>;
      expect(Math.abs(computeMs! + communicationMs! + runQueueMs! + waitMs! - wallMs!)).toBeLessThan(0.01 * wallMs!);
    }
  });

  test("a process that is gone is told by all its roles", async () => {
    const changes = { nodes: 2, servers: 2, microBatches: 2, steps: 10_000, coLocate: true };
    const running = runServers(psSettings(changes), scratch.folder(), {
      onCommitted: (step, _, close) => step === 5 && close({ kind: "worker", index: 1 }),
    });
    await expect(running).rejects.toThrow(/(worker|server) 1/);
  });
});

describe("more micro-batches than workers", () => {
  test("losses are those of one process within 1e-5", async () => {
    const changes = { microBatches: 6, steps: 8 };
    const serial = await runSerial(tinySettings({ system: "serial", nodes: 1, ...changes }), scratch.folder());
    const { losses } = await runServers(psSettings({ nodes: 3, servers: 2, ...changes }), scratch.folder());
    expect(losses).toHaveLength(8);
    for (const [step, loss] of losses.entries()) {
      expect(Math.abs(loss - serial.losses[step]!) / serial.losses[step]!, `step ${step}`).toBeLessThan(1e-5);
    }
  });
});

describe("with a straggler", () => {
  /** The first worker is five times slower; a share takes the others a few milliseconds. */
  const SLOW = { pace: "0.00004,0.0002,0.0002,0.0002GFLOP/s", nodes: 4, servers: 2, optimizer: "sgd" } as const;
  const STEPS = 12;

  /** Every share once, by what it was computed with; the summary says the same. */
  function expectHistory(folder: RunFolder, summary: Outcome["summary"], tau: number): void {
    const lines = folder.readLines(RUN_FILES.history) as readonly ShareLine[];
    const shares = lines.map(({ step, share }) => 4 * step + share).toSorted((a, b) => a - b);
    expect(shares).toEqual(Array.from({ length: 4 * STEPS }, (_, index) => index));
    for (const { step, version, lag } of lines) expect(lag).toBe(Math.max(0, step - version));
    expect(Math.max(...lines.map(({ lag }) => lag))).toBeLessThanOrEqual(tau);
    const histogram = summary["lagHistogram"] as readonly number[];
    expect(histogram).toEqual(histogram.map((_, wanted) => lines.filter(({ lag }) => lag === wanted).length));
    expect(histogram.reduce((sum, count) => sum + count, 0)).toBe(lines.length);
  }

  test.each([0, 1, 2, 4, 8, 16])(
    "no parameters lag by more than %i",
    async (tau) => {
      const settings = psSettings({ ...SLOW, consistency: "bounded", tau, steps: STEPS });
      const folder = scratch.folder();
      const { summary, losses } = await runServers(settings, folder);
      expectHistory(folder, summary, tau);
      expect(losses).toHaveLength(STEPS);
      expect(losses.at(-1)).toBeLessThan(losses[0]!);
    },
    LIMIT_MS,
  );

  test.each([
    ["ssp", 2],
    ["async", undefined],
  ])(
    "%s trains to the end",
    async (consistency, tau) => {
      const settings = psSettings({ ...SLOW, consistency, tau, steps: STEPS });
      const folder = scratch.folder();
      const { summary, losses } = await runServers(settings, folder);
      expectHistory(folder, summary, tau ?? Infinity);
      expect(losses.at(-1)).toBeLessThan(losses[0]!);
    },
    LIMIT_MS,
  );
});

describe("the run's end", () => {
  test("comes after the first loss that is low enough, with the bits of one process", async () => {
    const changes = { microBatches: 2, steps: 60, stopAtLoss: 1, lr: 0.05 };
    const serial = await runSerial(tinySettings({ system: "serial", nodes: 1, ...changes }), scratch.folder());
    const ended = await runServers(psSettings({ nodes: 2, servers: 2, ...changes }), scratch.folder());
    expect(serial.losses.length).toBeLessThan(60);
    expect(bits(ended)).toEqual(bits(serial));
  });

  test("comes when the user wants it, after the steps that have begun, and another run goes on from there", async () => {
    const changes = { microBatches: 2, steps: 40, checkpointEvery: 7, validateEvery: 5 };
    const serial = await runSerial(tinySettings({ system: "serial", nodes: 1, ...changes }), scratch.folder());
    const folder = scratch.folder();
    const settings = psSettings({ nodes: 2, servers: 3, ...changes });
    const begun = await runServers(settings, folder, { onCommitted: (step, stop) => step === 10 && stop() });
    expect(begun.losses.length).toBeGreaterThan(10);
    expect(begun.losses.length).toBeLessThan(40);
    expect(begun.losses).toEqual(serial.losses.slice(0, begun.losses.length));
    const resumed = await runServers(psSettings({ nodes: 2, servers: 1, ...changes }), folder, {
      firstStep: newestCheckpoint(folder, console.warn).manifest.step,
    });
    expect(bits(resumed)).toEqual(bits(serial));
    const lines = folder.readLines(RUN_FILES.history) as readonly ShareLine[];
    const shares = lines.map(({ step, share }) => 2 * step + share).toSorted((a, b) => a - b);
    expect(shares, "every share once, over both runs").toEqual(Array.from({ length: 80 }, (_, index) => index));
    expect(resumed.summary["lagHistogram"]).toEqual([80]);
  });

  test.each(["worker", "server", "scheduler"] as const)("a %s that is gone ends the run, by its name", async (kind) => {
    const running = runServers(psSettings({ nodes: 2, servers: 2, microBatches: 2, steps: 10_000 }), scratch.folder(), {
      onCommitted: (step, _, close) => step === 5 && close({ kind, index: 0 }),
    });
    await expect(running).rejects.toThrow(new RegExp(`${kind}( 0)? is gone`));
  });

  test("numbers that are not finite end the run", async () => {
    const running = runServers(
      psSettings({
        nodes: 2,
        microBatches: 2,
        lr: 1_000,
        optimizer: "adamw",
        steps: 500,
      }),
      scratch.folder(),
    );
    await expect(running).rejects.toThrow("not finite");
  });
});
