/** @file Processes that a campaign starts: each hears its role first, and then reports. None outlives the run. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { InterruptedError, NodeLostError } from "../../src/types/errors.ts";

/** What a process says; `failed` instead of any other. */
export type Failed = { readonly kind: "failed"; readonly message: string };
type ReportOf<Report extends { readonly kind: string }, Kind> = Extract<Report, { readonly kind: Kind }>;

export class ReportingProcess<Role extends object, Report extends { readonly kind: string }> {
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #ended: Promise<void>;

  constructor(file: URL, name: string, role: Role) {
    this.#name = name;
    this.#child = fork(fileURLToPath(file), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#ended = new Promise((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.send(role);
  }

  /** Its next report. Rejects where it fails, ends before, or `signal` aborts. */
  next<Kind extends Report["kind"]>(kind: Kind, signal: AbortSignal): Promise<ReportOf<Report, Kind>> {
    const { promise, resolve, reject } = Promise.withResolvers<ReportOf<Report, Kind>>();
    this.#child.once("message", (report: Report | Failed) => {
      if (report.kind === kind) resolve(report as ReportOf<Report, Kind>);
      else reject(lost(this.#name, "message" in report ? `failed: ${report.message}` : `said ${report.kind}`));
    });
    void this.#ended.then(() => reject(lost(this.#name, "ended before it was done")));
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
    return promise.finally(() => signal.removeEventListener("abort", stop));
  }

  tell(message: object | string): void {
    this.#child.send(message);
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

export type Start<Role extends object, Report extends { readonly kind: string }> = (
  name: string,
  role: Role,
) => ReportingProcess<Role, Report>;

/**
 * What `conduct` makes of processes that it starts, all of `file`.
 * @throws InterruptedError after Ctrl-C or SIGTERM, NodeLostError where a process fails, ends early or all take longer than `limitMs`
 */
export async function withProcesses<Role extends object, Report extends { readonly kind: string }, Outcome>(
  file: URL,
  limitMs: number,
  conduct: (start: Start<Role, Report>, signal: AbortSignal) => Promise<Outcome>,
): Promise<Outcome> {
  const aborted = new AbortController();
  const interrupt = (): void => aborted.abort(new InterruptedError("interrupted", "start it again"));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupt);
  const late = setTimeout(() => aborted.abort(lost("the run", `took more than ${limitMs} ms`)), limitMs);
  const processes: ReportingProcess<Role, Report>[] = [];
  const start = (name: string, role: Role): ReportingProcess<Role, Report> => {
    const started = new ReportingProcess<Role, Report>(file, name, role);
    processes.push(started);
    return started;
  };
  try {
    return await conduct(start, aborted.signal);
  } finally {
    clearTimeout(late);
    await Promise.all(processes.map((each) => each.kill()));
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupt);
  }
}

function lost(who: string, what: string): NodeLostError {
  return new NodeLostError(`${who} ${what}`, "see what it wrote above; start it again");
}
