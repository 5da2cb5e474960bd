/** @file The log of a process: JSON lines, at most two files of bounded size, the newest lines kept, and no fault of the disk met by who logs. */
import * as node from "node:fs";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { openLog, type LogDisk } from "../../src/runtime/process-log.ts";
import { diskFault } from "../helpers/faulty-disk.ts";

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

describe("a disk that takes nothing", () => {
  const { openSync, closeSync, renameSync, writeSync } = node;
  /** The real one, where `fault` does not say otherwise. */
  const faulty = (fault: Partial<LogDisk>): LogDisk => ({
    openSync: (...given) => (fault.openSync ?? openSync)(...given),
    closeSync: (...given) => (fault.closeSync ?? closeSync)(...given),
    renameSync: (...given) => (fault.renameSync ?? renameSync)(...given),
    writeSync: (...given) => (fault.writeSync ?? writeSync)(...given),
  });
  const full = (): never => {
    throw diskFault("ENOSPC");
  };

  test.skipIf(!existsSync("/dev/full"))("is the log's own affair", () => {
    mkdirSync(join(root, "logs"), { recursive: true });
    symlinkSync("/dev/full", file);
    const log = openLog(file);
    for (let index = 0; index < 3; index += 1) log.info({ index });
  });

  test("loses the lines of that time, and no other", () => {
    const fault: { -readonly [name in keyof LogDisk]?: LogDisk[name] } = {};
    const log = openLog(file, faulty(fault));
    log.info({ index: 0 });
    fault.writeSync = full;
    log.info({ index: 1 });
    delete fault.writeSync;
    log.info({ index: 2 });
    expect(messages(file)).toEqual([0, 2]);
  });

  test("spoils no line behind the one of which it took a part", () => {
    const fault: { -readonly [name in keyof LogDisk]?: LogDisk[name] } = {};
    const log = openLog(file, faulty(fault));
    log.info({ index: 0 });
    fault.writeSync = (to, bytes) => writeSync(to, bytes.subarray(0, 20));
    log.info({ index: 1 });
    delete fault.writeSync;
    for (const index of [2, 3]) log.info({ index });
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    expect(lines).toHaveLength(4);
    expect(
      lines.filter((_, place) => place !== 1).map((line) => (JSON.parse(line) as { index: number }).index),
    ).toEqual([0, 2, 3]);
  });

  test.each(["renameSync", "openSync", "closeSync"] as const)("at the bound (%s) costs no later line", (operation) => {
    const fault: { -readonly [name in keyof LogDisk]?: LogDisk[name] } = {};
    mkdirSync(join(root, "logs"), { recursive: true });
    writeFileSync(file, "x".repeat(4 * MIB + 1));
    const log = openLog(file, faulty(fault));
    fault[operation] = full;
    for (const index of [0, 1]) log.info({ index });
    delete fault[operation];
    for (const index of [2, 3]) log.info({ index });
    expect(messages(file).slice(-2)).toEqual([2, 3]);
    expect(statSync(`${file}.1`).size).toBe(4 * MIB + 1);
  });
});
