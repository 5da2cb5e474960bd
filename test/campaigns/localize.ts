/**
 * @file Blocked matrix factorisation over real processes, with keys that stay at home and with keys that come to who uses them (Renz-Wieland 2020): local
 * accesses, time, traffic, and the result beside that of one process.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "simple-statistics";
import type { Placement } from "../../baseline-ps/applications/matrix-factorisation.ts";
import { factorKeys } from "../../baseline-ps/applications/matrix-entries.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { plainFactorisation, type PlainFactorisation } from "../helpers/plain-factorisation.ts";
import { ROOT, table } from "./campaign.ts";
import { lostPushes } from "../helpers/history-worker.ts";
import { inconsistencies } from "../helpers/key-history.ts";
import type { HistoryRun, LocalizeReport, LocalizeRole, LocalizeRun, MeasuredEpoch } from "./localize-process.ts";
import { withProcesses } from "./reporting-process.ts";

const PROCESS = new URL("localize-process.ts", import.meta.url);
const RUN_LIMIT_MS = 10 * 60_000;
const TASK = { seed: 1, rows: 2_000, columns: 400, rank: 8, draws: 40 };
const RUN: Omit<LocalizeRun, "placement"> = { task: TASK, workers: 4, epochs: 10, rate: 0.1, decay: 0.01 };
const HISTORY: HistoryRun = { seed: 1, nodes: 4, workersPerNode: 2, rounds: 50, keysPerRound: 3, pushes: 15 };
/** With keys at home an epoch takes as long as a thousand others. */
const HOME_EPOCHS = 3;
const PLACEMENTS: Readonly<Record<Placement, string>> = {
  home: "keys stay at home, each use a message",
  copies: "keys stay at home, a step works with copies",
  localize: "localize at a step's start",
  ahead: "localize one step ahead",
};

interface Outcome {
  /** By worker and epoch. */
  readonly epochs: readonly (readonly MeasuredEpoch[])[];
  readonly factors: readonly number[];
}

/** Takes a few minutes, nearly all of them with keys at home. */
export async function localize(): Promise<void> {
  const one = plainFactorisation(TASK, RUN);
  const outcomes: [Placement, Outcome][] = [];
  for (const placement of Object.keys(PLACEMENTS) as Placement[]) {
    process.stderr.write(`${outcomes.length + 1} of ${Object.keys(PLACEMENTS).length}: ${PLACEMENTS[placement]}\n`);
    const run = { ...RUN, placement, epochs: placement === "home" ? HOME_EPOCHS : RUN.epochs };
    const roles = Array.from({ length: run.workers }, (_, node) => ({ kind: "train" as const, node, run }));
    const trained = await runNodes(roles, "trained");
    outcomes.push([placement, { epochs: trained.map(({ epochs }) => epochs), factors: trained[0]!.factors }]);
  }
  const roles = Array.from({ length: HISTORY.nodes }, (_, node) => ({ kind: "record" as const, node, run: HISTORY }));
  const recorded = await runNodes(roles, "recorded");
  const folder = join(ROOT, "results", "campaigns", "localize");
  mkdirSync(folder, { recursive: true });
  const text = report(one, outcomes, recorded);
  writeFileSync(join(folder, "README.md"), text);
  process.stdout.write(text);
}

type ReportOf<Kind> = Extract<LocalizeReport, { kind: Kind }>;

/** A process for each role; their last reports. */
const runNodes = <Kind extends LocalizeReport["kind"]>(
  roles: readonly LocalizeRole[],
  kind: Kind,
): Promise<readonly ReportOf<Kind>[]> =>
  withProcesses<LocalizeRole, LocalizeReport, readonly ReportOf<Kind>[]>(
    PROCESS,
    RUN_LIMIT_MS,
    async (start, signal) => {
      const nodes = roles.map((role) => start(`node ${role.node}`, role));
      const listening = await Promise.all(nodes.map((node) => node.next("listening", signal)));
      const done = nodes.map((node) => node.next(kind, signal));
      for (const node of nodes) node.tell(listening.map(({ addresses }) => addresses));
      return Promise.all(done);
    },
  );

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);
const grouped = (value: number): string => Math.round(value).toLocaleString("en-US");

/** What the samples take to draw is in neither. */
function onePlainEpochMs(): number {
  const timeMs = (epochs: number): number => {
    const startMs = nowMs();
    plainFactorisation(TASK, { ...RUN, epochs });
    return nowMs() - startMs;
  };
  timeMs(1);
  return (timeMs(RUN.epochs) - timeMs(1)) / (RUN.epochs - 1);
}

/** From one epoch's end to the next one's: the median of all but the first, which has the start in it. */
function epochMs({ epochs }: Outcome): number {
  const times = epochs.flatMap((own) => own.slice(1).map(({ endMs }, epoch) => endMs - own[epoch]!.endMs));
  return median(times);
}

/** Of all nodes, by epoch but the first. */
function perEpoch({ epochs }: Outcome, what: "bytesSent" | "messagesSent"): number {
  return sum(epochs.map((own) => (own.at(-1)![what] - own[0]![what]) / (own.length - 1)));
}

