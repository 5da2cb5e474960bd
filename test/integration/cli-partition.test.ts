/**
 * @file Cables between real processes are cut and mended: a namespace a node, the bridge between them changed under the running ring.
 * Only a majority goes on, who was away comes back by itself, and the bits are those of one process. Needs root on Linux.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { ask } from "../../src/runtime/process-control.ts";
import type { NodeStatus } from "../../src/cli/job-answers.ts";
import { CommandLine, until, type Running, type Summary } from "../helpers/cli.ts";

const LIMIT_MS = 200_000;
const SCRIPT = join(import.meta.dirname, "..", "..", "bin", "namespace-ring");
const STEPS = 90;
const JOB = [
  ...["--model", "mlp:784-32-32-32-32-32-10", "--batch", "32", "--micro-batches", "4", "--steps", String(STEPS)],
  ...["--timeline", "none", "--quiet"],
] as const;
/** About 200 ms a step, most of it idle: what happens to the cables takes a few seconds, and the machine may be busy. */
const SLOWLY = ["--pace", "0.02GFLOP/s", "--orphans", "end"] as const;
/** Steps that one side must make to show that it goes on. */
const PROGRESS_STEPS = 3;

function tool(...words: readonly string[]): { readonly isDone: boolean; readonly lines: readonly string[] } {
  const { status, stdout } = spawnSync("ip", words);
  return { isDone: status === 0, lines: (stdout?.toString() ?? "").split("\n").filter((line) => line !== "") };
}

/** Whether this user may make namespaces with a bridge and cables. */
function mayLay(): boolean {
  const name = `ringtmp${process.pid}-cables`;
  if (process.getuid?.() !== 0 || !tool("netns", "add", name).isDone) return false;
  const isMade =
    tool("-n", name, "link", "add", "bridge0", "type", "bridge").isDone &&
    tool("-n", name, "link", "add", "cable0", "type", "veth").isDone;
  tool("netns", "del", name);
  return isMade;
}

/** A ring whose node i has the folder `folders[i]` and the port i of the bridge. Its number in the ring may be another. */
class CabledRing implements AsyncDisposable {
  readonly cli = new CommandLine();
  readonly folders: readonly string[];
  readonly running: Running;

  constructor(nodes: number, replicas: number) {
    this.folders = Array.from({ length: nodes }, (_, node) => (node === 0 ? "ring" : `ring-node-${node}`));
    const flags = ["--replicas", String(replicas), "--out", "ring"];
    this.running = this.cli.spawn([SCRIPT, "-n", String(nodes), "--", ...JOB, ...SLOWLY, ...flags]);
  }

