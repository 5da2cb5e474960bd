/**
 * @file The parameter server's public face: one process manages, the others join it as a server, a data server, a worker or the task scheduler.
 *
 * ```ts
 * const { summary } = await manageParameterServer({ job, settings, dataSha256, firstStep, transport, folder, … });
 * await joinParameterServer({ roles: [{ kind: "worker", index: 0 }], manager: addresses, transport, data, folder, … });
 * ```
 */
import { parseLink } from "../src/config/emulation.ts";
import type { Settings } from "../src/config/settings.ts";
import type { DataSet } from "../src/data/dataset.ts";
import { RUN_FILES, type RunFolder } from "../src/metrics/run-folder.ts";
import { type Lateness, shapedTransport, type ShapedTransport } from "../src/net/shaped.ts";
import { parseModel } from "../src/nn/spec.ts";
import { selfDialling } from "../src/net/self-dial.ts";
import type { Transport } from "../src/net/transport.ts";
import { chooseEngines } from "../src/runtime/engines.ts";
import { NodeAccount } from "./runtime/account.ts";
import { BATCHES_PROTOCOL } from "./runtime/batch-frames.ts";
import { Manager, type ManagerInit } from "./runtime/manager.ts";
import { keysProtocol } from "./runtime/key-frames.ts";
import { Member } from "./runtime/member.ts";
import type { PsJob, PsRole } from "./runtime/messages.ts";
import { psSummary } from "./runtime/ps-summary.ts";
import {
  heldParameters,
  type RoleInit,
  runDataServer,
  runScheduler,
  runStandby,
  runServer,
  runWorker,
  type SchedulerEvents,
} from "./runtime/roles.ts";
import { ServedJobs } from "./runtime/served-jobs.ts";

export type { PsJob, PsRole } from "./runtime/messages.ts";
export { batchBytes } from "./runtime/batch-frames.ts";
export { divideKeys } from "./core/key-map.ts";
export { ServedJobs } from "./runtime/served-jobs.ts";
export { nameOf } from "./runtime/manager.ts";

/** What a process takes before it holds any of the model. */
const BASE_BYTES = 180 * 2 ** 20;

/** Bytes of a server with so many keys: parameters, states, sums of as many steps as may be open, a push of another worker on its way. */
export function serverBytes(keys: number, states: number, tau: number): number {
  return BASE_BYTES + 4 * keys * (1 + states + (tau + 1) + 1);
}

/** Bytes that a worker adds to its process: the parameters and gradients that it holds. */
export function workerBytes({ model, workerHolds }: Pick<Settings, "model" | "workerHolds">): number {
  return 2 * 4 * heldParameters(parseModel(model), workerHolds);
}

export interface ManageInit extends ManagerInit {
  readonly folder: RunFolder;
}

/** Until all have ended. Rejects with the failure that ended the run. */
export async function manageParameterServer({ folder, ...init }: ManageInit): Promise<Record<string, unknown>> {
  let job: PsJob | undefined;
  const onJob = (decided: PsJob): void => {
    job = decided;
    init.onJob(decided);
  };
  const manager = await Manager.listen({ ...init, onJob });
  try {
    const reports = await manager.ended;
    const summary = psSummary(job!, reports);
    folder.writeJson(RUN_FILES.summary, summary);
    return summary;
  } finally {
    await manager.close();
  }
}

/** Step that it has begun, how idle it was so far, lag of its newest share where it computes some. */
export interface Live {
  readonly step: number;
  readonly idlePercent: number;
  readonly lag: number | null;
}

