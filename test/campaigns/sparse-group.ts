/** @file Servers and workers of the sparse campaign, each a process of its own, from the first start to the last report. */
import type { WeightsRecord } from "../../baseline-ps/applications/sparse-logistic.ts";
import { type Start, withProcesses } from "./reporting-process.ts";
import type { SparseReport, SparseRole, SparseRun } from "./sparse-process.ts";

const PROCESS = new URL("sparse-process.ts", import.meta.url);
const RUN_LIMIT_MS = 60_000;

export type WorkerReport = Extract<SparseReport, { kind: "trained" }>;

export interface SparseOutcome {
  /** By worker. */
  readonly workers: readonly WorkerReport[];
  /** After each update, all servers together. */
  readonly weights: readonly WeightsRecord[];
}

/** @throws InterruptedError after Ctrl-C or SIGTERM, NodeLostError where a process fails, ends early or takes too long */
export const runSparse = (run: SparseRun): Promise<SparseOutcome> =>
  withProcesses<SparseRole, SparseReport, SparseOutcome>(PROCESS, RUN_LIMIT_MS, (start, signal) =>
    conduct(run, start, signal),
  );

async function conduct(
  run: SparseRun,
  start: Start<SparseRole, SparseReport>,
  signal: AbortSignal,
): Promise<SparseOutcome> {
  const servers = Array.from({ length: run.servers }, (_, index) =>
    start(`server ${index}`, { kind: "server", index, run }),
  );
  const listening = await Promise.all(servers.map((server) => server.next("listening", signal)));
  const addresses = listening.map((report) => report.addresses);
  const served = Promise.all(servers.map((server) => server.next("served", signal)));
  const training = Array.from({ length: run.workers }, (_, index) =>
    start(`worker ${index}`, { kind: "worker", index, run, servers: addresses }).next("trained", signal),
  );
  // A server that fails says so before its workers do.
  const workers = await Promise.race([Promise.all(training), served.then(() => Promise.all(training))]);
  for (const server of servers) server.tell("finish");
  const parts = (await served).map(({ weights }) => weights);
  const weights = parts[0]!.map((_, update) => ({
    absoluteSum: parts.reduce((sum, part) => sum + part[update]!.absoluteSum, 0),
    nonZero: parts.reduce((sum, part) => sum + part[update]!.nonZero, 0),
  }));
  return { workers, weights };
}