  get #tag(): string {
    return `ringtmp${this.running.pid}-`;
  }

  #hub(...words: readonly string[]): void {
    expect(tool("-n", `${this.#tag}hub`, "link", ...words).isDone, `ip link ${words.join(" ")}`).toBe(true);
  }

  /** These nodes are alone with each other from now on. */
  part(nodes: readonly number[]): void {
    this.#hub("add", "bridge1", "type", "bridge");
    this.#hub("set", "bridge1", "up");
    this.plug(nodes, "bridge1");
  }

  plug(nodes: readonly number[], bridge: string): void {
    for (const node of nodes) this.#hub("set", `port${node}`, "master", bridge);
  }

  cable(node: number, state: "up" | "down"): void {
    this.#hub("set", `port${node}`, state);
  }

  /** Steps that the node has told. */
  stepsOf(node: number): number {
    return this.cli.lines(this.folders[node]!, "metrics.jsonl").length;
  }

  async reached(nodes: readonly number[], steps: number): Promise<void> {
    const areThere = (): boolean => {
      if (this.running.process.exitCode !== null) throw new Error(`it ended early:\n${this.running.stderr}`);
      return nodes.every((node) => this.stepsOf(node) >= steps);
    };
    await until(areThere, `step ${steps} at ${nodes.join(", ")}`, 60_000);
  }

  /** Until each of them says that it waits for this. */
  async waiting(nodes: readonly number[], reason: string): Promise<void> {
    const untilMs = performance.now() + 30_000;
    for (let said: unknown[] = []; ; await delay(50)) {
      said = await Promise.all(nodes.map(async (node) => (await this.#status(node))?.recovery?.waitsFor));
      if (said.every((text) => text === reason)) return;
      if (performance.now() > untilMs) throw new Error(`nodes ${nodes.join(", ")} wait for ${said.join(", ")}`);
    }
  }

  async #status(node: number): Promise<NodeStatus | undefined> {
    const entry = this.cli.nodes.find(({ out }) => out === this.cli.file(this.folders[node]!));
    return entry === undefined ? undefined : ((await ask(entry, "status")) as NodeStatus | undefined);
  }

  /** Views that a node was told of, as all must have them. */
  viewsOf(node: number) {
    const views = this.cli.lines(this.folders[node]!, "events.jsonl").filter(({ kind }) => kind === "view");
    return views.map(({ view, members, owners, cut, replicas, restoreStep }) => ({
      ...{ view: view as number, members: members as readonly number[], restoreStep: restoreStep as number },
      ...{ owners, cut, replicas },
    }));
  }

  /** To the end: every folder has the reference's bits and every step once, and no number stands for two views. */
  async expectWhole(): Promise<void> {
    const { code, stderr } = await this.running.ended;
    expect(code, stderr).toBe(0);
    const { weightsSha256, lossCurveSha256 } = expected;
    const decided = new Map<number, unknown>();
    for (const [node, folder] of this.folders.entries()) {
      const summary = this.cli.json(folder, "summary.json");
      expect(summary, folder).toMatchObject({ weightsSha256, lossCurveSha256, steps: STEPS, lostCommittedSteps: 0 });
      const steps = this.cli.lines(folder, "metrics.jsonl").map(({ step }) => step);
      expect(steps, folder).toEqual(Array.from({ length: STEPS }, (_, step) => step));
      const views = this.viewsOf(node);
      for (const view of views) {
        expect(decided.get(view.view) ?? view, `${folder}, view ${view.view}`).toEqual(view);
        decided.set(view.view, view);
      }
      expect(views.at(-1)?.members, `${folder} ends in a view of all`).toHaveLength(this.folders.length);
    }
  }

  get #namespaces(): readonly string[] {
    const names = tool("netns", "list").lines.map((line) => line.split(" ")[0]!);
    return names.filter((name) => name.startsWith(this.#tag));
  }

  /** Also where a test failed: neither a process nor a namespace is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    // Without its nodes the script ends, and takes down what it has laid.
    const pids = this.#namespaces.flatMap((name) => tool("netns", "pids", name).lines);
    if (pids.length > 0) spawnSync("kill", ["-KILL", ...pids]);
    await this.running.ended;
    await this.cli[Symbol.asyncDispose]();
    const left = this.#namespaces;
    for (const name of left) tool("netns", "del", name);
    expect(left, "namespaces").toEqual([]);
  }
}

/** The same job in one process. */
let expected: Summary;
const isAble = mayLay();
beforeAll(async () => {
  if (!isAble) return;
  await using cli = new CommandLine();
  expected = await cli.train("--system", "serial", ...JOB, "--out", "serial");
}, LIMIT_MS);

test.skipIf(!isAble)(
  "five nodes are parted 2 and 3: only the three go on, the two wait, and all agree when they are together again",
  async () => {
    await using ring = new CabledRing(5, 2);
    const [few, many] = [
      [0, 1],
      [2, 3, 4],
    ];
    await ring.reached([...few, ...many], PROGRESS_STEPS);
    // On a busy machine there may have been views before.
    const early = few.map((node) => ring.viewsOf(node).length);
    ring.part(few);
    await ring.waiting(few, "no quorum (2 of 5)");
    expect((await ring.cli.run("status")).stdout).toContain("\npaused: no quorum (2 of 5)\n");
    const before = few.map((node) => ring.stepsOf(node));
    await ring.reached(many, Math.max(...before, ...many.map((node) => ring.stepsOf(node))) + PROGRESS_STEPS);
    expect(few.map((node) => ring.stepsOf(node))).toEqual(before);
    expect(ring.cli.nodes, "nobody ends").toHaveLength(5);
    expect(ring.viewsOf(many[0]!).at(-1)?.members).toHaveLength(3);
    expect(few.map((node) => ring.viewsOf(node).length)).toEqual(early);
    ring.plug(few, "bridge0");
    await ring.expectWhole();
  },
  LIMIT_MS,
);

test.skipIf(!isAble)(
  "one cable is cut: the others go on without its node, which comes back by itself when it is mended",
  async () => {
    await using ring = new CabledRing(5, 2);
    await ring.reached([0, 1, 2, 3, 4], PROGRESS_STEPS);
    ring.cable(4, "down");
    await ring.waiting([4], "no quorum (1 of 5)");
    const before = ring.stepsOf(4);
    await ring.reached([0, 1, 2, 3], ring.stepsOf(0) + PROGRESS_STEPS);
    expect(ring.viewsOf(0).at(-1)?.members).toHaveLength(4);
    expect(ring.stepsOf(4)).toBe(before);
    ring.cable(4, "up");
    await ring.expectWhole();
  },
  LIMIT_MS,
);

test.skipIf(!isAble)(
  "two nodes lose each other: both wait, since neither knows which one is gone, and go on when the cable is mended",
  async () => {
    await using ring = new CabledRing(2, 1);
    await ring.reached([0, 1], PROGRESS_STEPS);
    const early = ring.viewsOf(0).length;
    ring.cable(1, "down");
    await ring.waiting([0, 1], "no quorum (1 of 2)");
    const before = Math.max(ring.stepsOf(0), ring.stepsOf(1));
    ring.cable(1, "up");
    await ring.expectWhole();
    const view = ring.viewsOf(0)[early];
    expect(view?.members).toHaveLength(2);
    // What was told is kept, and of what was not a step at most was under way.
    expect(view?.restoreStep).toBeGreaterThanOrEqual(before);
    expect(view?.restoreStep).toBeLessThanOrEqual(before + 1);
  },
  LIMIT_MS,
);
