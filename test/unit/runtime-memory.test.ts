/** @file The memory guard, in processes that grow. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { watchMemory } from "../../src/runtime/process-memory.ts";

const MIB = 1024 * 1024;
const LIMIT_MS = 20_000;
const PROGRAM = fileURLToPath(new URL("../helpers/growing-process.ts", import.meta.url));

/** The lines that it printed: a word and a number of bytes. */
async function grow(limitBytes: number, stepBytes: number, endBytes: number): Promise<readonly [string, number][]> {
  const flags = [PROGRAM, ...[limitBytes, stepBytes, endBytes].map(String)];
  const child = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "inherit"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS);
  let text = "";
  child.stdout.on("data", (part: Buffer) => (text += String(part)));
  const code = await new Promise((done) => child.on("close", done));
  clearTimeout(timer);
  expect(code, "it ends by itself, though the guard still watches").toBe(0);
  const lines = text.trimEnd().split("\n");
  return lines.map((line): [string, number] => [line.split(" ")[0] ?? "", Number(line.split(" ")[1])]);
}

test("a process that grows beyond its limit is told once, before it has grown much further", async () => {
  const lines = await grow(64 * MIB, 4 * MIB, 256 * MIB);
  expect(lines.map(([word]) => word)).toEqual(["started", "exceeded", "taken"]);
  const [[, startedBytes], [, seenBytes]] = lines as [[string, number], [string, number]];
  expect(seenBytes).toBeGreaterThan(startedBytes + 64 * MIB);
  // Five turns an interval are 20 MiB; a busy machine may miss some.
  expect(seenBytes).toBeLessThan(startedBytes + 192 * MIB);
});

test("a process that stays below it is not", async () => {
  const lines = await grow(512 * MIB, 4 * MIB, 64 * MIB);
  expect(lines.map(([word]) => word)).toEqual(["started", "taken"]);
});

test("nothing is told after the watch has ended", async () => {
  let calls = 0;
  const end = watchMemory(1, () => (calls += 1));
  end();
  await new Promise((done) => watchMemory(1, done));
  expect(calls).toBe(0);
});
