/**
 * @file A thousand kills, one after the other, on a ring of five with two replicas, and fewer of each other fault. Every cell is a run of
 * `ringtmp chaos`, which compares it with the undisturbed run; what is kept of it are the times of each fault.
 */
import { table, type Campaign, type Cell } from "./campaign.ts";

const KILLS_A_CELL = 25;
const KILLS = 1_000;
/** These have the machine to themselves, and train as fast as it can, two seconds between kills. */
const QUIET_CELLS = 8;
/** The nodes of the others mostly rest, so that several of these cells may run side by side: kills follow each other faster. */
const RESTING = ["--micro-batches", "2", "--pace", "0.5GFLOP/s", "--every", "0.5"] as const;
/** Of each other kind, in one cell. */
const FAULTS = 6;
const OTHERS = ["pair", "double", "first", "last", "founder", "writer", "leave"] as const;
const LASTING = ["pause:0.2", "pause:0.8", "pause:2", "cut:5"] as const;
const LONG_FAULTS = 2;
const LONG = ["pause:20", "restart"] as const;
const MODEL = ["--model", "mlp:784-256-256-256-256-256-10", "--timeline", "none"] as const;
const RING = ["-n", "5", "--replicas", "2", ...MODEL] as const;
/** Six stages on three nodes. */
const LAPS = ["-n", "3", "--laps", "2", "--batch", "132", "--micro-batches", "6", ...MODEL] as const;

interface Fault {
  readonly kind: string;
  readonly faultToDetectedMs: number | null;
  readonly faultToResumedMs: number | null;
  readonly recomputedSteps: number;
}

interface Result {
  readonly isEqual: boolean;
  readonly differences: readonly string[];
  readonly steps: number;
  readonly lostCommittedSteps: number;
  readonly recomputedSteps: number;
  readonly faults: readonly Fault[];
}

function cells(): readonly Cell[] {
  const kills = Array.from({ length: KILLS / KILLS_A_CELL }, (_, index) => ({
    id: `kill-${index}`,
    flags: [...RING, "--kills", String(KILLS_A_CELL), "--seed", String(index + 1)],
  }));
  const faults = (kind: string, count: number): Cell => ({
    id: kind,
    flags: [...RING, "--faults", kind, "--kills", String(count), "--every", "1", "--seed", "1"],
  });
  const others = [
    ...[...OTHERS, ...LASTING].map((kind) => faults(kind, FAULTS)),
    ...LONG.map((kind) => faults(kind, LONG_FAULTS)),
    { id: "laps", flags: [...LAPS, "--kills", String(FAULTS), "--every", "1", "--seed", "1"] },
  ];
  const quiet = kills.slice(0, QUIET_CELLS).map(({ id, flags }) => ({ id, flags: [...flags, "--every", "2"] }));
  const dense = kills.slice(QUIET_CELLS).map(({ id, flags }) => ({ id, flags: [...flags, ...RESTING] }));
  return [...quiet, ...others, ...dense];
}

function measure(_: Cell, result: Result): Result {
  const { isEqual, differences, steps, lostCommittedSteps, recomputedSteps, faults } = result;
  const kept = faults.map(({ kind, faultToDetectedMs, faultToResumedMs, recomputedSteps: recomputed }) => ({
    ...{ kind, faultToDetectedMs, faultToResumedMs, recomputedSteps: recomputed },
  }));
  return { isEqual, differences, steps, lostCommittedSteps, recomputedSteps, faults: kept };
}

function quantiles(values: readonly (number | null)[]): readonly string[] {
  const sorted = values.filter((value) => value !== null).toSorted((a, b) => a - b);
  const at = (share: number): string =>
    sorted.length === 0 ? "-" : sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!.toFixed(0);
  return [at(0.5), at(0.9), at(0.99), at(1)];
}

function labelOf(id: string): string {
  const [, index] = /^kill-(\d+)$/.exec(id) ?? [];
  if (index === undefined) return id === "laps" ? "kill, two laps on three nodes" : id;
  return Number(index) < QUIET_CELLS ? "kill, 2 s apart" : "kill, 0.5 s apart, paced";
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const labels = [...new Set(results.map(({ id }) => labelOf(id)))];
  const rows = labels.map((label) => {
    const faults = results.filter(({ id }) => labelOf(id) === label).flatMap((result) => result.faults);
    const seen = faults.filter(({ faultToDetectedMs }) => faultToDetectedMs !== null);
    const recomputed = Math.max(0, ...faults.map((fault) => fault.recomputedSteps));
    const detected = quantiles(seen.map((fault) => fault.faultToDetectedMs));
    return [
      label,
      faults.length,
      seen.length,
      ...detected,
      ...quantiles(seen.map((fault) => fault.faultToResumedMs)),
      recomputed,
    ];
  });
  const unequal = results.filter(({ isEqual }) => !isEqual).map(({ id }) => id);
  const lost = results.reduce((sum, { lostCommittedSteps }) => sum + lostCommittedSteps, 0);
  const times = ["p50", "p90", "p99", "max"];
  const head = [
    "fault",
    "times",
    "seen",
    ...times.map((each) => `detected ${each}`),
    ...times.map((each) => `resumed ${each}`),
  ];
  return [
    "# Faults on a ring of five with two replicas\n\n",
    `\`ringtmp chaos ${RING.join(" ")}\`; each cell is compared with the same run undisturbed. Milliseconds from the signal to the next view and to the `,
    "next new step. Kills two seconds apart had the machine to themselves; the others ran side by side or beside other work. A pause that nobody missed is not seen.\n\n",
    table([...head, "recomputed, most"], rows),
    `\n${results.length - unequal.length} of ${results.length} runs ended with the undisturbed run's weights and loss curve, bit for bit`,
    unequal.length === 0 ? "" : ` (not: ${unequal.join(", ")})`,
    `; ${lost} committed steps were lost.\n\nRemake with \`npm run campaign -- chaos\`.\n`,
  ].join("");
}

export const chaos: Campaign<Result, Result> = { name: "chaos", command: "chaos", cells, measure, report };
