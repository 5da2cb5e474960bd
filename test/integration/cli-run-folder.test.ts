/** @file What a run leaves behind, and what the flags that shape a run do. */
import { existsSync, readdirSync } from "node:fs";
import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { CommandLine, SMALL, type Summary } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;

/** The run's own steps, and its losses hashed by hand. */
function expectMetrics(cli: CommandLine, out: string, { steps, lossCurveSha256 }: Summary): void {
  const lines = cli.lines(out, "metrics.jsonl");
  expect(lines.map((line) => line["step"])).toEqual(lines.map((_, index) => index));
  expect(lines).toHaveLength(steps as number);
  expect(lines.map((line) => line["samples"])).toEqual(lines.map((_, index) => 32 * (index + 1)));
  const losses = Float64Array.from(lines, (line) => line["loss"] as number);
  expect(createHash("sha256").update(losses).digest("hex")).toBe(lossCurveSha256);
}

test(
  "all files are there, and the configuration repeats the run",
  async () => {
    await using cli = new CommandLine();
    const flags = ["--json", "--orphans", "end", ...SMALL, "--steps", "12"] as const;
    const more = ["-n", "3", "--checkpoint-every", "5", "--validate-every", "4", "--timeline", "all"] as const;
    const { code, stdout, stderr } = await cli.run("up", ...flags, ...more, "--seed", "7", "--out", "first");
    expect(code).toBe(0);
    // Standard output carries the result alone, in one line; progress is elsewhere.
    expect(stdout.match(/\n/g)).toHaveLength(1);
    expect(stderr).toMatch(/ring of 3 nodes, job [0-9a-f]{16}; results in first/);
    expect(stderr).toMatch(/estimate: about .* a step/);
    const summary = JSON.parse(stdout) as Summary;
    expect(summary).toEqual(cli.json("first", "summary.json"));
    expectMetrics(cli, "first", summary);
    expect(cli.json("first", "config.json")).toMatchObject({ system: "ring", nodes: 3, seed: 7, wire: "f32" });
    expect(cli.json("first", "environment.json")).toMatchObject({ engine: expect.stringMatching(/^wasm/) });
    expect(readdirSync(cli.file("first", "timeline")).toSorted()).toEqual(["0.jsonl", "1.jsonl", "2.jsonl"]);
    const { traceEvents } = cli.json("first", "trace.json") as { traceEvents: { pid: number }[] };
    expect(new Set(traceEvents.map(({ pid }) => pid))).toEqual(new Set([0, 1, 2]));
    const events = cli.lines("first", "events.jsonl").map(({ kind, step }) => `${String(kind)} ${String(step)}`);
    expect(events.filter((event) => event.startsWith("eval"))).toEqual(["evaluated 4", "evaluated 8", "evaluated 12"]);
    expect(events.filter((event) => event.startsWith("check"))).toEqual(
      [5, 10, 12].map((step) => `checkpoint ${step}`),
    );
    for (const step of [5, 10, 12])
      expect(cli.json("first", "checkpoints", String(step), "manifest.json")["step"]).toBe(step);

    const again = await cli.train("--config", "first/config.json", "--out", "second");
    expect(again["weightsSha256"]).toBe(summary["weightsSha256"]);
    expect(again["lossCurveSha256"]).toBe(summary["lossCurveSha256"]);
    expect(cli.json("second", "config.json")).toEqual({ ...cli.json("first", "config.json") });
  },
  LIMIT_MS,
);

test(
  "each node is a process with an identity, at most two neighbours, and accounts that add up",
  async () => {
    await using cli = new CommandLine();
    for (const nodes of [2, 4]) {
      const model = ["--model", "mlp:784-24-16-12-10", "--batch", "32"] as const;
      const summary = await cli.train("-n", String(nodes), ...model, "--steps", "30", "--out", String(nodes));
      const { perNode } = summary;
      expect(new Set(perNode.map(({ peerId }) => peerId)).size).toBe(nodes);
      for (const node of perNode) {
        expect(node.peerId).toMatch(/^12D3/);
        expect(node["neighbours"]).toBe(Math.min(2, nodes - 1));
        expect(node["peakRssBytes"]).toBeGreaterThan(2 ** 25);
        const parts = ["computeMs", "communicationMs", "runQueueMs", "waitMs"].map((name) => node[name] as number);
        const wallMs = node["wallMs"] as number;
        expect(Math.abs(parts.reduce((sum, part) => sum + part, 0) - wallMs)).toBeLessThan(0.01 * wallMs);
        expect(Math.min(...parts)).toBeGreaterThanOrEqual(0);
        expect(Math.abs(wallMs - (summary["wallMs"] as number))).toBeLessThan(0.2 * wallMs);
      }
      const held = perNode.reduce((sum, { parameters }) => sum + (parameters as number), 0);
      expect(held).toBe(summary["parameters"]);
      expect(perNode.flatMap(({ layers }) => layers.flat())).toHaveLength(2 * nodes);
    }
  },
  LIMIT_MS,
);

test(
  "flags: quiet, name, timeline, a loss to stop at, a folder by default",
  async () => {
    await using cli = new CommandLine();
    const flags = ["train", "--system", "serial", ...SMALL, "--steps", "40", "--timeline", "none"] as const;
    const { code, stdout, stderr } = await cli.run(...flags, "--quiet", "--name", "mine", "--stop-at-loss", "2.2");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^system: +serial, 1 node, engine wasm/);
    const [out] = readdirSync(cli.file("results", "runs"));
    expect(out).toMatch(/^\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-mine$/);
    const folder = ["results", "runs", out as string] as const;
    const losses = cli.lines(...folder, "metrics.jsonl").map((line) => line["loss"] as number);
    expect(losses.length).toBeLessThan(40);
    expect(losses.at(-1)).toBeLessThanOrEqual(2.2);
    expect(losses.slice(0, -1).every((loss) => loss > 2.2)).toBe(true);
    expect(cli.json(...folder, "summary.json")).toMatchObject({ steps: losses.length, finalLoss: losses.at(-1) });
    expect(readdirSync(cli.file(...folder, "timeline"))).toEqual([]);
    expect(existsSync(cli.file(...folder, "trace.json"))).toBe(false);
    // The ring stops at the same step.
    const ring = await cli.train(...flags.slice(3), "-n", "2", "--stop-at-loss", "2.2", "--out", "ring");
    expect(ring["steps"]).toBe(losses.length);
    expect(ring["finalLoss"]).toBe(losses.at(-1));
  },
  LIMIT_MS,
);
