/** @file `plot`: figures of a run that was trained, and what it says where there is nothing to draw. */
import { readFileSync, rmSync } from "node:fs";
import { expect, test } from "vitest";
import { CommandLine, SMALL } from "../helpers/cli.ts";
import { MADE_SUMMARY, madeTimelines, writeMadeRun } from "../helpers/made-run.ts";

const LIMIT_MS = 120_000;
const PNG_MAGIC = "89504e470d0a1a0a";

test(
  "plot draws a run that was trained: files named on standard output, and on a terminal",
  async () => {
    await using cli = new CommandLine();
    await cli.train(...SMALL, "-n", "2", "--steps", "8", "--out", "run");
    const figures = ["timeline.svg", "timeline.png", "idle.svg", "idle.png"];
    const { code, stdout, stderr } = await cli.run("plot", "run");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toBe(figures.map((name) => `${cli.file("run", "figures", name)}\n`).join(""));
    expect(readFileSync(cli.file("run", "figures", "timeline.png")).toString("hex", 0, 8)).toBe(PNG_MAGIC);
    const svg = readFileSync(cli.file("run", "figures", "timeline.svg"), "utf8");
    expect(svg).toMatch(/zero-bubble, 2 nodes, 4 micro-batches: \d+\.\d % idle/);
    expect(svg).toContain("ms since the start of step 4");
    const drawn = await cli.run("plot", "run", "--format", "terminal");
    expect(drawn.stdout).toMatch(/^node 0 \|[FBWUfbwu.]{63}\| +\d+\.\d %$/m);
    expect(drawn.stdout.split("\n").filter((line) => line.startsWith("node "))).toHaveLength(2);
  },
  LIMIT_MS,
);

test(
  "plot compares runs, and says what it cannot draw",
  async () => {
    await using cli = new CommandLine();
    writeMadeRun(cli.file("one"), MADE_SUMMARY, madeTimelines(3));
    writeMadeRun(cli.file("two"), { ...MADE_SUMMARY, schedule: "1f1b" }, madeTimelines(3));
    const both = await cli.run("plot", "one", "two", "--format", "svg");
    expect(both.stdout.split("\n").slice(0, -1)).toEqual([
      ...[cli.file("one", "figures", "timeline.svg"), cli.file("two", "figures", "timeline.svg")],
      cli.file("one", "figures", "idle.svg"),
    ]);
    const elsewhere = await cli.run("plot", "one", "two", "--format", "svg", "--out", "here");
    expect(elsewhere.stdout).toBe("here/timeline-1.svg\nhere/timeline-2.svg\nhere/idle.svg\n");
    expect(readFileSync(cli.file("here", "idle.svg"), "utf8")).toContain("Least idle: gpipe");

    rmSync(cli.file("two", "timeline"), { recursive: true });
    const untimed = await cli.run("plot", "two", "--out", "there", "--format", "terminal,svg");
    expect(untimed).toMatchObject({ code: 0, stderr: expect.stringContaining("kept no timeline (--timeline none)") });
    expect(untimed.stdout.split("\n").slice(2)).toEqual(["node 0  30.0 %", "node 1  36.7 %", "there/idle.svg", ""]);

    for (const [parameters, code, message] of [
      [["none"], 3, "is not a run's folder\n  fix: name the folder that a run wrote (its --out)\n"],
      [["idle"], 2, "error: plot idle: figures of experiments are not in this version\n"],
      [["one", "--format", "svg,html"], 2, "error: --format html: not in this version\n"],
      [["one", "--format", "gif"], 2, "error: --format gif: there is no such format\n"],
      [["one", "--out", "one/summary.json"], 2, "error: one/summary.json/timeline.svg cannot be written\n"],
      [[], 2, "error: missing required argument 'run'\n"],
    ] as const) {
      const refused = await cli.run("plot", ...parameters);
      expect(refused).toMatchObject({ code, stdout: "", stderr: expect.stringContaining(message) });
    }
  },
  LIMIT_MS,
);
