/**
 * @file One result whatever runs it: every schedule, number of nodes, engine, optimizer and emulated machine from the command line
 * gives the weights and the losses of one process, bit for bit. More combinations, without processes: ring-memory.
 */
import { describe, expect, test } from "vitest";
import { CommandLine, SMALL, type Summary } from "../helpers/cli.ts";
import { hasMnist, MNIST_DIR } from "../helpers/shared-data.ts";

const LIMIT_MS = 120_000;
const MNIST = ["--data", "mnist", "--data-dir", MNIST_DIR] as const;
const DEEP = [
  ...["--model", "mlp:48-32-32-32-32-32-32-32-10", "--data", "synthetic:classes=10,features=48,samples=320,test=64"],
  ...["--batch", "32", "--micro-batches", "8"],
] as const;
/** Eight equal layers: the last node, a quarter as fast as the first, soon gives some away. */
const EQUAL = [
  ...["--model", "mlp:32-32-32-32-32-32-32-32-32", "--data", "synthetic:classes=32,features=32,samples=320,test=64"],
  ...["--batch", "32", "--micro-batches", "8"],
] as const;
const UNEVEN_4 = ["-n", "4", "--pace", "0.02,0.01,0.01,0.005GFLOP/s", "--balance", "auto"] as const;
const UNEVEN_2 = ["-n", "2", "--pace", "0.02,0.005GFLOP/s", "--balance", "auto"] as const;

function hashes({ weightsSha256, lossCurveSha256, testAccuracy }: Summary) {
  return { weightsSha256, lossCurveSha256, testAccuracy };
}

