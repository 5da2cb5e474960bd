/**
 * @file Runs that are disturbed by signals: what is killed, what ends in order, and that whatever goes on from the disk ends
 * with the bits of a run that nobody disturbed.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { CommandLine, SMALL, until, type Running, type Summary } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
const STEPS = 200;
const JOB = [...SMALL, "--steps", String(STEPS)] as const;

/** The same job in one process that nobody disturbs. */
let expected: Summary;
beforeAll(async () => {
  await using cli = new CommandLine();
  expected = await cli.train("--system", "serial", ...JOB, "--out", "undisturbed");
}, LIMIT_MS);

function startRing(cli: CommandLine, ...flags: readonly string[]): Running {
  return cli.start("up", "-n", "3", ...JOB, "--json", "--out", "run", ...flags);
}

function expectWhole(cli: CommandLine): void {
  const { weightsSha256, lossCurveSha256, testAccuracy } = expected;
  expect(cli.json("run", "summary.json")).toMatchObject({ weightsSha256, lossCurveSha256, testAccuracy, steps: STEPS });
  const steps = cli.lines("run", "metrics.jsonl").map((line) => line["step"]);
  expect(steps).toEqual(Array.from({ length: STEPS }, (_, step) => step));
}

test(
  "the launcher is killed: the nodes finish the run",
  async () => {
    await using cli = new CommandLine();
    const launcher = startRing(cli, "--orphans", "finish");
    await cli.reached(launcher, "run", 5);
    launcher.process.kill("SIGKILL");
    await launcher.ended;
    expect(cli.nodes, "the nodes outlive their launcher").toHaveLength(3);
    await cli.gone(30_000);
    expectWhole(cli);
    expect(cli.json("run", "checkpoints", String(STEPS), "manifest.json")["step"]).toBe(STEPS);
    expect(readdirSync(cli.file("run", "timeline"))).toHaveLength(3);
    expect(cli.json("run", "trace.json")["traceEvents"]).not.toHaveLength(0);
  },
  LIMIT_MS,
);

test(
  "the launcher is killed with --orphans end: so are the nodes",
  async () => {
    await using cli = new CommandLine();
    const launcher = startRing(cli, "--orphans", "end", "--steps", "1000000");
    await cli.reached(launcher, "run", 5);
    expect(cli.processes.length).toBe(4);
    launcher.process.kill("SIGKILL");
    await cli.gone(5_000);
    expect(cli.lines("run", "metrics.jsonl").length).toBeGreaterThan(5);
  },
  LIMIT_MS,
);

test(
  "a node is killed: the run ends with its name, and goes on from the checkpoint on another number of nodes",
  async () => {
    await using cli = new CommandLine();
    const launcher = startRing(cli, "--orphans", "end", "--checkpoint-every", "20", "--replicas", "0");
    await cli.reached(launcher, "run", 45);
    const { stdout } = await cli.run("status", "--json", "--job", "run");
    const { nodes } = JSON.parse(stdout) as { nodes: { pid: number; peerId: string }[] };
    process.kill(nodes[1]?.pid as number, "SIGKILL");
    const { code, stderr } = await launcher.ended;
    expect(code).toBe(5);
    const [cause, remedy] = stderr.trimEnd().split("\n").slice(-2);
    expect(cause).toMatch(new RegExp(`^error: node 1 \\(${nodes[1]?.peerId}\\) is gone at step \\d+, and its segment`));
    expect(remedy).toMatch(/^ {2}fix: go on from step \d+: ringtmp up --resume .*run$/);
    await cli.gone();
    const resumed = await cli.run("up", "--resume", "run", "-n", "2", "--orphans", "end", "--json");
    expect(resumed, resumed.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(resumed.stdout)).toEqual(cli.json("run", "summary.json"));
    expect(cli.json("run", "summary.json")["nodes"]).toBe(2);
    expectWhole(cli);
  },
  LIMIT_MS,
);

