/** @file `chaos` with real processes: faults are delivered and recovered, the bits are the undisturbed run's, and nothing is left behind. */
import { expect, test } from "vitest";
import { CommandLine, SMALL, until } from "../helpers/cli.ts";

const LIMIT_MS = 170_000;

interface Report {
  readonly isEqual: boolean;
  readonly differences: readonly string[];
  readonly lostCommittedSteps: number;
  readonly steps: number;
  readonly faults: readonly { kind: string; nodes: readonly number[]; faultToDetectedMs: number | null }[];
}

test(
  "a kill, a node that leaves and a line that is cut: the same bits, and every fault in the report",
  async () => {
    await using cli = new CommandLine();
    const flags = ["-n", "3", ...SMALL, "--kills", "3", "--every", "0.3", "--seed", "2"] as const;
    const faults = ["--faults", "kill,leave,cut:3"] as const;
    const { code, stdout, stderr } = await cli.run("chaos", ...flags, ...faults, "--out", "run", "--json");
    expect(code, stderr).toBe(0);
    const report = JSON.parse(stdout) as Report;
    expect(report).toEqual(cli.json("run", "chaos.json"));
    expect(report).toMatchObject({ isEqual: true, differences: [], lostCommittedSteps: 0 });
    expect(report.faults).toHaveLength(3);
    expect(report.faults.map(({ kind }) => kind)).toEqual(["leave", "kill", "cut:3"]);
    // On a busy machine the line may be mended before anybody is missed.
    const [left, killed, cut] = report.faults;
    for (const fault of [left, killed]) expect(fault!.faultToDetectedMs).toBeGreaterThan(0);
    expect(cut!.nodes).toHaveLength(2);
    expect(stderr).toMatch(
      /fault 1 \(leave of node \d\) of 3, at step \d+\n {2}whole again after \d.*steps\/s, about .* left\n/,
    );
    const serial = await cli.train("--system", "serial", ...SMALL, "--seed", "2", "--steps", String(report.steps));
    const { weightsSha256, lossCurveSha256, recoveries } = cli.json("run", "summary.json");
    expect({ weightsSha256, lossCurveSha256 }).toEqual({
      weightsSha256: serial["weightsSha256"],
      lossCurveSha256: serial["lossCurveSha256"],
    });
    const times = (recoveries as readonly Record<string, unknown>[]).map((each) => each["faultToDetectedMs"]);
    expect(times.filter((time) => typeof time === "number").length).toBeGreaterThanOrEqual(2);
  },
  LIMIT_MS,
);

test(
  "interrupted, it ends in order and leaves nothing behind, a frozen node neither",
  async () => {
    await using cli = new CommandLine();
    const flags = ["-n", "3", ...SMALL, "--kills", "3", "--every", "0", "--faults", "pause:60"] as const;
    const chaos = cli.start("chaos", ...flags, "--out", "run");
    const isFrozen = (): boolean => cli.nodes.length === 3 && cli.lines("run", "events.jsonl").some(isEviction);
    await until(isFrozen, "a frozen node", 60_000);
    chaos.process.kill("SIGINT");
    expect((await chaos.ended).code).toBe(130);
    await cli.gone();
    expect(cli.json("run", "summary.json")["steps"]).toBe(cli.lines("run", "metrics.jsonl").length);
  },
  LIMIT_MS,
);

const isEviction = ({ kind, removed }: Record<string, unknown>): boolean =>
  kind === "view" && (removed as readonly unknown[]).length > 0;
