/** @file The parameter server as a user runs it: real processes over TCP, the bits of one process, ends by signals, mistakes. */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { RunFolder } from "../../src/metrics/run-folder.ts";
import { CommandLine, type Ended, type Summary } from "../helpers/cli.ts";
import { runSerial, tinySettings } from "../helpers/memory-ring.ts";

const LIMIT_MS = 120_000;
const JOB = ["--model", "mlp:784-24-16-10", "--batch", "32", "--micro-batches", "2", "--timeline", "none"] as const;
const SERVER = ["--system", "ps", "-n", "2", "--servers", "2", ...JOB] as const;

function bits({ weightsSha256, lossCurveSha256, testAccuracy, steps }: Summary) {
  return { weightsSha256, lossCurveSha256, testAccuracy, steps };
}

test(
  "in bsp the bits are those of one process, also after a stop and a resume by other servers; a full result folder",
  async () => {
    await using cli = new CommandLine();
    const serial = await cli.train("--system", "serial", ...JOB, "--steps", "60", "--out", "serial");
    const running = cli.start("train", ...SERVER, "--steps", "60", "--pace", "0.02GFLOP/s", "--out", "run");
    await cli.reached(running, "run", 5);
    const { stdout } = await cli.run("status", "--job", "run", "--json");
    const told = JSON.parse(stdout) as { readonly nodes: readonly Record<string, unknown>[] };
    expect(told).toMatchObject({ system: "ps" });
    expect(told.nodes.map(({ role }) => role)).toEqual(["worker", "worker", "server", "server", "scheduler"]);
    for (const { node, step, lag } of told.nodes.slice(0, 4)) {
      expect(step, `step of node ${String(node)}`).toBeGreaterThan(2);
      expect(lag).toBe(Number(node) < 2 ? 0 : null);
    }
    for (const { idlePercent } of told.nodes.slice(2, 4)) expect(idlePercent).toBeGreaterThan(0);
    running.process.kill("SIGINT");
    const ended = await running.ended;
    expect(ended.code, ended.stderr).toBe(130);
    expect(ended.stderr).toContain("interrupted: finishing the step");
    const {
      code,
      stderr,
      stdout: written,
    } = await cli.run(
      ...[
        "train",
        "--resume",
        "run",
        "--servers",
        "1",
        "--data-servers",
        "1",
        "--co-locate",
        "--pace",
        "1GFLOP/s",
        "--json",
        "--quiet",
        "--orphans",
        "end",
      ],
    );
    expect(code, stderr).toBe(0);
    const summary = JSON.parse(written) as Summary;
    expect(bits(summary)).toEqual(bits(serial));
    expect(summary).toMatchObject({
      system: "ps",
      nodes: 2,
      workers: 2,
      servers: 1,
      dataServers: 1,
      consistency: "bsp",
      exact: true,
    });
    expect(summary.perNode.map(({ role }) => role)).toEqual(["worker+server", "worker"]);
    for (const node of summary.perNode) {
      const { computeMs, communicationMs, runQueueMs, waitMs, wallMs } = node as unknown as Record<string, number>;
      expect(Math.abs(computeMs! + communicationMs! + runQueueMs! + waitMs! - wallMs!)).toBeLessThan(0.01 * wallMs!);
    }
    const steps = cli.lines("run", "metrics.jsonl").map(({ step }) => step);
    expect(steps).toEqual(Array.from({ length: 60 }, (_, step) => step));
    const evaluated = await cli.run("evaluate", "run", "--json");
    expect(JSON.parse(evaluated.stdout)).toMatchObject({ testAccuracy: serial.testAccuracy });
  },
  LIMIT_MS,
);

const ENDLESS = ["train", ...SERVER, "--steps", "100000", "--orphans", "end", "--out"] as const;

/** Node `node` of the run in `out`. */
function kill(cli: CommandLine, out: string, node: number): void {
  const entry = cli.nodes.find((each) => each.node === node && each.out === cli.file(out));
  process.kill(entry!.pid, "SIGKILL");
}

function expectLost({ code, stderr }: Ended, name: string): void {
  expect(code, stderr).toBe(5);
  expect(stderr).toMatch(new RegExp(`^error: (the )?${name} .*$`, "m"));
  expect(stderr).toMatch(/^ {2}fix: .+$/m);
}

