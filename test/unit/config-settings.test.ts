/** @file Settings: defaults, every class of bad value, rules between values, and what makes two jobs the same. */
import { describe, expect, test } from "vitest";
import { BUILD, fingerprintDigest, fingerprintOf, firstDifference } from "../../src/config/fingerprint.ts";
import {
  flagName,
  LATER_SETTINGS,
  parseSettings,
  parseTimeline,
  SETTING_NAMES,
  settingName,
} from "../../src/config/settings.ts";
import { UsageError } from "../../src/types/errors.ts";

/** Cause and remedy, after checking that each is one line. */
function refusal(values: Readonly<Record<string, unknown>>): { readonly cause: string; readonly remedy: string } {
  try {
    parseSettings(values);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    expect(error.exitCode).toBe(2);
    for (const text of [error.message, error.remedy]) expect(text).toMatch(/^[^\n]+$/);
    return { cause: error.message, remedy: error.remedy };
  }
  throw new Error(`${JSON.stringify(values)} was accepted`);
}

test("of a ring of one nobody can keep a copy; of others one does, where nothing else is said", () => {
  expect([1, 2, 3, 64].map((nodes) => parseSettings({ nodes }).replicas)).toEqual([0, 1, 1, 1]);
  expect(parseSettings({ nodes: 3, replicas: 2 }).replicas).toBe(2);
  expect(() => parseSettings({ nodes: 3, replicas: 3 })).toThrow(
    "--replicas 3 of 3 nodes: each copy needs another node",
  );
});

test("defaults are those of the manual", () => {
  expect(parseSettings({})).toMatchObject({
    ...{ system: "ring", nodes: 4, model: "mlp:784-256-256-256-10", data: "digits", steps: 200, batch: 128 },
    ...{ microBatches: 8, optimizer: "adam", lr: 1e-3, seed: 1, engine: "auto", schedule: "zero-bubble", laps: 1 },
    ...{
      replicas: 1,
      respawn: false,
      balance: "auto",
      wire: "f32",
      timeline: "last:20",
      orphans: "finish",
      threads: 1,
    },
    ...{ checkpointEvery: 0, validateEvery: 0, stopAtLoss: null, dataDir: null, name: null },
    ...{ pace: null, link: null, memoryLimit: null },
  });
  expect(parseSettings({ system: "serial" }).nodes).toBe(1);
});

test("what was resolved resolves to itself, under either form of a name, from text or number", () => {
  const settings = parseSettings({ "micro-batches": "4", lr: "1e-2", "stop-at-loss": ".5", seed: "9007199254740991" });
  expect(settings).toMatchObject({ microBatches: 4, lr: 0.01, stopAtLoss: 0.5, seed: Number.MAX_SAFE_INTEGER });
  expect(parseSettings(JSON.parse(JSON.stringify(settings)) as Record<string, unknown>)).toEqual(settings);
  expect(parseSettings({ microBatches: 4, nodes: undefined }).nodes).toBe(4);
  for (const name of SETTING_NAMES) expect(settingName(flagName(name).slice(2))).toBe(name);
});

describe("an unknown name", () => {
  test.each([
    ["node", "nodes"],
    ["microbatches", "microBatches"],
    ["micro-batch", "microBatches"],
    ["learning", "timeline"],
    ["optimiser", "optimizer"],
    ["SEED", "seed"],
  ])("%s suggests %s", (name, nearest) => {
    const { cause, remedy } = refusal({ [name]: 1 });
    expect(cause).toBe(`unknown setting "${name}"`);
    if (name !== "learning") expect(remedy).toBe(`did you mean "${nearest}"?`);
  });

  test.each(["toString", "constructor", "hasOwnProperty"])("%s is no setting either", (name) => {
    expect(refusal({ [name]: 1 }).cause).toBe(`unknown setting "${name}"`);
  });

  test("nor is the one that JSON can give an object", () => {
    const values = JSON.parse('{"__proto__":{"nodes":7}}') as Record<string, unknown>;
    expect(refusal(values).cause).toBe('unknown setting "__proto__"');
  });

  test.each(LATER_SETTINGS)("%s is of a later version", (name) => {
    expect(refusal({ [name]: "1" }).cause).toBe(`setting "${name}": not in this version`);
  });
});

