/** @file Questions to running jobs: what they answer, without a network stack; and the orderly end. */
import { expect, test } from "vitest";
import { CommandLine, SMALL, until } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
const ENDLESS = [...SMALL, "--steps", "1000000"] as const;

test(
  "status, jobs and stop of a running ring",
  async () => {
    await using cli = new CommandLine();
    const launcher = cli.start(
      "up",
      "-n",
      "3",
      ...ENDLESS,
      "--orphans",
      "end",
      "--name",
      "mine",
      "--out",
      "run",
      "--json",
    );
    await cli.reached(launcher, "run", 2);
    const entries = await cli.formed(3);

    const { code, stdout } = await cli.run("status", "--json");
    expect(code).toBe(0);
    const status = JSON.parse(stdout) as Record<string, unknown> & { nodes: Record<string, unknown>[] };
    expect(status).toMatchObject({ job: entries[0]?.job, system: "ring", view: 0 });
    expect(status["step"]).toBeGreaterThan(1);
    expect(status.nodes.map(({ node, pid }) => ({ node, pid }))).toEqual(
      entries.map(({ node, pid }) => ({ node, pid })),
    );
    expect(status.nodes.map(({ layers }) => layers)).toEqual([[[0, 1]], [[1, 2]], [[2, 3]]]);
    for (const { peerId, addresses, state, step, idlePercent } of status.nodes) {
      expect(addresses).toEqual([expect.stringMatching(new RegExp(`^/ip4/127.0.0.1/tcp/\\d+/p2p/${String(peerId)}$`))]);
      expect(state).toBe("training");
      expect(step).toBeGreaterThan(0);
      expect(idlePercent).toBeGreaterThanOrEqual(0);
      expect(idlePercent).toBeLessThanOrEqual(100);
    }

    const table = await cli.run("status", "--job", "run");
    expect(table.stdout).toMatch(/^job [0-9a-f]{16} \(ring\): step \d+ of 1000000, view 0, loss \d\.\d{4}\nnode +pid/);
    expect(table.stdout.trimEnd().split("\n")).toHaveLength(5);
    const jobs = JSON.parse((await cli.run("jobs", "--json")).stdout) as unknown;
    expect(jobs).toEqual([
      expect.objectContaining({ job: status["job"], name: "mine", out: cli.file("run"), nodes: 3 }),
    ]);
    expect((await cli.run("jobs")).stdout).toContain(` mine ${cli.file("run")}`);

    const again = await cli.run("up", ...SMALL, "-n", "3", "--force", "--out", "run");
    expect(again.code).toBe(2);
    expect(again.stderr).toMatch(/^error: run is the folder of the running job [0-9a-f]{16}\n {2}fix: end it first: /);

    expect(await cli.run("stop", "mine")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/ends after its step/),
    });
    const ended = await launcher.ended;
    expect(ended.code).toBe(0);
    const summary = cli.json("run", "summary.json");
    expect(JSON.parse(ended.stdout)).toEqual(summary);
    expect(cli.lines("run", "metrics.jsonl")).toHaveLength(summary["steps"] as number);
    expect(cli.json("run", "checkpoints", String(summary["steps"]), "manifest.json")["step"]).toBe(summary["steps"]);
    expect((await cli.run("jobs")).stdout).toBe("no job runs\n");
  },
  LIMIT_MS,
);

test(
  "of two jobs one must be named, and a killed one is forgotten",
  async () => {
    await using cli = new CommandLine();
    const serial = ["train", "--system", "serial", ...ENDLESS] as const;
    const [first, second] = ["first", "second"].map((out) => cli.start(...serial, "--out", out, "--quiet"));
    await cli.formed(2);
    const unnamed = await cli.run("status");
    expect(unnamed.code).toBe(2);
    expect(unnamed.stderr).toMatch(/^error: 2 jobs run: [0-9a-f]{16}, [0-9a-f]{16}\n {2}fix: name one with --job\n$/);
    const one = JSON.parse((await cli.run("status", "--job", "first", "--json")).stdout) as { nodes: unknown[] };
    expect(one).toMatchObject({ system: "serial", nodes: [{ node: 0, pid: first?.pid, layers: [[0, 3]] }] });
    second?.process.kill("SIGKILL");
    await until(() => second?.process.signalCode === "SIGKILL", "the end of the second job");
    expect(JSON.parse((await cli.run("jobs", "--json")).stdout)).toHaveLength(1);
    expect((await cli.run("stop", "first")).code).toBe(0);
    expect((await first?.ended)?.code).toBe(0);
  },
  LIMIT_MS,
);

test(
  "no command about jobs loads the network",
  async () => {
    await using cli = new CommandLine();
    // Every module that is resolved goes through the hook, which refuses the network's.
    const hook = `export async function resolve(name, context, next) {
      if (/libp2p|multiaddr/.test(name)) throw new Error("loaded " + name);
      return next(name, context);
    }`;
    const source = `data:text/javascript,${encodeURIComponent(hook)}`;
    const register = `data:text/javascript,${encodeURIComponent(`import { register } from "node:module"; register(${JSON.stringify(source)});`)}`;
    const [node, ...program] = CommandLine.command([]);
    for (const command of [["jobs"], ["status"], ["stop", "none"], ["--help"]]) {
      const { code, stderr } = await cli.spawn([node, "--import", register, ...program, ...command]).ended;
      expect(stderr, command.join(" ")).not.toContain("loaded");
      expect(code).toBe(command[0] === "jobs" || command[0] === "--help" ? 0 : 2);
    }
    const { stderr } = await cli.spawn([node, "--import", register, ...program, "join", "/ip4/127.0.0.1/tcp/1"]).ended;
    expect(stderr, "the hook works").toContain("loaded");
  },
  LIMIT_MS,
);
