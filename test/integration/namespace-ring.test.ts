/** @file The script that gives every node of a ring a network of its own, held to a rate by the kernel. Needs root on Linux. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CommandLine } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
const SCRIPT = join(import.meta.dirname, "..", "..", "bin", "namespace-ring");
const JOB = ["--model", "mlp:784-1024-16-10", "--batch", "256", "--steps", "4", "--orphans", "end", "--quiet"] as const;
/** What the first node sends in four steps, in float32: 1.7 s at the rate. */
const ACTIVATION_BYTES = 4 * 256 * 1024 * 4;
const RATE_BYTES_PER_MS = 2_500;

/** Whether this user may lay such a network: the smallest one is tried. */
function mayShape(): boolean {
  const name = `ringtmp${process.pid}-trial`;
  const tool = (...parameters: readonly [string, ...string[]]): boolean =>
    spawnSync(parameters[0], parameters.slice(1)).status === 0;
  if (process.getuid?.() !== 0 || !tool("ip", "netns", "add", name)) return false;
  const isMade =
    tool("ip", "-n", name, "link", "add", "bridge0", "type", "bridge") &&
    tool("ip", "-n", name, "link", "add", "cable0", "type", "veth") &&
    tool(
      "tc",
      "-n",
      name,
      "qdisc",
      "add",
      "dev",
      "cable0",
      "root",
      "tbf",
      "rate",
      "1mbit",
      "burst",
      "4kb",
      "latency",
      "20ms",
    );
  tool("ip", "netns", "del", name);
  return isMade;
}

test.skipIf(!mayShape())(
  "three nodes with interfaces of 20 Mbit/s: the same weights, no faster than the rate, and nothing is left",
  async () => {
    await using cli = new CommandLine();
    const ring = cli.spawn([SCRIPT, "-n", "3", "--rate", "20mbit", "--", ...JOB, "--out", "ring"]);
    const { code, stderr } = await ring.ended;
    expect(code, stderr).toBe(0);
    const serial = await cli.train("--system", "serial", ...JOB, "--out", "serial");
    const summary = cli.json("ring", "summary.json");
    expect(summary["weightsSha256"]).toBe(serial["weightsSha256"]);
    for (const out of ["ring-node-1", "ring-node-2"]) expect(cli.json(out, "summary.json")).toEqual(summary);
    expect(summary["wallMs"]).toBeGreaterThan((0.9 * ACTIVATION_BYTES) / RATE_BYTES_PER_MS);
    expect(spawnSync("ip", ["netns", "list"]).stdout.toString()).not.toContain(`ringtmp${ring.pid}-`);
  },
  LIMIT_MS,
);

test("what cannot be run is refused before anything is made", async () => {
  await using cli = new CommandLine();
  const cases = [
    [[], /a number of nodes from 2 to 64/],
    [["-n", "1", "--", "--out", "x"], /a number of nodes from 2 to 64/],
    [["-n", "3"], /no folder for the results/],
    [["-n", "3", "--rate", "fast", "--", "--out", "x"], /--rate 'fast' is not a rate/],
    [["-n", "3", "--rat", "1mbit", "--", "--out", "x"], /unknown option '--rat'/],
    [["-n"], /option '-n' argument missing/],
  ] as const;
  for (const [flags, cause] of cases) {
    const { code, stderr } = await cli.spawn([SCRIPT, ...flags]).ended;
    expect(stderr).toMatch(cause);
    expect(stderr).toMatch(/^error: [^\n]+\n {2}fix: [^\n]+\n$/);
    expect(code).toBe(2);
  }
});