export interface JoinInit {
  /** All that this process does: one, or with `coLocate` a worker and a server. */
  readonly roles: readonly PsRole[];
  /** To a run that trains already: its place there is the manager's to say. */
  readonly joins?: boolean;
  /** The manager's addresses. */
  readonly manager: readonly string[];
  readonly transport: Transport;
  readonly engine: Parameters<typeof chooseEngines>[0];
  readonly folder: RunFolder;
  /** With what `status` tells of this process from now on. */
  readonly onJob?: (job: PsJob, live: () => Live, member: Pick<Member, "role" | "leave" | "view">) => void;
  /** A data server's; a worker's where there is none. */
  readonly data: (job: PsJob) => Promise<DataSet>;
  /** The scheduler's. */
  readonly events: SchedulerEvents;
  /** Of a standby that has become the manager. */
  readonly onSummary?: (summary: Record<string, unknown>) => void;
  readonly onLost?: (role: string) => void;
  /** Of a server whose process joins several jobs, once each, with one transport: the same object every time. */
  readonly served?: ServedJobs;
}

/** Until the run is over. Rejects with the failure that ended it, here or elsewhere. */
export async function joinParameterServer(init: JoinInit): Promise<void> {
  const { roles, manager, transport, engine, folder, joins = false } = init;
  const { ids } = chooseEngines(engine);
  // A standby that becomes the manager is a member of its own.
  const own = selfDialling(transport);
  const members = await Promise.all(roles.map((role) => Member.join(own, manager, role, ids, joins)));
  let succession: Promise<void> | undefined;
  try {
    const [job] = await Promise.all(members.map((member) => member.job));
    const account = new NodeAccount();
    const { clockwork } = account;
    const live = (): Live => ({ step: clockwork.newestStep, idlePercent: clockwork.idlePercent, lag: account.lag() });
    init.onJob?.(job!, live, members[0]!);
    const shaped = shape(transport, job!);
    if (roles.some(({ kind }) => kind === "standby")) {
      members[0]!.onManagerGone = () => {
        succession = succeed(own, job!, members[0]!, init);
        // A failure is told to all members, this process's too.
        succession.catch(() => {});
      };
    }
    const given = {
      ...{ job: job!, folder, account, lateness: (): Lateness | null => shaped?.lateness ?? null },
      // Over the shape: what a process says to itself takes no line.
      transport: selfDialling(shaped ?? transport),
    };
    await Promise.all(
      members.map((member) => runRole(member.role, { ...given, index: member.role.index, member }, init)),
    );
    await succession;
  } catch (error) {
    for (const member of members) member.fail(error);
    throw error;
  } finally {
    await Promise.all(members.map((member) => member.close()));
  }
}

/** In the manager's place, to the end of the run. */
async function succeed(transport: Transport, job: PsJob, member: Member, init: JoinInit): Promise<void> {
  const { settings, dataSha256, firstStep } = job;
  const silent = { onPresent: () => {}, onJob: () => {}, onChanged: () => {}, onLost: init.onLost ?? ((): void => {}) };
  const given = { job: job.job, settings, dataSha256, firstStep, transport, ...silent };
  const manager = await Manager.succeed(given, job, member.view ?? null);
  try {
    const summary = psSummary(job, await manager.ended);
    init.folder.writeJson(RUN_FILES.summary, summary);
    init.onSummary?.(summary);
  } finally {
    await manager.close();
  }
}

async function runRole(
  { kind }: PsRole,
  given: RoleInit,
  { data, events, served = new ServedJobs() }: JoinInit,
): Promise<void> {
  const { job } = given;
  switch (kind) {
    case "server":
      return served.during(job.job, () => runServer(given, served));
    case "worker":
      return runWorker(given, () => data(job));
    case "data":
      return runDataServer(given, await data(job));
    case "scheduler":
      return runScheduler(given, events);
    case "standby":
      return runStandby(given, events);
  }
}

/** Requests of keys and micro-batches alone are held to the stated link. */
function shape(transport: Transport, { job, settings: { link } }: PsJob): ShapedTransport | undefined {
  const protocols = [keysProtocol(job), BATCHES_PROTOCOL];
  return link === null ? undefined : shapedTransport(transport, { ...parseLink(link), protocols });
}
