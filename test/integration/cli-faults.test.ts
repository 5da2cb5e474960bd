/** @file Faults by command on a ring of processes: each does what it says to the node that it names, and the ring goes on. */
import { cpSync } from "node:fs";
import { basename } from "node:path";
import { expect, test } from "vitest";
import { CommandLine, until, type Running } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;

/** A layer for each of four nodes. */
const JOB = ["--model", "mlp:784-24-16-16-10", "--batch", "32", "--micro-batches", "4"] as const;

interface StatusOfNode {
  readonly node: number;
  readonly pid: number | null;
  readonly state: string;
  readonly addresses: readonly string[];
  readonly layers: readonly number[][];
}

interface Status {
  readonly view: number;
  readonly step: number;
  readonly waitsFor: string | null;
  readonly nodes: readonly StatusOfNode[];
}

class Ring {
  readonly cli: CommandLine;
  readonly launcher: Running;

  constructor(cli: CommandLine, ...flags: readonly string[]) {
    this.cli = cli;
    this.launcher = cli.start("up", ...JOB, "--steps", "1000000", "--orphans", "end", "--out", "run", ...flags);
  }

  async do(...command: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.cli.run(...command, "--job", "run");
    if (code !== 0) throw new Error(`${command.join(" ")}: exit code ${code}\n${stderr}`);
    return stdout;
  }

  async status(): Promise<Status> {
    return JSON.parse(await this.do("status", "--json")) as Status;
  }

  async stateOf(node: number): Promise<string | undefined> {
    return (await this.status()).nodes.find((each) => each.node === node)?.state;
  }

  /** Until the launcher has said it. */
  async says(text: RegExp): Promise<void> {
    const isThere = (): boolean => text.test(this.launcher.stderr) || this.launcher.process.exitCode !== null;
    // Where it does not come, what it said instead tells why.
    await until(isThere, String(text)).catch(() => {});
    expect(this.launcher.stderr).toMatch(text);
  }

  /** What a process is told that asks for a place with this state folder. */
  async joinedBy(state: string): Promise<string> {
    const [first] = (await this.status()).nodes;
    const flags = ["--state", this.cli.file("run", state), "--out", "refused", "--force"];
    const { code, stderr } = await this.cli.run("join", first!.addresses[0]!, ...flags);
    expect(code).not.toBe(0);
    return stderr;
  }

  async goesOn(): Promise<void> {
    const steps = this.cli.lines("run", "metrics.jsonl").length;
    await this.cli.reached(this.launcher, "run", steps + 5);
  }

  async end(): Promise<void> {
    await this.cli.run("stop", "run");
    expect((await this.launcher.ended).code, this.launcher.stderr).toBe(0);
    const steps = this.cli.lines("run", "metrics.jsonl").map((line) => line["step"]);
    expect(steps).toEqual([...steps.keys()]);
    expect(steps).toHaveLength(this.cli.json("run", "summary.json")["steps"] as number);
  }
}

