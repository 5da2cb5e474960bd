/**
 * @file Sparse logistic regression with a million keys on a parameter server of real processes (Li 2014, section 5.1, in the small): the objective
 * beside that of one process with dense arrays, and the bytes beside those of a push and pull of all keys. Takes less than a minute.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { keyCount } from "../../baseline-ps/applications/sparse-samples.ts";
import type { Consistency } from "../../baseline-ps/core/consistency.ts";
import { denseBytes, denseLasso, type DenseLasso, sparseBytes } from "../helpers/dense-logistic.ts";
import { ROOT, table } from "./campaign.ts";
import { runSparse, type SparseOutcome, type WorkerReport } from "./sparse-group.ts";
import type { SparseRun } from "./sparse-process.ts";

const TASK = { seed: 1, samples: 2_000, octaves: 20, draws: 16 };
const RUN: SparseRun = {
  ...{ task: TASK, servers: 2, workers: 4, steps: 60, consistency: { kind: "bsp", tau: 0 } },
  ...{ rate: 0.5, lambda: 0.0005 },
};
/** With a gradient that is always late by more, the objective swings at this rate. */
const DELAYED: readonly Consistency[] = [1, 2, 4].map((tau) => ({ kind: "bounded", tau }));
const SHOWN_STEPS = [0, 1, 2, 3, 5, 10, 20, 30, 40, 50, 60];

export async function sparse(): Promise<void> {
  const one = denseLasso(TASK, RUN.rate, RUN.lambda, RUN.steps);
  const outcomes: [Consistency, SparseOutcome][] = [];
  for (const consistency of [RUN.consistency, ...DELAYED]) {
    process.stderr.write(`${outcomes.length + 1} of ${DELAYED.length + 1}: ${nameOf(consistency)}\n`);
    outcomes.push([consistency, await runSparse({ ...RUN, consistency })]);
  }
  const folder = join(ROOT, "results", "campaigns", "sparse");
  mkdirSync(folder, { recursive: true });
  const text = report(one, outcomes);
  writeFileSync(join(folder, "README.md"), text);
  process.stdout.write(text);
}

const nameOf = ({ kind, tau }: Consistency): string => (kind === "bsp" ? kind : `${kind}, tau ${tau}`);
const grouped = (value: number): string => Math.round(value).toLocaleString("en-US");

/** After so many updates: what the workers lost, and the servers' penalty. */
function objectiveAt({ workers, weights }: SparseOutcome, step: number): number {
  const loss = workers.reduce((sum, { records }) => sum + records[step]!.loss, 0);
  return loss + RUN.lambda * (weights[step - 1]?.absoluteSum ?? 0);
}

function bytesIn({ records }: WorkerReport, step: number): { readonly sent: number; readonly received: number } {
  const [before, after] = [records[step - 1]!, records[step]!];
  return { sent: after.bytesSent - before.bytesSent, received: after.bytesReceived - before.bytesReceived };
}

function report(one: DenseLasso, outcomes: readonly (readonly [Consistency, SparseOutcome])[]): string {
  const { servers, workers, steps, rate, lambda } = RUN;
  const bsp = outcomes[0]![1];
  return [
    "# Sparse logistic regression on the parameter server\n\n",
    `${grouped(keyCount(TASK))} keys, ${grouped(TASK.samples)} samples with at most ${TASK.draws + 1} features whose frequency falls as 1 / rank, seed ${TASK.seed}. `,
    `Mean logistic loss plus ${lambda} times the sum of absolute weights; rate ${rate}; an iteration is one pass over all samples. `,
    `${servers} servers and ${workers} workers, each a process, over libp2p on loopback. A worker pulls the keys that its samples touch, and pushes their gradients; `,
    "the servers add up and take the proximal step. Remake with `npm run campaign -- sparse`.\n\n",
    "## Objective and bytes, bsp\n\n",
    "One process: the same mathematics in dense arrays of doubles. Bytes: all workers in this iteration, by their counters, headers included.\n\n",
    objectiveTable(one, bsp),
    "\n## Bytes a worker and iteration\n\n",
    "Measured: the mean of all iterations. By the form: 12 bytes a key sent, 4 received, and 80 a message. Dense: a push and a pull of all keys.\n\n",
    bytesTable(bsp),
    "\n## Bounded delay\n\n",
    "The objective after the last iteration, with all updates in. Lag: whole updates that the parameters lacked with which a worker computed; the last column counts ",
    "them from 0 on. Along slow directions a late gradient is an older and larger one: delayed runs may be a little further. Longer delays need a smaller rate.\n\n",
    delayTable(one, outcomes),
    `\nAfter ${steps} iterations of bsp ${grouped(bsp.weights.at(-1)!.nonZero)} weights are not zero; in one process ${grouped(one.weights.filter((weight) => weight !== 0).length)}.\n`,
  ].join("");
}

function objectiveTable(one: DenseLasso, bsp: SparseOutcome): string {
  const rows = SHOWN_STEPS.map((step) => {
    const [objective, dense] = [objectiveAt(bsp, step), one.objectives[step]!];
    const bytes = step === 0 ? [] : bsp.workers.map((worker) => bytesIn(worker, step));
    const sum = (of: "sent" | "received"): string =>
      step === 0 ? "" : grouped(bytes.reduce((total, each) => total + each[of], 0));
    const nonZero = grouped(step === 0 ? 0 : bsp.weights[step - 1]!.nonZero);
    const difference = (objective / dense - 1).toExponential(1);
    return [step, objective.toFixed(9), dense.toFixed(9), difference, sum("sent"), sum("received"), nonZero];
  });
  return table(
    ["iteration", "parameter server", "one process", "relative difference", "sent", "received", "non-zero weights"],
    rows,
  );
}

function bytesTable({ workers }: SparseOutcome): string {
  const { servers, steps } = RUN;
  const dense = denseBytes(keyCount(TASK), servers);
  const rows = workers.map(({ samples, keys, records }, worker) => {
    const [first, last] = [records[0]!, records.at(-1)!];
    const measured = {
      sent: (last.bytesSent - first.bytesSent) / steps,
      received: (last.bytesReceived - first.bytesReceived) / steps,
    };
    const form = sparseBytes(keys, servers, servers);
    return [
      ...[worker, samples, `${grouped(keys)} (${((100 * keys) / keyCount(TASK)).toFixed(2)} %)`],
      ...(["sent", "received"] as const).flatMap((way) => [
        ...[grouped(measured[way]), grouped(form[way]), grouped(dense[way])],
        `${(dense[way] / measured[way]).toFixed(0)} x`,
      ]),
    ];
  });
  const way = (name: string): string[] => [name, "by the form", "dense", "less"];
  return table(["worker", "samples", "keys touched", ...way("sent"), ...way("received")], rows);
}

function delayTable(one: DenseLasso, outcomes: readonly (readonly [Consistency, SparseOutcome])[]): string {
  const rows = outcomes.map(([consistency, outcome]) => {
    const objective = objectiveAt(outcome, RUN.steps);
    const lags: number[] = [];
    for (const { step, version } of outcome.workers.flatMap(({ records }) => records)) {
      const lag = Math.max(0, step - version);
      lags[lag] = (lags[lag] ?? 0) + 1;
    }
    const counts = Array.from(lags, (count) => count ?? 0).join(" ");
    const difference = (objective / one.objectives.at(-1)! - 1).toExponential(1);
    return [nameOf(consistency), objective.toFixed(6), difference, lags.length - 1, counts];
  });
  return table(["consistency", "objective", "beside one process", "largest lag", "lags"], rows);
}
