/**
 * @file Runs the program in real processes, each test in a folder and a runtime folder of its own. Every wait is bounded. At
 * the end no process that a test started may be left: they are known by the runtime folder in their environment (where
 * /proc is there to tell), nodes without a parent included.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ask, isAlive, type NodeEntry } from "../../src/runtime/process-control.ts";

const MAIN = join(import.meta.dirname, "..", "..", "src", "cli", "main.ts");
const TYPED = join(import.meta.dirname, "typed-commands.ts");
const CACHE = join(import.meta.dirname, "..", "..", "node_modules", ".cache", "compile");
/** A command that takes longer has hung. */
const COMMAND_LIMIT_MS = 110_000;
/** A node that was told to end may still be writing. */
const END_LIMIT_MS = 5_000;
const LOOK_INTERVAL_MS = 10;

/** A small model of three layers, and a job that takes about a second. */
export const SMALL = ["--model", "mlp:784-24-16-10", "--batch", "32", "--micro-batches", "4"] as const;

export interface Ended {
  /** Null where a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export type Summary = Readonly<Record<string, unknown>> & {
  readonly perNode: readonly Readonly<Record<string, number> & { peerId: string; layers: readonly number[][] }>[];
};

/** A command that runs. */
export class Running {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = "";
  stderr = "";

  constructor(process: ChildProcess) {
    this.process = process;
    process.stdout?.on("data", (part: Buffer) => (this.stdout += String(part)));
    process.stderr?.on("data", (part: Buffer) => (this.stderr += String(part)));
    const timer = setTimeout(() => process.kill("SIGKILL"), COMMAND_LIMIT_MS);
    this.ended = new Promise((done) => {
      process.on("close", (code) => {
        clearTimeout(timer);
        done({ code, stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }
}

export class CommandLine implements AsyncDisposable {
  /** Where the test's files go; removed at the end. */
  readonly folder = realpathSync(mkdtempSync(join(tmpdir(), "ringtmp-test-")));
  readonly #runtimeFolder = join(this.folder, ".runtime");

  constructor() {
    mkdirSync(this.#runtimeFolder, { mode: 0o700 });
  }

  file(...names: readonly string[]): string {
    return join(this.folder, ...names);
  }

  get environment(): NodeJS.ProcessEnv {
    return { ...process.env, XDG_RUNTIME_DIR: this.#runtimeFolder, NODE_COMPILE_CACHE: CACHE };
  }

  /** The program and its arguments, for tests that start it in another way. */
  static command(parameters: readonly string[]): readonly [string, ...string[]] {
    return [process.execPath, MAIN, ...parameters];
  }

  /** Starts any program, in the test's folder. */
  spawn([program, ...parameters]: readonly [string, ...string[]]): Running {
    const options = { cwd: this.folder, env: this.environment, stdio: ["ignore", "pipe", "pipe"] as const };
    return new Running(spawn(program, parameters, { ...options, stdio: [...options.stdio] }));
  }

  start(...parameters: readonly string[]): Running {
    return this.spawn(CommandLine.command(parameters));
  }

  async run(...parameters: readonly string[]): Promise<Ended> {
    return this.start(...parameters).ended;
  }

  /** Each of these lines alone, in one process: see `typed-commands.ts`. */
  async runEach(lines: readonly (readonly string[])[]): Promise<readonly Ended[]> {
    const { code, stdout, stderr } = await this.spawn([process.execPath, TYPED, JSON.stringify(lines)]).ended;
    if (code !== 0) throw new Error(`exit code ${code}\n${stderr}`);
    return JSON.parse(stdout) as readonly Ended[];
  }

  /** Trains quietly to the end, whose summary is returned. Throws where the exit code is not 0. */
  async train(...parameters: readonly string[]): Promise<Summary> {
    const { code, stdout, stderr } = await this.run("train", "--json", "--quiet", "--orphans", "end", ...parameters);
    if (code !== 0) throw new Error(`train ${parameters.join(" ")}: exit code ${code}\n${stderr}`);
    return JSON.parse(stdout) as Summary;
  }

  /** Lines of a JSON Lines file, without a torn last one; none where it is not there. */
  lines(...names: readonly string[]): readonly Record<string, unknown>[] {
    const file = this.file(...names);
    const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  json(...names: readonly string[]): Record<string, unknown> {
    return JSON.parse(readFileSync(this.file(...names), "utf8")) as Record<string, unknown>;
  }

  /** Local nodes that answer, as `status` finds them. */
  get nodes(): readonly NodeEntry[] {
    const folder = join(this.#runtimeFolder, `ringtmp-${process.getuid?.() ?? "user"}`);
    const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    return names.flatMap((name) => {
      try {
        return [JSON.parse(readFileSync(join(folder, name), "utf8")) as NodeEntry];
      } catch {
        // It ended between our look and our read.
        return [];
      }
    });
  }

  /** Until the run in `out` has committed `step`, so that it is under way. Throws where its command ends before. */
  async reached(running: Running, out: string, step: number): Promise<void> {
    const isThere = (): boolean => {
      if (this.lines(out, "metrics.jsonl").length > step) return true;
      if (running.process.exitCode === null) return false;
      throw new Error(`it ended with ${running.process.exitCode} before step ${step}:\n${running.stderr}`);
    };
    await until(isThere, `step ${step} of ${out}`);
  }

  async formed(count: number): Promise<readonly NodeEntry[]> {
    await until(() => this.nodes.length === count, `${count} nodes`);
    await Promise.all(this.nodes.map((entry) => ask(entry, "status")));
    return this.nodes.toSorted((a, b) => a.node - b.node);
  }

  /** Processes of this test that live, this one not counted. */
  get processes(): readonly number[] {
    const mark = `XDG_RUNTIME_DIR=${this.#runtimeFolder}`;
    const pids = existsSync("/proc/self/environ") ? readdirSync("/proc").filter((name) => /^\d+$/.test(name)) : [];
    return pids.map(Number).filter((pid) => environmentOf(pid).includes(mark) && isAlive(pid));
  }

  async gone(limitMs = END_LIMIT_MS): Promise<void> {
    await until(() => this.processes.length === 0, "the end of all processes", limitMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.gone();
    } finally {
      for (const pid of this.processes) end(pid);
      rmSync(this.folder, { recursive: true, force: true });
    }
  }
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1");
  } catch {
    return "";
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended by itself just now.
  }
}

/** Looks again and again until the condition holds; throws after the limit. */
export async function until(condition: () => boolean, what: string, limitMs = 30_000): Promise<void> {
  const looks = Math.ceil(limitMs / LOOK_INTERVAL_MS);
  const startedMs = performance.now();
  for (let look = 0; look < looks && performance.now() - startedMs < limitMs; look += 1) {
    if (condition()) return;
    await delay(LOOK_INTERVAL_MS);
  }
  if (!condition()) throw new Error(`${what} did not come within ${limitMs} ms`);
}
