/** @file Servers and workers of the sparse campaign, each a process of its own, from the first start to the last report. None outlives the run. */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { WeightsRecord } from "../../baseline-ps/applications/sparse-logistic.ts";
import { InterruptedError, NodeLostError } from "../../src/types/errors.ts";
import type { SparseReport, SparseRole, SparseRun } from "./sparse-process.ts";

const RUN_LIMIT_MS = 60_000;

type ReportOf<Kind extends SparseReport["kind"]> = Extract<SparseReport, { kind: Kind }>;
export type WorkerReport = ReportOf<"trained">;

export interface SparseOutcome {
  /** By worker. */
  readonly workers: readonly WorkerReport[];
  /** After each update, all servers together. */
  readonly weights: readonly WeightsRecord[];
}

class SparseProcess {
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #ended: Promise<void>;

  constructor(role: SparseRole) {
    this.#name = `${role.kind} ${role.index}`;
    const file = fileURLToPath(new URL("sparse-process.ts", import.meta.url));
    this.#child = fork(file, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#ended = new Promise((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.send(role);
  }

  /** Its next report. Rejects where it fails, ends before, or `signal` aborts. */
  next<Kind extends SparseReport["kind"]>(kind: Kind, signal: AbortSignal): Promise<ReportOf<Kind>> {
    const { promise, resolve, reject } = Promise.withResolvers<ReportOf<Kind>>();
    this.#child.once("message", (report: SparseReport) => {
      if (report.kind === kind) resolve(report as ReportOf<Kind>);
      else reject(lost(this.#name, report.kind === "failed" ? `failed: ${report.message}` : `said ${report.kind}`));
    });
    void this.#ended.then(() => reject(lost(this.#name, "ended before it was done")));
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
    return promise.finally(() => signal.removeEventListener("abort", stop));
  }

  finish(): void {
    this.#child.send("finish");
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

/** @throws InterruptedError after Ctrl-C or SIGTERM, NodeLostError where a process fails, ends early or takes too long */
export async function runSparse(run: SparseRun): Promise<SparseOutcome> {
  const aborted = new AbortController();
  const interrupt = (): void => aborted.abort(new InterruptedError("interrupted", "start it again"));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupt);
  const late = setTimeout(() => aborted.abort(lost("the run", `took more than ${RUN_LIMIT_MS} ms`)), RUN_LIMIT_MS);
  const processes: SparseProcess[] = [];
  const start = (role: SparseRole): SparseProcess => {
    const started = new SparseProcess(role);
    processes.push(started);
    return started;
  };
  try {
    return await conduct(run, start, aborted.signal);
  } finally {
    clearTimeout(late);
    await Promise.all(processes.map((each) => each.kill()));
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupt);
  }
}

async function conduct(
  run: SparseRun,
  start: (role: SparseRole) => SparseProcess,
  signal: AbortSignal,
): Promise<SparseOutcome> {
  const servers = Array.from({ length: run.servers }, (_, index) => start({ kind: "server", index, run }));
  const listening = await Promise.all(servers.map((server) => server.next("listening", signal)));
  const addresses = listening.map((report) => report.addresses);
  const served = Promise.all(servers.map((server) => server.next("served", signal)));
  const training = Array.from({ length: run.workers }, (_, index) =>
    start({ kind: "worker", index, run, servers: addresses }).next("trained", signal),
  );
  // A server that fails says so before its workers do.
  const workers = await Promise.race([Promise.all(training), served.then(() => Promise.all(training))]);
  for (const server of servers) server.finish();
  const parts = (await served).map(({ weights }) => weights);
  const weights = parts[0]!.map((_, update) => ({
    absoluteSum: parts.reduce((sum, part) => sum + part[update]!.absoluteSum, 0),
    nonZero: parts.reduce((sum, part) => sum + part[update]!.nonZero, 0),
  }));
  return { workers, weights };
}

function lost(who: string, what: string): NodeLostError {
  return new NodeLostError(`${who} ${what}`, "see what it wrote above; start it again");
}
