/** @file Runs of a parameter server that go on without processes that die: with the bits of one process where updates are whole steps in order. */
import type { ShareLine } from "../../baseline-ps/runtime/share-history.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { afterAll, describe, expect, test } from "vitest";
import { bits, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { runServers } from "../helpers/memory-servers.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

const LIMIT_MS = 60_000;
const STEPS = 40;
const settingsOf = (changes: Readonly<Record<string, unknown>>) =>
  tinySettings({ system: "ps", nodes: 2, servers: 3, microBatches: 2, steps: STEPS, serverReplicas: 1, ...changes });

describe("a run with copies of its shards", () => {
  test.each([
    { serverReplicas: 1 },
    { serverReplicas: 2 },
    { serverReplicas: 1, optimizer: "adam", workerHolds: "range" },
    { serverReplicas: 2, overlap: "off" },
  ])("has the bits of one process while nobody dies: %o", { timeout: LIMIT_MS }, async (changes) => {
    const serial = await runSerial(
      tinySettings({
        system: "serial",
        nodes: 1,
        microBatches: 2,
        steps: STEPS,
        ...(changes.optimizer && { optimizer: changes.optimizer }),
      }),
      scratch.folder(),
    );
    const ended = await runServers(settingsOf(changes), scratch.folder());
    expect(bits(ended)).toEqual(bits(serial));
  });

  test.each([
    { dead: [[5, 1]] },
    { dead: [[5, 0]], optimizer: "adam" },
    { dead: [[5, 2]], serverReplicas: 2, servers: 4 },
    {
      dead: [
        [5, 0],
        [20, 1],
      ],
      servers: 4,
    },
    { dead: [[5, 1]], workerHolds: "range" },
    { dead: [[5, 1]], overlap: "off" },
  ])("has the bits of one process though servers die: %o", { timeout: LIMIT_MS }, async ({ dead, ...changes }) => {
    const serial = await runSerial(
      tinySettings({
        system: "serial",
        nodes: 1,
        microBatches: 2,
        steps: STEPS,
        ...(changes.optimizer && { optimizer: changes.optimizer }),
      }),
      scratch.folder(),
    );
    const ended = await runServers(settingsOf(changes), scratch.folder(), {
      onCommitted: (step, _, close) => {
        for (const [at, index] of dead) if (step === at) close({ kind: "server", index: index! });
      },
    });
    expect(bits(ended)).toEqual(bits(serial));
  });

  test.each([
    { dead: [1] },
    { dead: [0] },
    { dead: [0, 2], nodes: 4, microBatches: 4 },
    { dead: [1], workerHolds: "range" },
    { dead: [1], overlap: "off", validateEvery: 3, checkpointEvery: 7 },
  ])("has the bits of one process though workers die: %o", { timeout: LIMIT_MS }, async ({ dead, ...changes }) => {
    const { microBatches = 2, validateEvery = 0, checkpointEvery = 0 } = changes as Record<string, number>;
    const serial = await runSerial(
      tinySettings({ system: "serial", nodes: 1, microBatches, steps: STEPS, validateEvery, checkpointEvery }),
      scratch.folder(),
    );
    const ended = await runServers(settingsOf(changes), scratch.folder(), {
      onCommitted: (step, _, close) => {
        for (const [turn, index] of dead.entries()) if (step === 5 + 8 * turn) close({ kind: "worker", index });
      },
    });
    expect(bits(ended)).toEqual(bits(serial));
  });

  test.each([
    { come: ["server"], go: [] },
    { come: ["server", "server"], go: [["server", 0]] },
    { come: [], go: [["server", 1]], servers: 4 },
    { come: [], go: [["worker", 1]] },
    { come: ["worker"], go: [["worker", 0]] },
    {
      come: ["worker", "server"],
      go: [
        ["worker", 1],
        ["server", 2],
      ],
      servers: 4,
      workerHolds: "range",
    },
  ] as const)(
    "has the bits of one process though some come and go: %o",
    { timeout: LIMIT_MS },
    async ({ come, go, ...changes }) => {
      const steps = 4 * STEPS;
      const serial = await runSerial(
        tinySettings({ system: "serial", nodes: 1, microBatches: 2, steps }),
        scratch.folder(),
      );
      const ended = await runServers(settingsOf({ ...changes, steps }), scratch.folder(), {
        onCommitted: (step, _, __, { join, leave }) => {
          if (step === 5) for (const [kind, index] of go) leave({ kind, index });
          if (step === 40) for (const kind of come) join(kind);
        },
      });
      expect(bits(ended)).toEqual(bits(serial));
    },
  );

  test.each([
    { dead: [["scheduler", 8]] },
    { dead: [["scheduler", 8]], workerHolds: "range", validateEvery: 5, checkpointEvery: 7 },
    { dead: [["standby", 8]] },
    {
      dead: [
        ["scheduler", 8],
        ["worker", 16],
        ["server", 24],
      ],
    },
    {
      dead: [
        ["worker", 8],
        ["scheduler", 9],
      ],
    },
  ] as const)(
    "has the bits of one process though the task scheduler dies: %o",
    { timeout: LIMIT_MS },
    async ({ dead, ...changes }) => {
      const { validateEvery = 0, checkpointEvery = 0 } = changes as Record<string, number>;
      const settings = { system: "serial", nodes: 1, microBatches: 2, steps: STEPS, validateEvery, checkpointEvery };
      const serial = await runSerial(tinySettings(settings), scratch.folder());
      const folder = scratch.folder();
      const ended = await runServers(settingsOf(changes), folder, {
        onCommitted: (step, _, close) => {
          for (const [kind, at] of dead) if (step === at) close({ kind, index: 0 });
        },
      });
      expect(bits(ended)).toEqual(bits(serial));
      const lines = folder.readLines(RUN_FILES.history) as readonly ShareLine[];
      const shares = lines.map(({ step, share }) => 2 * step + share).toSorted((a, b) => a - b);
      expect(shares, "every share once").toEqual(Array.from({ length: 2 * STEPS }, (_, index) => index));
    },
  );

  test.each([
    { dead: [] },
    { dead: [["worker", 1, 14]] },
    {
      dead: [
        ["server", 1, 14],
        ["scheduler", 0, 60],
      ],
    },
    { dead: [["server", 1, 7]], servers: 4 },
  ] as const)(
    "has the bits of one process though the manager dies: %o",
    { timeout: LIMIT_MS },
    async ({ dead, ...changes }) => {
      const steps = 3 * STEPS;
      const settings = { system: "serial", nodes: 1, microBatches: 2, steps };
      const serial = await runSerial(tinySettings(settings), scratch.folder());
      const ended = await runServers(settingsOf({ ...changes, steps }), scratch.folder(), {
        onCommitted: (step, _, close, { closeManager }) => {
          if (step === 8) closeManager();
          for (const [kind, index, at] of dead) if (step === at) close({ kind, index });
        },
      });
      expect(bits(ended)).toEqual(bits(serial));
    },
  );

  test("ends safely where no server has some keys any more, and names them", { timeout: LIMIT_MS }, async () => {
    const running = runServers(settingsOf({ steps: 10_000 }), scratch.folder(), {
      onCommitted: (step, _, close) => {
        if (step === 5) for (const index of [0, 1]) close({ kind: "server", index });
      },
    });
    await expect(running).rejects.toThrow(/no server has the keys \[\d+, \d+\)/);
  });

  test.each([{ consistency: "bounded", tau: 2 }, { consistency: "ssp", tau: 2 }, { consistency: "async" }])(
    "applies every share once, whoever dies: %o",
    { timeout: LIMIT_MS },
    async (changes) => {
      const ended = await runServers(settingsOf({ ...changes, nodes: 3, microBatches: 3 }), scratch.folder(), {
        onCommitted: (step, _, close) => {
          if (step === 5) close({ kind: "server", index: 1 });
          if (step === 12) close({ kind: "worker", index: 2 });
        },
      });
      expect(ended.losses).toHaveLength(STEPS);
      expect(ended.losses.at(-1)!).toBeLessThan(ended.losses[0]!);
    },
  );
});