test.each([
  ["worker 0 and server 0", 0, ["--co-locate"]],
  ["server manager", 5, []],
  ["data server 0", 6, ["--data-servers", "1", "--parameters", "broadcast"]],
] as const)(
  "a %s that is killed ends the run with exit code 5, by its name",
  async (name, node, others) => {
    await using cli = new CommandLine();
    const running = cli.start(...ENDLESS, "run", ...others);
    await cli.reached(running, "run", 2);
    kill(cli, "run", node);
    expectLost(await running.ended, name);
  },
  LIMIT_MS,
);

test(
  "a second group trains on the servers of the first: these stay for it when a worker of the first is killed, whose own run ends by its name",
  async () => {
    await using cli = new CommandLine();
    const settings = tinySettings({ system: "serial", nodes: 1, microBatches: 2, steps: 40 });
    const serial = await runSerial(settings, RunFolder.create(cli.file("serial"), false));
    const config = cli.file("config.json");
    writeFileSync(
      config,
      JSON.stringify({ ...settings, system: "ps", nodes: 2, pace: "0.0002GFLOP/s", orphans: "end" }),
    );
    const first = cli.start(...ENDLESS, "first", "--pace", "0.05GFLOP/s");
    await cli.reached(first, "first", 2);
    const flags = ["--config", config, "--servers-of", "first", "--out", "second", "--json"];
    const second = cli.start("train", ...flags);
    await cli.reached(second, "second", 2);
    expect(cli.nodes.filter(({ out }) => out === cli.file("second"))).toHaveLength(6);
    kill(cli, "first", 0);
    const { code, stdout, stderr } = await second.ended;
    expect(code, stderr).toBe(0);
    const summary = JSON.parse(stdout) as Summary;
    expect(bits(summary)).toEqual(bits(serial.summary as Summary));
    expect(summary).toMatchObject({ nodes: 4, servers: 2, sharesServersWith: [cli.json("first", "job.json")["job"]] });
    const lost = await first.ended;
    expectLost(lost, "worker 0");
    expect(lost.stderr).toContain(`the servers stay until ${cli.file("second")} has ended too`);
  },
  LIMIT_MS,
);

test("mistakes are told before any process starts", async () => {
  await using cli = new CommandLine();
  const wrong: readonly (readonly [string, RegExp])[] = [
    ["--servers 0", /--servers "0": a whole number from 1/],
    ["--consistency bounded --tau -1", /--tau "-1": a whole number from 0/],
    ["--servers 5 --co-locate", /--servers 5 on the nodes of 4 workers/],
    ["--tau 3", /--tau 3 with --consistency bsp, in which nothing lags/],
    ["--consistency async --tau 3", /which bounds no lag/],
    ["--consistency eventual", /one of bsp, bounded, ssp, async is needed/],
    ["--optimizer median", /one of sgd/],
    ["-n 9", /--micro-batches 8 for 9 workers/],
    ["-n 2 --worker-holds range", /--worker-holds range with 8 micro-batches for 2 workers/],
    ["--model mlp:4-4 --data synthetic:classes=4,features=4 --servers 21", /--servers 21 for 20 parameters/],
    ["--memory-limit 181MiB", /a server with 335114 parameters needs 187MiB/],
    ["--servers-of run-a", /no running job is "run-a"/],
    ["--servers-of run-a --servers 2", /--servers with --servers-of: that run has as many as it has/],
    ["--data-servers -1", /--data-servers "-1": a whole number from 0/],
    ["--data-servers 9", /--data-servers 9 for 8 micro-batches/],
    [
      "--data-servers 1 --micro-batches 4 --batch 100000",
      /--data-servers 1: a micro-batch of 25000 samples is above the 64 MiB/,
    ],
    [
      "--parameters broadcast --consistency ssp",
      /--parameters broadcast with --consistency ssp: a new version could come/,
    ],
    ["--parameters broadcast --micro-batches 4 --worker-holds range", /has no room for layers/],
    ["--server-replicas 1", /--server-replicas 1 of 1 server: each copy/],
  ];
  const lines = wrong.map(([flags]) => ["train", "--system", "ps", ...flags.split(" "), "--out", "run"]);
  for (const [index, { code, stdout, stderr }] of (await cli.runEach(lines)).entries()) {
    const [flags, cause] = wrong[index]!;
    expect({ code, stdout }, flags).toEqual({ code: 2, stdout: "" });
    expect(stderr, flags).toMatch(cause);
    expect(stderr, flags).toMatch(/\n {2}fix: .+\n/);
  }
});
