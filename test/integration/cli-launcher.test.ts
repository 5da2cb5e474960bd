/**
 * @file A launcher whose system starts no more processes: before the ring is whole the run ends and says why; afterwards the ring goes on, and
 * the node is tried again.
 */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Launcher } from "../../src/cli/launcher.ts";
import { Progress } from "../../src/cli/progress.ts";
import { newRequest } from "../../src/cli/train.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import { CommandLine, until } from "../helpers/cli.ts";
import { soon, tinySettings } from "../helpers/memory-ring.ts";

const NODE = process.execPath;
/** The one is refused by the system, later; the other at once. */
const REFUSED = [
  ["the system says so later", "/nowhere/node", /^node \d could not be started: spawn \/nowhere\/node ENOENT$/],
  ["it throws", "\0", /^node \d could not be started: .*null bytes/],
] as const;

class Heard extends Progress {
  readonly lines: string[] = [];

  constructor() {
    super(true);
  }

  override say(text: string): void {
    this.lines.push(text);
  }
}

let cli: CommandLine;
beforeEach(() => {
  cli = new CommandLine();
  vi.stubEnv("XDG_RUNTIME_DIR", cli.environment["XDG_RUNTIME_DIR"]);
});
afterEach(async () => {
  process.execPath = NODE;
  vi.unstubAllEnvs();
  await cli[Symbol.asyncDispose]();
});

function launcherOf(steps: number, onEvent: ConstructorParameters<typeof Launcher>[2]) {
  const progress = new Heard();
  const request = newRequest(tinySettings({ nodes: 3, steps, orphans: "end", respawn: true }), {
    out: cli.file("run"),
  });
  return { progress, launcher: new Launcher(request, progress, onEvent) };
}

async function refusalOf(launcher: Launcher): Promise<NodeLostError> {
  const end: unknown = await soon(launcher.run(), "the end").catch((error: unknown) => error);
  if (end instanceof NodeLostError) return end;
  throw new Error(`it ended with ${String(end)}`);
}

describe.each(REFUSED)("no process can be started (%s)", (_, program, expected) => {
  test("for the founder", async () => {
    process.execPath = program;
    const { message, remedy } = await refusalOf(launcherOf(5, () => {}).launcher);
    expect(message).toMatch(expected);
    expect(message).toContain("node 0");
    expect(remedy).toContain("ulimit");
  });

  test("for the others: the founder does not wait for them", async () => {
    const { launcher } = launcherOf(5, ({ kind }) => {
      if (kind === "listening") process.execPath = program;
    });
    const { message } = await refusalOf(launcher);
    expect(message).toMatch(expected);
    expect(message).toContain("node 1");
  });

  test("for one that is to come back: the ring goes on, and it comes when it can", { timeout: 60_000 }, async () => {
    const { launcher, progress } = launcherOf(1_000_000, ({ kind }, node) => {
      if (kind !== "committed" || node === 2 || process.execPath !== NODE || progress.lines.some(isRefusal)) return;
      process.execPath = program;
      process.kill(launcher.pids.get(2)!, "SIGKILL");
    });
    const isRefusal = (line: string): boolean => expected.test(line);
    const running = launcher.run();
    // Awaited below; until then its failure must not count as unhandled.
    running.catch(() => {});
    await until(() => progress.lines.some(isRefusal), "the refusal");
    process.execPath = NODE;
    await until(() => progress.lines.includes("node 2 is back"), "node 2");
    launcher.stop();
    const { summary } = await running;
    expect(summary["nodes"]).toBe(3);
    expect(progress.lines.filter(isRefusal)).toHaveLength(1);
  });
});
