/**
 * @file A parameter server of which processes are killed, or stand still, while it trains: in bsp every run must end with the bits of one process.
 * Beside it how long nothing was committed after the signal.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { MetricsLine } from "../../src/metrics/run-folder.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { median } from "../../src/metrics/summary.ts";
import { runningNodes } from "../../src/runtime/process-control.ts";
import { RandomStream } from "../../src/types/random.ts";
import { table, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const TRIALS = 20;
const STEPS = 240;
const WORKERS = 2;
const LOOK_MS = 10;
const BEGIN_LIMIT_MS = 120_000;
/** Longer than silence that a process is taken for dead for. */
const PAUSE_MS = 5_000;
/** Commits after the signal among which the longest pause is looked for. */
const WINDOW = 40;

interface Kind {
  readonly servers: number;
  readonly replicas: number;
  /** Who is hit, one after the other, so many steps apart. */
  readonly victims: readonly ("worker" | "server" | "scheduler" | "manager")[];
  readonly pauses: boolean;
}

const KINDS: Readonly<Record<string, Kind>> = {
  "kill a worker": { servers: 3, replicas: 1, victims: ["worker"], pauses: false },
  "kill a server": { servers: 3, replicas: 1, victims: ["server"], pauses: false },
  "kill the task scheduler": { servers: 3, replicas: 1, victims: ["scheduler"], pauses: false },
  "kill the server manager": { servers: 3, replicas: 1, victims: ["manager"], pauses: false },
  "kill two servers and a worker, 60 steps apart": {
    ...{ servers: 4, replicas: 1, victims: ["server", "worker", "server"], pauses: false },
  },
  "kill two servers at once, two replicas": { servers: 4, replicas: 2, victims: ["server", "server"], pauses: false },
  "stop a server for 5 s": { servers: 3, replicas: 1, victims: ["server"], pauses: true },
  "stop a worker for 5 s": { servers: 3, replicas: 1, victims: ["worker"], pauses: true },
  "stop the task scheduler for 5 s": { servers: 3, replicas: 1, victims: ["scheduler"], pauses: true },
  "stop the server manager for 5 s": { servers: 3, replicas: 1, victims: ["manager"], pauses: true },
};
const APART = 60;

interface Result {
  readonly kind: string;
  readonly weights: string;
  readonly losses: string;
  /** Longest time without a commit after the first signal; null where there was none. */
  readonly pauseMs: number | null;
}

function cells(): readonly Cell[] {
  const flags = [
    ...["--model", "mlp:64-256-256-10", "--data", "synthetic:classes=10,features=64", "--timeline", "none"],
    ...["--batch", "32", "--micro-batches", String(WORKERS), "--steps", String(STEPS)],
  ];
  const trials = Object.entries(KINDS).flatMap(([kind, { servers, replicas }]) =>
    Array.from({ length: TRIALS }, (_, trial) => ({
      id: `${kind}; ${trial}`,
      flags: [
        ...[...flags, "--system", "ps", "-n", String(WORKERS)],
        ...["--servers", String(servers), "--server-replicas", String(replicas)],
      ],
    })),
  );
  return [{ id: "serial; 0", flags: [...flags, "--system", "serial"] }, ...trials];
}

function linesOf(out: string): readonly MetricsLine[] {
  const file = join(out, RUN_FILES.metrics);
  if (!existsSync(file)) return [];
  const whole = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return whole.map((line) => JSON.parse(line) as MetricsLine);
}

async function reach(out: string, steps: number): Promise<void> {
  for (const endMs = performance.now() + BEGIN_LIMIT_MS; linesOf(out).length < steps; await delay(LOOK_MS)) {
    if (performance.now() > endMs) throw new Error(`step ${steps} is not reached`);
  }
}

/** Returns the step at the first signal. */
async function disturb({ id }: Cell, out: string): Promise<number | null> {
  const [name = "", trial = ""] = id.split("; ");
  const kind = KINDS[name];
  if (kind === undefined) return null;
  const random = new RandomStream(Number(trial) + 1, name.length);
  const first = 30 + random.nextBelow(30);
  const isAtOnce = kind.replicas > 1;
  const hit = new Set<number>();
  let begun: number | null = null;
  for (const [turn, victim] of kind.victims.entries()) {
    await reach(out, first + (isAtOnce ? 0 : turn * APART));
    const behind = WORKERS + kind.servers;
    const numbers = {
      worker: [0, WORKERS],
      server: [WORKERS, behind],
      scheduler: [behind, behind + 1],
      manager: [behind + 1, behind + 2],
    }[victim];
    const entries = runningNodes().filter((entry) => entry.out === out && !hit.has(entry.node));
    const mine = entries.filter(({ node }) => node >= numbers[0]! && node < numbers[1]!);
    const { pid, node } = mine[random.nextBelow(mine.length)]!;
    hit.add(node);
    begun ??= linesOf(out).length;
    process.kill(pid, kind.pauses ? "SIGSTOP" : "SIGKILL");
    if (!kind.pauses) continue;
    await delay(PAUSE_MS);
    process.kill(pid, "SIGCONT");
  }
  return begun;
}

function measure({ id }: Cell, summary: RunSummary, out: string, begun: number | null): Result {
  const times = linesOf(out).map(({ elapsedMs }) => elapsedMs);
  const after = begun === null ? [] : times.slice(begun - 1, begun + WINDOW);
  const gaps = after.slice(1).map((time, index) => time - after[index]!);
  const { weightsSha256: weights, lossCurveSha256: losses } = summary;
  return { kind: id.split("; ")[0]!, weights, losses, pauseMs: gaps.length === 0 ? null : Math.max(...gaps) };
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const serial = results.find(({ kind }) => kind === "serial");
  const rows = Object.keys(KINDS).flatMap((kind) => {
    const runs = results.filter((result) => result.kind === kind);
    if (serial === undefined || runs.length === 0) return [];
    const equal = runs.filter(({ weights, losses }) => weights === serial.weights && losses === serial.losses);
    const pauses = runs.flatMap(({ pauseMs }) => pauseMs ?? []);
    return [[kind, runs.length, equal.length, median(pauses).toFixed(0), Math.max(...pauses).toFixed(0)]];
  });
  return (
    "# A parameter server whose processes die\n\n" +
    `\`npm run campaign -- ps-kills\`: ${WORKERS} workers, bsp, ${STEPS} steps; the victim and the step are drawn. Equal: the weights and losses of one ` +
    "process. Pause: the longest time between two commits after the signal, a step's own time in it; a process that stands still is taken for dead after 3 s.\n\n" +
    table(["what happens", "trials", "equal", "pause ms, median", "worst"], rows)
  );
}

export const psKills: Campaign<Result, RunSummary, number | null> = {
  name: "ps-kills",
  cells,
  disturb,
  measure,
  report,
};