describe("a bad value is refused with its field, its value and the remedy", () => {
  const WHOLE = ["nodes", "steps", "batch", "microBatches"];
  const NEVER_NUMBERS = [
    "",
    " ",
    "x",
    "1x",
    "0x10",
    "1e",
    "1,5",
    "NaN",
    "Infinity",
    "1e400",
    "--1",
    "1 2",
    true,
    [],
    {},
    Number.NaN,
  ];

  test.each(WHOLE)("%s: zero, negative, huge, a fraction, no number", (name) => {
    for (const value of [0, "0", -1, "-1", 1e12, "1e12", 1.5, "1.5", null, ...NEVER_NUMBERS]) {
      const { cause, remedy } = refusal({ [name]: value });
      expect(cause).toMatch(new RegExp(`^${flagName(name)} .*: a whole number from 1 to [0-9]+ is needed$`));
      expect(cause).toContain(JSON.stringify(value));
      expect(remedy).toContain(flagName(name));
    }
  });

  test.each(["checkpointEvery", "validateEvery", "seed"])("%s may be zero, not less", (name) => {
    expect(parseSettings({ [name]: 0 })).toMatchObject({ [name]: 0 });
    for (const value of [-1, "-1", 0.5, 2 ** 53, ...NEVER_NUMBERS]) {
      expect(refusal({ [name]: value }).cause).toContain(
        `${flagName(name)} ${JSON.stringify(value)}: a whole number from 0`,
      );
    }
  });

  test.each(["lr", "stopAtLoss"])("%s is above zero and finite", (name) => {
    for (const value of [0, "0", "-0", -1, "-1e-3", 1e9, "1e9", Infinity, ...NEVER_NUMBERS]) {
      expect(refusal({ [name]: value }).cause).toMatch(new RegExp(`^${flagName(name)} .*: a number above 0, at most `));
    }
  });

  test.each([
    ["optimizer", "adm", "did you mean adam?"],
    ["system", "rings", "did you mean ring?"],
    ["schedule", "1f1", "did you mean 1f1b?"],
    ["engine", "wsm", "did you mean wasm?"],
    ["orphans", "ends", "did you mean end?"],
    ["optimizer", 5, "one of sgd, momentum, adam, adamw, adagrad is needed"],
    ["optimizer", null, "one of sgd, momentum, adam, adamw, adagrad is needed"],
    ["system", "fsdp", "not in this version (which has ring, ps, serial)"],
    ["schedule", "zerobubble", "did you mean zero-bubble?"],
    ["balance", "on", "one of auto, even, off is needed"],
    ["laps", 0, "a whole number from 1 to 64 is needed"],
    ["laps", "65", "a whole number from 1 to 64 is needed"],
    ["laps", 1.5, "a whole number from 1 to 64 is needed"],
    ["engine", "blas", "not in this version"],
    ["wire", "f16", "not in this version"],
    ["threads", 4, "not in this version (which has 1 only)"],
    ["model", "", "a text that is not empty is needed"],
    ["model", 5, "a text is needed"],
    ["timeline", "last", "is not known"],
    ["augment", "noise", "is not known"],
    ["augment", "noise:0", "is not known"],
    ["augment", "noise:-1", "is not known"],
    ["augment", "noise:1001", "is not known"],
  ])("%s %j: %s", (name, value, reason) => {
    const { cause } = refusal({ [name]: value });
    expect(cause).toContain(`${flagName(name)} ${JSON.stringify(value)}`);
    expect(cause).toContain(reason);
  });
});

describe("values that do not fit each other", () => {
  test.each([
    [100, 8, 104],
    [3, 8, 8],
    [7, 3, 6],
  ])("batch %i in %i micro-batches: use %i", (batch, microBatches, nearest) => {
    expect(refusal({ batch, microBatches })).toEqual({
      cause: `--batch ${batch} is not divisible by --micro-batches ${microBatches}`,
      remedy: `use for example --batch ${nearest}`,
    });
    expect(parseSettings({ batch: nearest, microBatches }).batch).toBe(nearest);
  });

  test("several nodes in one process", () => {
    expect(refusal({ system: "serial", nodes: 2 }).cause).toBe("-n 2 with --system serial, which is one process");
    expect(parseSettings({ system: "serial", nodes: 1 }).nodes).toBe(1);
  });
});

test("timelines", () => {
  expect([parseTimeline("all"), parseTimeline("none"), parseTimeline("last:3")]).toEqual([Infinity, 0, 3]);
  for (const value of ["last:", "last:-1", "last:1.5", "last:1234567890", "ALL", "some"]) {
    expect(() => parseTimeline(value)).toThrow(UsageError);
  }
});

describe("a fingerprint", () => {
  const settings = parseSettings({});
  const expected = fingerprintOf(settings, "d1", "wasm:11");

  test.each([
    ["model", { model: "mlp:784-10" }],
    ["seed", { seed: 2 }],
    ["batch", { batch: 64 }],
    ["microBatches", { microBatches: 4 }],
    ["optimizer", { optimizer: "sgd" }],
    ["lr", { lr: 0.1 }],
    ["augment", { augment: "noise:0.1" }],
  ])("differs in %s", (field, change) => {
    const other = fingerprintOf(parseSettings(change), "d1", "wasm:11");
    expect(firstDifference(expected, other)).toBe(field);
    expect(fingerprintDigest(other)).not.toBe(fingerprintDigest(expected));
  });

  test("differs with data, engine and build", () => {
    expect(firstDifference(expected, fingerprintOf(settings, "d2", "wasm:11"))).toBe("data");
    expect(firstDifference({ ...expected, augment: "noise:0.1" }, expected), "what only one has").toBe("augment");
    expect(firstDifference(expected, { ...expected, augment: "noise:0.1" })).toBe("augment");
    expect(Object.keys(expected), "as before there was any").not.toContain("augment");
    expect(firstDifference(expected, fingerprintOf(settings, "d1", "wasm:12"))).toBe("engine");
    expect(firstDifference(expected, { ...expected, build: `${BUILD}-next` })).toBe("build");
    expect(firstDifference(expected, { ...expected, build: "x", seed: 9 })).toBe("build");
  });

  test("does not differ with what changes no bit", () => {
    const other = parseSettings({
      nodes: 2,
      schedule: "interleaved",
      laps: 2,
      balance: "off",
      pace: "2GFLOP/s,1GFLOP/s",
      link: "1gbit,1ms",
      memoryLimit: "1GiB",
      steps: 7,
      timeline: "all",
      name: "x",
      checkpointEvery: 3,
    });
    expect(firstDifference(expected, fingerprintOf(other, "d1", "wasm:11"))).toBeUndefined();
    expect(fingerprintDigest(fingerprintOf(other, "d1", "wasm:11"))).toBe(fingerprintDigest(expected));
  });
});
