/**
 * @file One result whatever runs it: every number of nodes, schedule, engine and optimizer from the command line gives the
 * weights and the losses of one process, bit for bit.
 */
import { describe, expect, test } from "vitest";
import { CommandLine, SMALL, type Summary } from "../helpers/cli.ts";
import { hasMnist, MNIST_DIR } from "../helpers/shared-data.ts";

const LIMIT_MS = 120_000;

function hashes({ weightsSha256, lossCurveSha256, testAccuracy }: Summary) {
  return { weightsSha256, lossCurveSha256, testAccuracy };
}

describe("a ring has the bits of one process", () => {
  test.skipIf(!hasMnist)(
    "on 1, 2, 3 and 4 nodes, with gpipe and 1f1b, on MNIST",
    async () => {
      await using cli = new CommandLine();
      const data = ["--data", "mnist", "--data-dir", MNIST_DIR] as const;
      const job = [...data, "--model", "mlp:784-32-24-16-10", "--batch", "64", "--steps", "10"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      for (const nodes of ["1", "2", "3", "4"]) {
        for (const schedule of ["gpipe", "1f1b"]) {
          const flags = ["-n", nodes, "--schedule", schedule, "--out", `${nodes}-${schedule}`] as const;
          const ring = await cli.train(...job, ...flags);
          expect(hashes(ring), flags.join(" ")).toEqual(hashes(serial));
          expect(ring.perNode).toHaveLength(Number(nodes));
        }
      }
    },
    LIMIT_MS,
  );

  test.each(["wasm", "wasm-exact"])(
    "with engine %s and every optimizer",
    async (engine) => {
      await using cli = new CommandLine();
      const results = new Set<unknown>();
      for (const optimizer of ["adam", "sgd", "momentum", "adamw"]) {
        const job = [...SMALL, "--steps", "4", "--engine", engine, "--optimizer", optimizer] as const;
        const serial = await cli.train("--system", "serial", ...job, "--out", `serial-${optimizer}`);
        const ring = await cli.train("-n", "3", ...job, "--out", `ring-${optimizer}`);
        expect(hashes(ring), optimizer).toEqual(hashes(serial));
        expect(ring["engine"]).toBe(engine);
        results.add(ring["weightsSha256"]);
      }
      expect(results.size, "optimizers differ").toBe(4);
    },
    LIMIT_MS,
  );

  test(
    "with five layers of uneven widths on five nodes",
    async () => {
      await using cli = new CommandLine();
      const job = ["--model", "mlp:784-200-120-90-60-10", "--steps", "4"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      const ring = await cli.train("-n", "5", ...job, "--out", "ring");
      expect(hashes(ring)).toEqual(hashes(serial));
      expect(ring.perNode.map(({ layers }) => layers)).toEqual([[[0, 1]], [[1, 2]], [[2, 3]], [[3, 4]], [[4, 5]]]);
    },
    LIMIT_MS,
  );

  test.skipIf(!hasMnist)(
    "and learns: 300 steps of the default model on 4 nodes",
    async () => {
      await using cli = new CommandLine();
      const data = ["--data", "mnist", "--data-dir", MNIST_DIR] as const;
      const { testAccuracy, steps } = await cli.train(...data, "-n", "4", "--steps", "300", "--out", "run");
      expect(steps).toBe(300);
      expect(testAccuracy).toBeGreaterThanOrEqual(0.93);
    },
    LIMIT_MS,
  );
});
