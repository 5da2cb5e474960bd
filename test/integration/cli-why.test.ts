/** @file `why` on a ring of processes one of which is frozen: it answers in a bounded time, and names the node and its process. */
import { expect, test } from "vitest";
import { CommandLine, SMALL } from "../helpers/cli.ts";
import { soon } from "../helpers/memory-ring.ts";

const LIMIT_MS = 120_000;

interface Why {
  readonly job: string;
  readonly nodes: readonly { node: number; does: string; step: number | null; waits: readonly { from: number }[] }[];
  readonly cause: string | null;
}

test(
  "why names the frozen node, and who waits for it; once it goes on nothing is stuck for good",
  async () => {
    await using cli = new CommandLine();
    // With replicas the others would go on without it.
    const flags = [
      "-n",
      "3",
      "--replicas",
      "0",
      ...SMALL,
      "--steps",
      "1000000",
      "--orphans",
      "end",
      "--quiet",
      "--out",
      "run",
    ] as const;
    const launcher = cli.start("train", ...flags);
    await cli.reached(launcher, "run", 2);
    const frozen = (await cli.formed(3))[1]!;
    process.kill(frozen.pid, "SIGSTOP");
    try {
      const ask = async (): Promise<Why> => {
        const { code, stdout, stderr } = await soon(cli.run("why", "--json"), "the answer");
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
        return JSON.parse(stdout) as Why;
      };
      // What the others had left to do ends soon; after that they wait for the frozen one.
      let why = await ask();
      for (let look = 0; look < 20 && why.nodes.some(({ does }) => does.startsWith("computes")); look += 1) {
        why = await ask();
      }
      expect(why.job).toBe(frozen.job);
      expect(why.cause).toBe(`node 1 does not answer: its process ${frozen.pid} is stopped, or very busy`);
      expect(why.nodes.map(({ node, does }) => [node, does])).toEqual([
        [0, "waits"],
        [1, "does not answer"],
        [2, "waits"],
      ]);
      for (const node of [0, 2]) expect(why.nodes[node]!.waits.map(({ from }) => from)).toContain(1);

      const { stdout } = await soon(cli.run("why", "--job", "run"), "the answer for people");
      const lines = stdout.trimEnd().split("\n");
      expect(lines).toHaveLength(4);
      expect(lines[0]).toMatch(/^node 0: step \d+, waits for .* from node 1.*, for \d/);
      expect(lines[1]).toBe("node 1: does not answer");
      expect(lines[3]).toBe(why.cause);
    } finally {
      process.kill(frozen.pid, "SIGCONT");
    }
    expect((await cli.run("stop", "run")).code).toBe(0);
    expect((await launcher.ended).code).toBe(0);
  },
  LIMIT_MS,
);
