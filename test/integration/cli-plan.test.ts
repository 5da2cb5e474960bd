/** @file `plan` on the command line, and the bytes that it predicts against those of real runs. */
import { expect, test } from "vitest";
import { CommandLine, type Summary } from "../helpers/cli.ts";

const MODEL = [
  ...["--model", "mlp:64-128-128-128-128-128-128-128-64", "--data", "synthetic:classes=64,features=64"],
  ...["--batch", "64", "--micro-batches", "4"],
];

interface PlanJson {
  readonly winner: string;
  readonly margin: number;
  readonly assumed: Readonly<Record<string, string>>;
  readonly systems: readonly {
    readonly system: string;
    readonly stepMs: number;
    readonly bytesPerStep: number;
    readonly busiestNodeBytesPerStep: number;
    readonly memory: { readonly totalBytes: number };
  }[];
}

async function planOf(cli: CommandLine, ...flags: readonly string[]): Promise<PlanJson> {
  const { code, stdout, stderr } = await cli.run("plan", "--json", ...flags);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as PlanJson;
}

test("prints a table, or every number as JSON, and says what it assumes", async () => {
  await using cli = new CommandLine();
  const { code, stdout, stderr } = await cli.run("plan");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toContain("20GFLOP/s (assumed), links 1gbit,0.2ms (assumed), no memory limit");
  expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
  const plan = await planOf(cli, "-n", "2", "--link", "100mbit,5ms", "--memory", "512MiB", "--servers", "1");
  expect(plan.assumed).toEqual({ speed: "20GFLOP/s" });
  expect(plan.systems.map(({ system }) => system)).toContain(plan.winner);
  expect(plan.margin).toBeGreaterThanOrEqual(1);
});

test("help has an example; what cannot be read is told with flag, value and remedy", async () => {
  await using cli = new CommandLine();
  const help = await cli.run("plan", "--help");
  expect(help.stdout).toMatch(/^Usage: ringtmp plan[^]+\nExample:\n {2}ringtmp plan -n 8 --link 100mbit,5ms/);
  expect(help.stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
  const wrong = [
    ...[
      ["--speed", "fast"],
      ["--speed", "2,1GFLOP/s"],
      ["--memory", "512"],
      ["--link", "5"],
      ["--servers", "0"],
    ],
    ...[
      ["-n", "5"],
      ["--schedule", "zb-h1", "--micro-batches", "2"],
      ["--batch", "100"],
      ["--system", "ring"],
    ],
  ];
  for (const flags of wrong) {
    const { code, stdout, stderr } = await cli.run("plan", ...flags);
    expect({ code, stdout }, flags.join(" ")).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^error: .+\n {2}fix: .+\n$/);
  }
});

test("takes the settings of a run's config.json, its pace as the speed", async () => {
  await using cli = new CommandLine();
  await cli.train(...MODEL, "-n", "2", "--steps", "1", "--pace", "1GFLOP/s", "--out", "run");
  const fromFile = await planOf(cli, "--config", cli.file("run", "config.json"));
  const stated = await planOf(cli, ...MODEL, "-n", "2", "--speed", "1GFLOP/s");
  expect(fromFile.systems).toEqual(stated.systems);
});

// Two runs of four processes, on a machine that others may use.
test("a ring of 4 nodes with copies sends what is predicted: payload, and headers of at most 2 %", async () => {
  await using cli = new CommandLine();
  const flags = [...MODEL, "-n", "4", "--replicas", "2", "--balance", "off"];
  const run = (steps: number): Promise<Summary> =>
    cli.train(...flags, "--steps", String(steps), "--out", `steps-${steps}`);
  const [few, many] = [await run(4), await run(24)];
  // What a node sends once a run, not once a step, goes away.
  const perStep = (name: string, node: number): number =>
    (Number(many.perNode[node]![name]) - Number(few.perNode[node]![name])) / 20;
  const sent = [0, 1, 2, 3].map((node) => perStep("bytesSent", node));
  const both = sent.map((bytes, node) => bytes + perStep("bytesReceived", node));
  const { bytesPerStep, busiestNodeBytesPerStep } = (await planOf(cli, ...flags)).systems[0]!;
  const total = sent.reduce((sum, bytes) => sum + bytes, 0);
  for (const ratio of [total / bytesPerStep, Math.max(...both) / busiestNodeBytesPerStep]) {
    expect(ratio).toBeGreaterThan(1);
    expect(ratio).toBeLessThan(1.02);
  }
}, 60_000);
