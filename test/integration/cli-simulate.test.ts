/** @file `simulate` as users run it: results, files, figures, schedules as text, calibration, mistakes. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { CommandLine } from "../helpers/cli.ts";

type Fields = Readonly<Record<string, unknown>>;

const MODEL = ["--model", "mlp:64-64-64-64-64-64", "--batch", "64"] as const;

async function simulated(cli: CommandLine, ...parameters: readonly string[]): Promise<Fields> {
  const { code, stdout, stderr } = await cli.run("simulate", "--json", ...parameters);
  expect(stderr).toMatch(/tasks\/s, \d+ MiB of memory/);
  expect(code).toBe(0);
  return JSON.parse(stdout) as Fields;
}

test("a thousand nodes, and nothing kept that was not asked for", async () => {
  await using cli = new CommandLine();
  const summary = await simulated(cli, "-n", "1024", "--schedule", "1f1b", "--micro-batches", "256", "--steps", "3");
  expect(summary["idlePercentSteady"]).toBeCloseTo(100 * (1023 / (256 + 1023)), 8);
  expect(summary["idlePercentFormula"]).toBe(summary["idlePercentTheory"]);
  expect(existsSync(cli.file("results"))).toBe(false);
});

test("a run folder that can be plotted, and repeated from its configuration", async () => {
  await using cli = new CommandLine();
  const flags = ["-n", "4", "--micro-batches", "8", "--jitter", "0.3", "--hop-latency", "0.2", "--seed", "7"];
  const summary = await simulated(cli, ...flags, "--out", "run");
  expect(cli.json("run", "summary.json")).toEqual(summary);
  expect(cli.json("run", "environment.json")).toMatchObject({ engine: "simulator", clockSource: "virtual time" });
  const entries = cli.lines("run", "timeline", "3.jsonl");
  // Four steps: F, B and W of each micro-batch, an activation received and a gradient sent, the updates.
  expect(entries.length).toBe(4 * (8 * (3 + 2) + 1));
  const trace = cli.json("run", "trace.json") as { readonly traceEvents: readonly Fields[] };
  expect(trace.traceEvents.some(({ name }) => name === "3W7")).toBe(true);
  expect(await simulated(cli, "--config", "run/config.json")).toEqual(summary);

  const plotted = await cli.run("plot", "run", "--format", "svg");
  expect(plotted.code, plotted.stderr).toBe(0);
  expect(readFileSync(cli.file("run", "figures", "timeline.svg"), "utf8")).toContain("simulated");

  const again = await cli.run("simulate", "-n", "2", "--out", "run");
  expect([again.code, again.stderr]).toEqual([2, expect.stringContaining("holds another run")]);
  await simulated(cli, "-n", "2", "--out", "run", "--force", "--timeline", "last:1");
  expect(new Set(cli.lines("run", "timeline", "0.jsonl").map(({ step }) => step))).toEqual(new Set([3]));
  expect(existsSync(cli.file("run", "timeline", "3.jsonl"))).toBe(false);
});

test("of timelines with many entries few steps are kept unless more are asked for, and never without bound", async () => {
  await using cli = new CommandLine();
  const large = ["-n", "128", "--micro-batches", "128", "--schedule", "gpipe", "--out", "run", "--force"];
  const steps = () => new Set(cli.lines("run", "timeline", "0.jsonl").map(({ step }) => step));
  const unasked = await cli.run("simulate", ...large);
  expect(unasked.stderr).toContain("timelines of 1 of 4 steps are kept");
  expect(steps()).toEqual(new Set([3]));
  await simulated(cli, ...large, "--timeline", "last:3");
  expect(steps()).toEqual(new Set([1, 2, 3]));
  const beyond = await cli.run("simulate", ...large, "--timeline", "all", "--steps", "40");
  expect([beyond.code, beyond.stderr]).toEqual([2, expect.stringContaining("at most 1000000 are kept")]);
});

test("what is printed of a schedule can be simulated again", async () => {
  await using cli = new CommandLine();
  for (const [schedule, flags] of [
    ["1f1b", ["--schedule", "1f1b"]],
    ["zb-h1", []],
  ] as const) {
    const printed = await cli.run("simulate", "-n", "3", "--micro-batches", "6", "--schedule", schedule, "--print");
    expect(printed.stdout.trimEnd().split("\n").length).toBe(3);
    expect(printed.stdout).toMatch(/^0F0 0F1 0F2 0B0 0W0 0F3/);
    writeFileSync(cli.file("tasks.txt"), printed.stdout);
    const first = await simulated(cli, "-n", "3", "--micro-batches", "6", "--schedule", schedule);
    const again = await simulated(cli, "--tasks", "tasks.txt", ...flags);
    expect(again["idlePercentSteady"]).toBe(first["idlePercentSteady"]);
    expect(again).toMatchObject({ schedule: "tasks", nodes: 3, microBatches: 6, idlePercentFormula: null });
  }
  const rule = await cli.run("simulate", "-n", "2", "--micro-batches", "4", "--print", "--quiet");
  expect(rule).toEqual({
    ...{ code: 0, stderr: "" },
    stdout: "0F0 0F1 0F2 0B0 0F3 0B1 0W0 0B2 0W1 0B3 0W2 0W3\n1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3 1W0 1W1 1W2 1W3\n",
  });
});

test("costs from a run's files: what was fitted, how well, and another number of nodes", async () => {
  await using cli = new CommandLine();
  const paced = [...MODEL, "--pace", "0.2GFLOP/s", "--link", "100mbit,1ms", "--schedule", "1f1b"];
  await simulated(cli, ...paced, "-n", "5", "--out", "five");
  const four = await simulated(cli, "--from", "five", "-n", "4");
  // The same run without a detour.
  const { calibration, ...direct } = await simulated(cli, ...paced, "-n", "4");
  expect(calibration).toBeNull();
  expect(four["idlePercentSteady"]).toBeCloseTo(direct["idlePercentSteady"] as number, 6);
  const { residuals } = four["calibration"] as { readonly residuals: readonly Fields[] };
  expect(residuals).toHaveLength(1);
  const { measured, simulated: again } = (residuals[0] ?? {})["stepMs"] as Record<string, number>;
  expect(again).toBeCloseTo(measured ?? 0, 6);

  const { stderr } = await cli.run("simulate", "--from", "five", "five", "--schedule", "gpipe");
  expect(stderr).toMatch(/fitted: F as paced \+ 0\.000 ms/);
  expect(stderr).toMatch(/five \(5 nodes, 1f1b\): step .* ms, simulated .* ms; idle .* %, simulated .* %/);
});

describe("refused with exit code 2", () => {
  test.each([
    [["--costs", "1,-1,1"], "--costs"],
    [["--costs", "1,1,1", ...MODEL, "--pace", "1GFLOP/s"], "it is of unit costs"],
    [["--speeds", "1,2", "-n", "3"], "2 speeds for 3 nodes"],
    [["--jitter", "much"], "--jitter"],
    [["-n", "4097"], "from 1 to 4096"],
    [[...MODEL], "--model without --pace"],
    [["--print", "--json"], "--print with --json"],
    [["--tasks", "nowhere.txt"], "cannot be read"],
    [["--hop-latnecy", "1"], "unknown option '--hop-latnecy'"],
  ])("%j", async (flags, cause) => {
    await using cli = new CommandLine();
    const { code, stdout, stderr } = await cli.run("simulate", ...flags);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(cause);
    expect(stderr).toContain("fix: ");
  });

  test("tasks that wait for each other for ever", async () => {
    await using cli = new CommandLine();
    writeFileSync(cli.file("tasks.txt"), "0F0 0B0 0W0 0F1 0B1 0W1\n1F0 1F1 1B0 1W0 1B1 1W1\n");
    const { code, stderr } = await cli.run("simulate", "--tasks", "tasks.txt");
    expect(code).toBe(2);
    expect(stderr).toContain("line 1 waits at 0B0 for 1B0, and line 2 has stopped at 1F1");
  });
});

test("a folder without a run, or with one in units, is no base for costs", async () => {
  await using cli = new CommandLine();
  const none = await cli.run("simulate", "--from", "nowhere");
  expect([none.code, none.stderr]).toEqual([3, expect.stringContaining("no run that has ended is there")]);
  await simulated(cli, "-n", "2", "--out", "units");
  const units = await cli.run("simulate", "--from", "units");
  expect([units.code, units.stderr]).toEqual([2, expect.stringContaining("its times are in units")]);
});