test(
  "pause and resume: the ring goes on without the node, and takes it back",
  async () => {
    await using cli = new CommandLine();
    const ring = new Ring(cli, "-n", "3");
    await cli.reached(ring.launcher, "run", 5);
    const { pid } = (await ring.status()).nodes[1]!;
    expect(await ring.do("pause", "1")).toBe(`node 1 (process ${pid}) is paused\n`);
    expect(await ring.stateOf(1)).toBe("paused");
    await ring.says(/node 1 is gone, the ring goes on without it \(view \d+, \d/);
    await ring.goesOn();
    const status = await ring.status();
    expect(status.nodes[1]).toMatchObject({ node: 1, pid, state: "paused", layers: [] });
    expect(ring.launcher.stderr, "who is frozen is not started again").not.toContain("node 1 died");
    expect(await ring.do("resume", "1")).toBe(`node 1 (process ${pid}) is resumed\n`);
    await ring.says(/node 1 is back/);
    expect((await ring.status()).nodes[1]!.pid).toBe(pid);
    expect(await ring.joinedBy("state/1"), "its own folder").toContain(`state/1 is in use by process ${pid}\n`);
    const copy = { recursive: true, filter: (file: string) => !basename(file).startsWith("lock-") };
    cpSync(cli.file("run", "state", "1"), cli.file("run", "copy"), copy);
    expect(await ring.joinedBy("copy"), "a copy of it").toContain(
      "this identity is node 1, which is here: each node needs a state folder of its own",
    );
    expect((await ring.status()).nodes[1]!.pid).toBe(pid);
    await ring.end();
  },
  LIMIT_MS,
);

test(
  "kill and leave: who is killed comes back with --respawn, who left does not; the founder may go",
  async () => {
    await using cli = new CommandLine();
    const ring = new Ring(cli, "-n", "4", "--respawn");
    await cli.reached(ring.launcher, "run", 5);
    const { pid } = (await ring.status()).nodes[0]!;
    expect(await ring.do("kill", "0")).toBe(`node 0 (process ${pid}) is killed\n`);
    await ring.says(/node 0 died \(SIGKILL\)\n(?:.*\n)*node 0 is gone, the ring goes on without it \(view \d+, \d/);
    await ring.says(/node 0 is back/);
    expect((await ring.status()).nodes[0]!.pid).not.toBe(pid);
    const leaver = (await ring.status()).nodes[3]!.pid!;
    expect(await ring.do("leave", "3")).toBe("node 3 leaves the ring at the end of a step\n");
    await ring.says(/node 3 has left \(view \d+\)/);
    await until(() => !cli.processes.includes(leaver), "the end of node 3");
    await ring.goesOn();
    expect(await ring.stateOf(3)).toBe("left");
    const refused = await cli.run("kill", "3");
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toBe("error: node 3 has left the ring\n  fix: ringtmp status lists the nodes that run\n");
    for (const node of ["4", "x", "-1", ""]) {
      const { code, stderr } = await cli.run("pause", "--", node);
      expect({ code, stderr: stderr.split("\n")[0] }).toMatchObject({
        code: 2,
        stderr: expect.stringMatching(/^error: job [0-9a-f]{16} has no node "/),
      });
      expect(stderr).toContain("  fix: its nodes are 0, 1, 2, 3\n");
    }
    await ring.end();
    expect(ring.launcher.stderr.match(/starting|died/g), "nobody else was started").toHaveLength(1);
  },
  LIMIT_MS,
);

test(
  "cut and mend: one end of the line goes, the ring goes on without it, and takes it back when the line is mended",
  async () => {
    await using cli = new CommandLine();
    const ring = new Ring(cli, "-n", "3");
    await cli.reached(ring.launcher, "run", 5);
    expect(await ring.do("cut", "0", "1")).toBe("the link between node 0 and node 1 is cut\n");
    const why = await ring.do("why");
    expect(why).toMatch(/^node 0: step \d+, /);
    await ring.says(/node [01] is gone, the ring goes on without it \(view \d+, \d/);
    await ring.says(/paused: no line to node [01]/);
    await ring.goesOn();
    expect((await ring.status()).waitsFor, "the ring itself trains").toBeNull();
    expect(await ring.do("mend", "0", "1")).toBe("the link between node 0 and node 1 is mended\n");
    await ring.says(/node [01] is back/);
    await ring.goesOn();
    const self = await cli.run("cut", "1", "1");
    expect(self.stderr).toBe("error: node 1 has no link to itself\n  fix: name two nodes of 0, 1, 2\n");
    await ring.do("pause", "2");
    const frozen = await cli.run("leave", "2");
    expect(frozen.code).toBe(2);
    expect(frozen.stderr).toMatch(
      /^error: node 2: its process \d+ does not answer: it is paused, or very busy\n {2}fix: /,
    );
    await ring.do("resume", "2");
    await ring.end();
  },
  LIMIT_MS,
);

test(
  "without a majority the ring pauses and says so; all gone is exit 5 with the command to go on",
  async () => {
    await using cli = new CommandLine();
    const ring = new Ring(cli, "-n", "3", "--checkpoint-every", "5");
    await cli.reached(ring.launcher, "run", 12);
    await ring.do("pause", "1");
    await ring.do("pause", "2");
    await ring.says(/paused: no quorum \(1 of 3\)/);
    expect((await ring.status()).waitsFor).toBe("no quorum (1 of 3)");
    expect(await ring.do("status")).toMatch(/\npaused: no quorum \(1 of 3\)\nnode /);
    expect(await ring.do("why")).toMatch(/\nthe next view waits for no quorum \(1 of 3\)\n$/);
    const { nodes } = await ring.status();
    for (const { node } of nodes) await ring.do("kill", String(node));
    const { code, stderr } = await ring.launcher.ended;
    expect(stderr).toMatch(
      /error: every node on this machine is gone before the run was done\n {2}fix: go on from step \d+: ringtmp up --resume run\n$/,
    );
    expect(code).toBe(5);
    const steps = cli.lines("run", "metrics.jsonl").length + 5;
    const resumed = await cli.run("up", "--resume", "run", "--steps", String(steps), "--orphans", "end", "--quiet");
    expect(resumed, resumed.stderr).toMatchObject({ code: 0 });
    const { lossCurveSha256, weightsSha256 } = cli.json("run", "summary.json");
    const serial = await cli.train("--system", "serial", ...JOB, "--steps", String(steps), "--out", "undisturbed");
    expect(serial).toMatchObject({ lossCurveSha256, weightsSha256 });
  },
  LIMIT_MS,
);

test(
  "without replicas kill and leave warn of what they do",
  async () => {
    await using cli = new CommandLine();
    const ring = new Ring(cli, "-n", "2", "--replicas", "0");
    await cli.reached(ring.launcher, "run", 5);
    const left = await cli.run("leave", "1");
    expect(left.code).toBe(0);
    expect(left.stderr).toMatch(/^warning: the job has no replicas: the run ends in order .*--resume \S+run\)\n$/);
    expect((await ring.launcher.ended).code).toBe(0);
    const two = new Ring(cli, "-n", "2", "--force");
    await two.says(/warning: two nodes cannot tell a dead peer .*\n {2}add a third node.* \/ip4\/127/);
    await two.end();
  },
  LIMIT_MS,
);