test(
  "interrupted once: the step is finished, what there is is written, and the run can go on",
  async () => {
    await using cli = new CommandLine();
    const launcher = startRing(cli, "--orphans", "end");
    await cli.reached(launcher, "run", 5);
    launcher.process.kill("SIGINT");
    const { code, stdout, stderr } = await launcher.ended;
    expect(code).toBe(130);
    expect(stderr).toContain("interrupted: finishing the step and writing the results (once more ends at once)");
    const { steps } = JSON.parse(stdout) as Summary;
    expect(steps).toBeLessThan(STEPS);
    expect(cli.lines("run", "metrics.jsonl")).toHaveLength(steps as number);
    expect(cli.json("run", "summary.json")["steps"]).toBe(steps);
    // One process goes on with what three began.
    await cli.train("--resume", "run", "--system", "serial");
    expectWhole(cli);
  },
  LIMIT_MS,
);

test(
  "interrupted twice: everything ends at once",
  async () => {
    await using cli = new CommandLine();
    // So long a step that the first signal cannot end it in time.
    const big = ["--model", "mlp:784-1024-1024-10", "--batch", "4096", "--micro-batches", "4"] as const;
    const launcher = startRing(cli, "--orphans", "end", ...big, "--steps", "100000");
    await cli.formed(3);
    launcher.process.kill("SIGINT");
    await until(() => launcher.stderr.includes("interrupted"), "the first answer");
    const startedMs = performance.now();
    launcher.process.kill("SIGINT");
    expect((await launcher.ended).code).toBe(130);
    await cli.gone(1_000);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  },
  LIMIT_MS,
);

test(
  "Ctrl-C at a terminal reaches the launcher alone, which ends the run in order",
  async () => {
    await using cli = new CommandLine();
    const launcher = startRing(cli, "--orphans", "end");
    await cli.reached(launcher, "run", 5);
    // A terminal signals the whole foreground group.
    const { stdout } = await cli.spawn(["ps", "-o", "pgid=", "-p", [launcher.pid, ...pidsOf(cli)].join(",")]).ended;
    expect(new Set(stdout.trim().split(/\s+/)).size, "a process group each").toBe(4);
    launcher.process.kill("SIGINT");
    expect((await launcher.ended).code).toBe(130);
    expect(cli.json("run", "summary.json")["nodes"]).toBe(3);
  },
  LIMIT_MS,
);

function pidsOf(cli: CommandLine): readonly number[] {
  return cli.nodes.map(({ pid }) => pid);
}

test(
  "a bug in a node: the launcher tells it and where the log is",
  async () => {
    await using cli = new CommandLine();
    const planted = `import { rmSync } from "node:fs"; import { isMainThread } from "node:worker_threads";
      const look = () => { try { rmSync("planted"); } catch { return; } throw new Error("a planted bug"); };
      if (isMainThread && process.argv[2] === "node") setInterval(look, 20).unref();`;
    const [node, ...program] = CommandLine.command(["up", "-n", "3", ...JOB, "--replicas", "0", "--steps", "1000000"]);
    const source = `data:text/javascript,${encodeURIComponent(planted)}`;
    const launcher = cli.spawn([node, "--import", source, ...program, "--orphans", "end", "--out", "run"]);
    await cli.reached(launcher, "run", 5);
    writeFileSync(cli.file("planted"), "");
    const { code, stderr } = await launcher.ended;
    expect(stderr).toMatch(
      /error: unexpected: Error: a planted bug\n {2}fix: this is a bug: .* the log is \S+\/run\/logs\n$/,
    );
    expect(code).toBe(1);
    const logs = readdirSync(cli.file("run", "logs")).map((name) =>
      readFileSync(cli.file("run", "logs", name), "utf8"),
    );
    expect(logs.join("")).toContain("a planted bug");
  },
  LIMIT_MS,
);

test(
  "one process alone is interrupted like a ring",
  async () => {
    await using cli = new CommandLine();
    const serial = cli.start("train", "--system", "serial", ...JOB, "--json", "--out", "run");
    await cli.reached(serial, "run", 5);
    serial.process.kill("SIGTERM");
    const { code, stdout } = await serial.ended;
    expect(code).toBe(130);
    expect(JSON.parse(stdout)).toEqual(cli.json("run", "summary.json"));
    await cli.train("--resume", "run", "--system", "ring", "-n", "3");
    expectWhole(cli);
  },
  LIMIT_MS,
);
