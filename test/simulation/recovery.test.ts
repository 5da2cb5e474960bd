/**
 * @file The recovery machines in simulated rings with crashes, cuts, pauses and failing disks: V1 to V12, L1 to L3 of ring/README.md after every
 * event. One range of seeds is pinned, one is fresh; what ever broke a rule is kept in test/scenario/recovery and replayed. A seed that breaks one
 * is shrunk, and printed as a file to keep there.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Agreement, ballotOf } from "../../ring/core/agreement.ts";
import { drawScenario, type RecoveryScenario } from "../helpers/recovery-simulation-scenario.ts";
import { shrink } from "../helpers/recovery-simulation-shrink.ts";
import { simulateRecovery, type RecoveryOutcome } from "../helpers/recovery-simulation.ts";

const PINNED_SEED = 0;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const SEEDS = 1_000;
/** Of one test, so that each is well within a test's time. */
const PART = 125;
const LIMIT_MS = 120_000;
const FOLDER = join(import.meta.dirname, "..", "scenario", "recovery");

function simulate(scenario: RecoveryScenario): RecoveryOutcome {
  try {
    return simulateRecovery(scenario);
  } catch (error) {
    const text = JSON.stringify(shrink(scenario));
    throw new Error(`seed ${scenario.seed} breaks a rule; smallest scenario: ${text}`, { cause: error });
  }
}

test.each(readdirSync(FOLDER).filter((file) => file.endsWith(".json")))("scenario %s", (file) => {
  simulateRecovery(JSON.parse(readFileSync(join(FOLDER, file), "utf8")) as RecoveryScenario);
});

const parts = Array.from({ length: SEEDS / PART }, (_, part) => part * PART);

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
] as const)("recovery, %s seeds from %d on", (_, base) => {
  test.each(parts)("%d and the next", { timeout: LIMIT_MS }, (part) => {
    for (let seed = base + part; seed < base + part + PART; seed += 1) simulate(drawScenario(seed));
  });
});

test("a run is the same each time, and its faults happen", () => {
  const outcomes = Array.from({ length: 60 }, (_, seed) => simulateRecovery(drawScenario(seed)));
  expect(simulateRecovery(drawScenario(7))).toEqual(outcomes[7]);
  const sum = (of: (outcome: RecoveryOutcome) => number): number =>
    outcomes.reduce((total, outcome) => total + of(outcome), 0);
  expect(sum(({ views }) => views)).toBeGreaterThan(40);
  expect(sum(({ restarts }) => restarts)).toBeGreaterThan(10);
  expect(sum(({ isExceeded }) => (isExceeded ? 1 : 0))).toBeLessThan(30);
});

test.each([
  ["neighbours", 3, 1, [1, 2]],
  ["neighbours over the closure edge", 5, 2, [4, 0]],
  ["an owner and who keeps its copies", 5, 2, [1, 3]],
] as const)("the line between %s is cut: the ring goes on meanwhile, without one end", (_, nodes, replicas, [a, b]) => {
  const quiet = { ...drawScenario(PINNED_SEED), faults: [], nodes, replicas, owners: nodes, laps: 1, layers: nodes };
  const scenario = { ...quiet, delayMs: 1, lossPermille: 0, duplicatePermille: 0, diskMs: 1, stageMs: 5 };
  const undisturbed = simulateRecovery({ ...scenario, healMs: 10_000 });
  const cut = { kind: "cut", atMs: 1_000, from: [a], to: [b], isOneWay: false, drops: false, forMs: 8_900 } as const;
  const outcome = simulateRecovery({ ...scenario, faults: [cut], healMs: 10_000 });
  // Two views of the cut itself, one that takes the end back in, and where layers go back to it one more.
  expect(outcome.views).toBeGreaterThanOrEqual(2);
  expect(outcome.views).toBeLessThanOrEqual(4);
  expect(outcome.steps).toBeGreaterThan(undisturbed.steps / 2);
});

test("a vote that the disk refused is written again when the question is repeated", () => {
  const voter = new Agreement<string, null>({ self: 1, voters: [0, 1, 2], peers: [0, 1, 2], vote: null });
  const prepare = { kind: "prepare", ballot: ballotOf(1, 0) } as const;
  const ask = () => voter.handle({ kind: "message", from: 0, message: prepare, evidence: null });
  expect(ask().map(({ kind }) => kind)).toEqual(["seal", "persist"]);
  expect(voter.handle({ kind: "notPersisted", id: 1 })).toEqual([]);
  expect(ask().map(({ kind }) => kind)).toEqual(["persist"]);
  expect(ask()).toEqual([]);
  expect(voter.handle({ kind: "persisted", id: 2 }).map(({ kind }) => kind)).toEqual(["send"]);
});
