/** @file The log of a process: JSON lines, at most two files of bounded size, the newest lines kept. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { openLog } from "../../src/runtime/process-log.ts";

const MIB = 1024 * 1024;
const root = mkdtempSync(join(tmpdir(), "ringtmp-log-"));
const file = join(root, "logs", "node-0.log");
afterEach(() => rmSync(root, { recursive: true, force: true }));

const messages = (path: string): number[] =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { readonly index: number }).index);

test("grows to its bound, begins anew, and keeps one older file", () => {
  const log = openLog(file);
  const filler = "x".repeat(10_000);
  const count = 1_500;
  for (let index = 0; index < count; index += 1) log.info({ index, filler });
  expect(readdirSync(join(root, "logs")).toSorted()).toEqual(["node-0.log", "node-0.log.1"]);
  for (const path of [file, `${file}.1`]) expect(statSync(path).size).toBeLessThanOrEqual(4 * MIB + 11_000);
  const kept = [...messages(`${file}.1`), ...messages(file)];
  expect(kept.at(-1)).toBe(count - 1);
  expect(kept).toEqual(Array.from({ length: kept.length }, (_, place) => count - kept.length + place));
});

test("goes on in a file that is there, and counts what it holds", () => {
  const first = openLog(file);
  first.info({ index: 0 });
  openLog(file).info({ index: 1 });
  expect(messages(file)).toEqual([0, 1]);
  writeFileSync(file, "x".repeat(4 * MIB + 1));
  openLog(file).info({ index: 2 });
  expect(messages(file)).toEqual([2]);
  expect(statSync(`${file}.1`).size).toBe(4 * MIB + 1);
});
