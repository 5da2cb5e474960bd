/**
 * @file Copies of the project in which something can be broken: sources copied, packages linked, kernels compiled anew where
 * they are patched. Nothing outside a copy is changed.
 */
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");
const SET_UP_LIMIT_MS = 120_000;
const OUTPUT_BYTES_MAX = 64 * 1024;
/** Of the root: what tests do not need, or must not share. */
const NOT_COPIED = /^(?:node_modules|results|coverage|\.git|\.setup-lock)$|^bin\/node-runtime\/node_modules$/;

export interface Ended {
  /** Null where it was killed, at its limit or otherwise. */
  readonly code: number | null;
  readonly output: string;
}

/** Groups of processes that run: an interrupted gate ends them too. */
const running = new Set<number>();
process.on("exit", () => running.forEach(endGroup));
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));

function endGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

/** A copy of the sources as they are now, in the new folder `path`. */
export function copyTree(path: string): void {
  cpSync(ROOT, path, { recursive: true, filter: (source) => !NOT_COPIED.test(relative(ROOT, source)) });
  const packages = join(path, "node_modules");
  mkdirSync(packages);
  for (const name of readdirSync(join(ROOT, "node_modules"))) {
    const source = join(ROOT, "node_modules", name);
    // Stamps of set-up are the copy's own; caches are not shared.
    if (name === ".ringtmp") cpSync(source, join(packages, name), { recursive: true });
    else if (!name.startsWith(".")) symlinkSync(source, join(packages, name));
  }
}

/** Runs a program in `cwd`, and kills it with all that it started at the limit. Never throws. */
export function run(program: string, parameters: readonly string[], cwd: string, limitMs: number): Promise<Ended> {
  return new Promise((done) => {
    let output = "";
    // What a test that was cut off leaves behind goes with the copies.
    const env = { ...process.env, TMPDIR: dirname(cwd) };
    const child = spawn(program, parameters, { cwd, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
    const keep = (part: Buffer): void => {
      if (output.length < OUTPUT_BYTES_MAX) output += part.toString();
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const { pid } = child;
    if (pid !== undefined) running.add(pid);
    const timer = setTimeout(() => pid !== undefined && endGroup(pid), limitMs);
    const end = (code: number | null): void => {
      clearTimeout(timer);
      if (pid !== undefined) running.delete(pid);
      done({ code, output });
    };
    child.on("error", (error) => {
      output += error.message;
      end(null);
    });
    child.on("close", end);
  });
}

/** Applies a patch to a copy; returns what is wrong, or undefined. */
export async function applyPatch(path: string, patch: string, touchesKernels: boolean): Promise<string | undefined> {
  const applied = await run("git", ["apply", "--whitespace=nowarn", patch], path, SET_UP_LIMIT_MS);
  if (applied.code !== 0) return `the patch no longer applies: ${applied.output.trim()}`;
  if (!touchesKernels) return undefined;
  const compiled = await run(process.execPath, ["bin/setup.cjs"], path, SET_UP_LIMIT_MS);
  return compiled.code === 0 ? undefined : `the kernels do not compile: ${compiled.output.trim()}`;
}
