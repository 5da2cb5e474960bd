/** @file Emulation settings: every form that is read, every class of bad value, and what a system without a network refuses. */
import { describe, expect, test } from "vitest";
import { parseLink, parseMemoryLimit, parsePace } from "../../src/config/emulation.ts";
import { fingerprintOf } from "../../src/config/fingerprint.ts";
import { parseSettings } from "../../src/config/settings.ts";
import { UsageError } from "../../src/types/errors.ts";

/** Cause and remedy, after checking that each is one line. */
function refusal(parse: () => unknown): { readonly cause: string; readonly remedy: string } {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    for (const text of [error.message, error.remedy]) expect(text).toMatch(/^[^\n]+$/);
    return { cause: error.message, remedy: error.remedy };
  }
  throw new Error("it was accepted");
}

/** Texts that are no quantity of anything. */
const NEVER = [
  "",
  " ",
  "x",
  "5",
  "-5ms",
  "+5ms",
  "0x5ms",
  "1e3ms",
  "5 ms",
  "NaN",
  ".5ms",
  "5.ms",
  "5parsec",
  "5ms5",
  ",",
];

describe("--pace", () => {
  test.each([
    ["2GFLOP/s", [2, 2, 2, 2]],
    ["2,2,1,2GFLOP/s", [2, 2, 1, 2]],
    ["2GFLOP/s,2GFLOP/s, 1GFLOP/s ,2GFLOP/s", [2, 2, 1, 2]],
    ["500MFLOP/s,0.25,1.5,2gflop/s", [0.5, 0.25, 1.5, 2]],
    ["500,250MFLOP/s,1,2TFLOP/s", [0.5, 0.25, 1000, 2000]],
  ])("%s", (text, expected) => {
    expect(parsePace(text, 4)).toEqual(expected);
  });

  test.each([
    ...NEVER,
    "2",
    "2,2,1,2",
    "2GFLOP/s,1",
    "0GFLOP/s",
    "2,0,1,1GFLOP/s",
    "2,,1,1GFLOP/s",
    "2GFLOPS",
    "2GB/s",
  ])("%j is refused", (text) => {
    const { cause, remedy } = refusal(() => parsePace(text, 4));
    expect(cause).toContain(`--pace ${JSON.stringify(text)}: speeds above 0 with MFLOP/s, GFLOP/s or TFLOP/s`);
    expect(remedy).toContain("--pace 2GFLOP/s");
  });

  test("one speed a node, or one for all", () => {
    expect(refusal(() => parsePace("2,1GFLOP/s", 4))).toEqual({
      cause: '--pace "2,1GFLOP/s" has 2 speeds for 4 nodes',
      remedy: "give one speed for all, or 4",
    });
    expect(refusal(() => parsePace("2,1GFLOP/s", 1)).cause).toContain("2 speeds for 1 node");
    expect(parsePace("3GFLOP/s", 1)).toEqual([3]);
  });
});

describe("--link", () => {
  test.each([
    ["100mbit,5ms", 12_500, 5],
    ["5ms,100mbit", 12_500, 5],
    ["100Mbit", 12_500, 0],
    ["5ms", null, 5],
    ["1gbit,200us", 125_000, 0.2],
    ["8kbit, 1s", 1, 1000],
    ["2.5mbit,0ms", 312.5, 0],
  ])("%s", (text, rateBytesPerMs, latencyMs) => {
    const shape = parseLink(text);
    expect(shape.rateBytesPerMs).toBe(rateBytesPerMs);
    expect(shape.latencyMs).toBeCloseTo(latencyMs, 12);
  });

  const bad = [
    "0mbit",
    "100mbit,",
    "100mbit,5ms,1ms",
    "1mbit,2mbit",
    "1ms,2ms",
    "11s",
    "100MB",
    "100mbps",
    "100mbit/5ms",
  ];
  test.each([...NEVER, ...bad])("%j is refused", (text) => {
    const { cause, remedy } = refusal(() => parseLink(text));
    expect(cause).toContain(`--link ${JSON.stringify(text)}`);
    expect(cause).toContain("a rate in kbit, mbit or gbit, a latency in us, ms or s (at most 10s)");
    expect(remedy).toContain("--link 100mbit,5ms");
  });

  test("the part that is wrong is named", () => {
    expect(refusal(() => parseLink("100mbit, 5m")).cause).toMatch(/^--link "100mbit, 5m": "5m": a rate/);
  });
});

describe("--memory-limit", () => {
  test.each([
    ["256MiB", 268_435_456],
    ["1GiB", 1_073_741_824],
    ["512MB", 512_000_000],
    ["0.5gib", 536_870_912],
    ["131072KiB", 134_217_728],
  ])("%s", (text, bytes) => {
    expect(parseMemoryLimit(text)).toBe(bytes);
  });

  test.each([...NEVER, "256", "256M", "256Mbit", "-1GiB", "1GiB,2GiB"])("%j is refused", (text) => {
    const { cause } = refusal(() => parseMemoryLimit(text));
    expect(cause).toBe(`--memory-limit ${JSON.stringify(text)}: an amount in MiB, GiB, MB or GB is needed`);
  });

  test("less than a node takes", () => {
    expect(refusal(() => parseMemoryLimit("1MiB")).cause).toBe('--memory-limit "1MiB": at least 64MiB is needed');
    expect(parseMemoryLimit("64MiB")).toBe(67_108_864);
  });
});

describe("in a run's settings", () => {
  const given = { pace: "2,2,1,2GFLOP/s", link: "100mbit,5ms", "memory-limit": "256MiB" };

  test("they stay as written, and nothing is emulated without them", () => {
    expect(parseSettings(given)).toMatchObject({ pace: given.pace, link: given.link, memoryLimit: "256MiB" });
    expect(parseSettings({})).toMatchObject({ pace: null, link: null, memoryLimit: null });
    expect(parseSettings({ ...parseSettings(given) })).toEqual(parseSettings(given));
  });

  test("the speeds are those of the nodes", () => {
    expect(refusal(() => parseSettings({ ...given, nodes: 3 })).cause).toContain("4 speeds for 3 nodes");
    expect(refusal(() => parseSettings({ link: "fast" })).cause).toContain('--link "fast"');
    expect(refusal(() => parseSettings({ memoryLimit: "1TiB" })).cause).toContain('--memory-limit "1TiB"');
    expect(refusal(() => parseSettings({ pace: 2 })).cause).toBe("--pace 2: a text is needed");
  });

  test("one process has a speed, no link and no limit", () => {
    const system = "serial";
    expect(parseSettings({ system, pace: "2GFLOP/s" }).pace).toBe("2GFLOP/s");
    expect(refusal(() => parseSettings({ system, pace: "2,1GFLOP/s" })).remedy).toBe("give one speed");
    for (const [flag, values] of [
      ["--link", { system, link: "5ms" }],
      ["--memory-limit", { system, memoryLimit: "1GiB" }],
    ] as const) {
      const { cause, remedy } = refusal(() => parseSettings(values));
      expect(cause).toContain(`${flag} `);
      expect(cause).toContain("with --system serial, which");
      expect(remedy).toBe(`leave ${flag} out, or use --system ring`);
    }
  });

  test("they change no bit of the result", () => {
    expect(fingerprintOf(parseSettings(given), "d", "e")).toEqual(fingerprintOf(parseSettings({}), "d", "e"));
  });
});