describe("a ring has the bits of one process", () => {
  test(
    "under every schedule",
    async () => {
      await using cli = new CommandLine();
      const job = [...DEEP, "--steps", "3", "--validate-every", "2"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      for (const [nodes, schedule, laps] of [
        ["1", "zero-bubble", "1"],
        ["2", "naive", "1"],
        ["2", "1f1b", "1"],
        ["2", "interleaved", "2"],
        ["2", "zb-h1", "1"],
        ["4", "zero-bubble", "2"],
      ] as const) {
        const out = `${nodes}-${schedule}-${laps}`;
        const ring = await cli.train(...job, "-n", nodes, "--schedule", schedule, "--laps", laps, "--out", out);
        expect(hashes(ring), out).toEqual(hashes(serial));
        expect(ring).toMatchObject({ nodes: Number(nodes), schedule, laps: Number(laps), exact: true });
        expect(ring.perNode).toHaveLength(Number(nodes));
      }
    },
    LIMIT_MS,
  );

  test.skipIf(!hasMnist)(
    "on MNIST with gpipe and three nodes",
    async () => {
      await using cli = new CommandLine();
      const job = [...MNIST, "--model", "mlp:784-32-24-16-10", "--batch", "64", "--steps", "10"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      const ring = await cli.train(...job, "-n", "3", "--schedule", "gpipe", "--out", "ring");
      expect(hashes(ring)).toEqual(hashes(serial));
    },
    LIMIT_MS,
  );

  test.each([
    ["wasm", "adagrad"],
    ["wasm-exact", "adamw"],
  ])(
    "with engine %s and optimizer %s",
    async (engine, optimizer) => {
      await using cli = new CommandLine();
      const job = [...SMALL, "--steps", "4", "--engine", engine, "--optimizer", optimizer] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      const ring = await cli.train("-n", "2", ...job, "--out", "ring");
      expect(hashes(ring)).toEqual(hashes(serial));
      expect(ring["engine"]).toBe(engine);
    },
    LIMIT_MS,
  );

  test(
    "with five layers of uneven widths on five nodes, a slow link, and little memory",
    async () => {
      await using cli = new CommandLine();
      const job = ["--model", "mlp:784-200-120-90-60-10", "--steps", "4"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      const ring = await cli.train("-n", "5", ...job, "--link", "2ms", "--out", "ring");
      expect(hashes(ring)).toEqual(hashes(serial));
      expect(ring.perNode.map(({ layers }) => layers)).toEqual([[[0, 1]], [[1, 2]], [[2, 3]], [[3, 4]], [[4, 5]]]);
      // What the refusal states as the smallest limit is one with which the run ends, and in the same bits.
      const refused = await cli.run("train", "-n", "2", ...job, "--memory-limit", "64MiB", "--out", "small");
      const least = /use --memory-limit (\d+MiB) or more/.exec(refused.stderr)?.[1] ?? "none";
      const small = await cli.train("-n", "2", ...job, "--memory-limit", least, "--out", "small");
      expect(hashes(small)).toEqual(hashes(serial));
      expect(small["emulated"]).toMatchObject({ memoryLimit: least });
    },
    LIMIT_MS,
  );

  test.skipIf(!hasMnist)(
    "and learns: 300 steps of the default model on 4 nodes",
    async () => {
      await using cli = new CommandLine();
      const { testAccuracy, steps } = await cli.train(
        ...MNIST,
        "-n",
        "4",
        "--replicas",
        "0",
        "--steps",
        "300",
        "--out",
        "run",
      );
      expect(steps).toBe(300);
      expect(testAccuracy).toBeGreaterThanOrEqual(0.93);
    },
    LIMIT_MS,
  );
});

describe("layers that move between processes change no bit", () => {
  /** Layers moved as `events.jsonl` says, within a view or with a new one for the same nodes, and the summary names the last cut. */
  function expectMoved(cli: CommandLine, out: string, { perNode }: Summary): void {
    const isMove = ({ kind, removed }: Record<string, unknown>): boolean =>
      kind === "migrated" || (kind === "view" && (removed as readonly unknown[]).length === 0);
    const moved = cli.lines(out, "events.jsonl").filter(isMove);
    expect(moved.length, "layers moved").toBeGreaterThanOrEqual(1);
    const held = perNode.map(({ layers }) => layers);
    expect(held[0]!.flatMap((_, lap) => held.map((layers) => layers[lap]))).toEqual(moved.at(-1)!["cut"]);
    const sizes = held.map((layers) => layers.reduce((sum, [start = 0, end = 0]) => sum + end - start, 0));
    expect(sizes[0], "the fast node has more than the slow one").toBeGreaterThan(sizes.at(-1)!);
  }

  test.each(["0", "1"])(
    "with adam, checkpoints on both sides of the move, and a resume by other nodes, %s replicas",
    async (replicas) => {
      await using cli = new CommandLine();
      const serial = await cli.train("--system", "serial", ...EQUAL, "--steps", "14", "--out", "serial");
      const kept = ["--replicas", replicas, "--out", "ring"] as const;
      const begun = await cli.train(...EQUAL, ...UNEVEN_4, "--steps", "12", "--checkpoint-every", "3", ...kept);
      expectMoved(cli, "ring", begun);
      const { code, stdout, stderr } = await cli.run(
        ...["train", "--resume", "ring", "--steps", "14", "-n", "2", "--pace", "1GFLOP/s", "--schedule", "gpipe"],
        ...["--json", "--quiet", "--orphans", "end"],
      );
      expect(code, stderr).toBe(0);
      const resumed = JSON.parse(stdout) as Summary;
      expect(hashes(resumed)).toEqual(hashes(serial));
      expect(resumed.perNode).toHaveLength(2);
    },
    LIMIT_MS,
  );

  test(
    "with momentum, two laps and a slow link",
    async () => {
      await using cli = new CommandLine();
      const job = [...EQUAL, "--steps", "12", "--optimizer", "momentum"] as const;
      const serial = await cli.train("--system", "serial", ...job, "--out", "serial");
      const ring = await cli.train(
        ...job,
        ...UNEVEN_2,
        "--replicas",
        "0",
        "--laps",
        "2",
        "--link",
        "1gbit,2ms",
        "--out",
        "ring",
      );
      expect(hashes(ring)).toEqual(hashes(serial));
      expectMoved(cli, "ring", ring);
    },
    LIMIT_MS,
  );
});