const meanSquare = (squaredErrors: readonly number[], { entries }: PlainFactorisation): number =>
  sum(squaredErrors) / entries;

function report(
  one: PlainFactorisation,
  outcomes: readonly (readonly [Placement, Outcome])[],
  recorded: readonly ReportOf<"recorded">[],
): string {
  const { workers, epochs, rate, decay } = RUN;
  const { rows, columns, rank, draws, seed } = TASK;
  return [
    "# Matrix factorisation with dynamic parameter allocation\n\n",
    `A generated ${grouped(rows)} x ${grouped(columns)} matrix of rank ${rank}, ${grouped(one.entries)} known entries (${draws} drawn for a row), seed ${seed}; ${grouped(factorKeys(TASK))} keys of ${rank} values. `,
    `${epochs} epochs of stochastic gradient descent, rate ${rate}, decay ${decay}. ${workers} nodes, each a process that is worker and server, over libp2p (TLS) on loopback; each has its rows, `,
    `and one of ${2 * workers} blocks of columns at a time. Remake with \`npm run campaign -- localize\`, where nothing else runs: times hold for the machine and hour.\n\n`,
    "## Where the keys are\n\n",
    "Local: keys pulled and pushed without a message, of all. Late: steps of one worker in an epoch that began before their columns were there. An access to a copy is none. ",
    `Accesses, messages, bytes: of all nodes, in an epoch. One process with arrays takes ${onePlainEpochMs().toFixed(1)} ms an epoch.\n\n`,
    placementTable(outcomes),
    "\n## The result\n\n",
    "Mean squared error of an epoch's entries, each before its update. One process: two arrays of factors, the same entries in the order of blocks and workers.\n\n",
    errorTable(one, outcomes),
    "\nGreatest difference of a factor from that of one process, after the last epoch: ",
    outcomes
      .filter(([placement]) => placement !== "home")
      .map(([placement, { factors }]) => `${placement} ${greatestDifference(factors, one.factors)}`)
      .join(", "),
    ".\n\n## Histories\n\n",
    historyText(recorded),
  ].join("");
}

function placementTable(outcomes: readonly (readonly [Placement, Outcome])[]): string {
  const home = epochMs(outcomes.find(([placement]) => placement === "home")![1]);
  const rows = outcomes.map(([placement, outcome]) => {
    const all = outcome.epochs.flat();
    const [local, remote] = [sum(all.map((each) => each.local)), sum(all.map((each) => each.remote))];
    const ms = epochMs(outcome);
    return [
      ...[placement, PLACEMENTS[placement], `${((100 * local) / (local + remote)).toFixed(2)} %`],
      ...[grouped((RUN.workers * (local + remote)) / all.length), ms.toFixed(1), `${(home / ms).toFixed(1)}x`],
      ...[grouped(perEpoch(outcome, "messagesSent")), grouped(perEpoch(outcome, "bytesSent"))],
      (sum(all.map(({ lateSteps }) => lateSteps)) / all.length).toFixed(1),
    ];
  });
  const head = ["placement", "", "local", "accesses", "ms an epoch", "speed-up", "messages", "bytes", "late"];
  return table(head, rows);
}

function errorTable(one: PlainFactorisation, outcomes: readonly (readonly [Placement, Outcome])[]): string {
  const rows = one.squaredErrors.map((squaredErrors, epoch) => [
    ...[epoch + 1, meanSquare(squaredErrors, one).toFixed(9)],
    ...outcomes.map(([, outcome]) => {
      const own = outcome.epochs.flatMap((records) => records[epoch]?.squaredErrors ?? []);
      if (own.length === 0) return "";
      const difference = meanSquare(own, one) / meanSquare(squaredErrors, one) - 1;
      return difference === 0 ? "the same bits" : difference.toExponential(1);
    }),
  ]);
  return table(["epoch", "one process", ...outcomes.map(([placement]) => placement)], rows);
}

function greatestDifference(factors: readonly number[], others: Float32Array): string {
  const greatest = factors.reduce((most, factor, place) => Math.max(most, Math.abs(factor - others[place]!)), 0);
  return greatest === 0 ? "0" : greatest.toExponential(1);
}

function historyText(recorded: readonly ReportOf<"recorded">[]): string {
  const { nodes, workersPerNode, rounds, keysPerRound, seed } = HISTORY;
  const history = recorded.flatMap((each) => each.history);
  const last = recorded.flatMap((each) => each.last);
  const found = inconsistencies([...history, ...last]);
  const [local, remote] = (["local", "remote"] as const).map((where) =>
    sum(recorded.map((each) => each.accesses[where])),
  );
  return [
    `${nodes} processes with ${workersPerNode} workers each pull, push and localize at random, half of the time without waiting; ${rounds} rounds, each on ${keysPerRound} keys of its own, seed ${seed}. `,
    `${grouped(history.length)} pulls and pushes, ${grouped(local!)} accesses local and ${grouped(remote!)} not: `,
    `${lostPushes(history, last)} pushes lost, and ${found.length === 0 ? "every history is sequentially consistent for its key" : found.join("; ")}.\n`,
  ].join("");
}
