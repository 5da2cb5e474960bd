/** @file A parameter server trains: in bsp with the bits of one process, whatever the servers and workers; else within its bounds. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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

  const cases = [1, 2, 3, 4].flatMap((nodes) =>
    [1, 2, 4].flatMap((servers) =>
      (["model", "range"] as const).flatMap((workerHolds) =>
        (["on", "off"] as const).map((overlap) => ({ nodes, servers, workerHolds, overlap })),
      ),
    ),
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
