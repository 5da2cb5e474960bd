/** @file What a run ran on: `environment.json`. */
import { execFileSync, type StdioOptions } from "node:child_process";
import { existsSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";
import { BUILD } from "../config/fingerprint.ts";
import type { Settings } from "../config/settings.ts";

/** @param stated settings; those that emulate something are named */
export function describeEnvironment(
  engine: string,
  stated: Pick<Settings, "pace" | "link" | "memoryLimit">,
): Record<string, unknown> {
  const { pace, link, memoryLimit } = stated;
  const emulations = Object.entries({ pace, link, memoryLimit }).filter(([, value]) => value !== null);
  return {
    build: BUILD,
    node: process.versions.node,
    v8: process.versions.v8,
    engine,
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    os: `${type()} ${release()} ${process.arch}`,
    gitCommit: gitCommit(),
    emulations: emulations.map(([name, value]) => `${name} ${value}`),
    clockSource: "performance.timeOrigin + performance.now()",
    runQueueSource: existsSync("/proc/thread-self/schedstat") ? "schedstat" : null,
  };
}

/** Null outside a checkout. */
function gitCommit(): string | null {
  try {
    const stdio: StdioOptions = ["ignore", "pipe", "ignore"];
    return execFileSync("git", ["rev-parse", "HEAD"], { cwd: import.meta.dirname, encoding: "utf8", stdio }).trim();
  } catch {
    return null;
  }
}
