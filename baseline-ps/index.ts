/**
 * @file The parameter server's public face: one process manages, the others join it as a server, a data server, a worker or the task scheduler.
 *
 * ```ts
 * const { summary } = await manageParameterServer({ job, settings, dataSha256, firstStep, transport, folder, … });
 * await joinParameterServer({ role: { kind: "worker", index: 0 }, manager: addresses, transport, data, folder, … });
 * ```
 */
import { parseLink } from "../src/config/emulation.ts";
import type { DataSet } from "../src/data/dataset.ts";
import { RUN_FILES, type RunFolder } from "../src/metrics/run-folder.ts";
import { type Lateness, shapedTransport, type ShapedTransport } from "../src/net/shaped.ts";
import type { Transport } from "../src/net/transport.ts";
import { chooseEngines } from "../src/runtime/engines.ts";
import { BATCHES_PROTOCOL } from "./runtime/batch-frames.ts";
import { Manager, type ManagerInit } from "./runtime/manager.ts";
import { keysProtocol } from "./runtime/key-frames.ts";
import { Member } from "./runtime/member.ts";
import type { PsJob, PsRole } from "./runtime/messages.ts";
import { psSummary } from "./runtime/ps-summary.ts";
import { runDataServer, runScheduler, runServer, runWorker, type SchedulerEvents } from "./runtime/roles.ts";
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

export interface JoinInit {
  readonly role: PsRole;
  /** The manager's addresses. */
  readonly manager: readonly string[];
  readonly transport: Transport;
  readonly engine: Parameters<typeof chooseEngines>[0];
  readonly folder: RunFolder;
  readonly onJob?: (job: PsJob) => void;
  /** A data server's; a worker's where there is none. */
  readonly data: (job: PsJob) => Promise<DataSet>;
  /** The scheduler's. */
  readonly events: SchedulerEvents;
  /** Of a server whose process joins several jobs, once each, with one transport: the same object every time. */
  readonly served?: ServedJobs;
}

/** Until the run is over. Rejects with the failure that ended it, here or elsewhere. */
export async function joinParameterServer(init: JoinInit): Promise<void> {
  const { role, manager, transport, engine, folder, data, events, served = new ServedJobs() } = init;
  const member = await Member.join(transport, manager, role, chooseEngines(engine).ids);
  try {
    const job = await member.job;
    init.onJob?.(job);
    const shaped = shape(transport, job);
    const lateness = (): Lateness | null => shaped?.lateness ?? null;
    const given = { job, index: role.index, transport: shaped ?? transport, lateness, member, folder };
    switch (role.kind) {
      case "server":
        return await served.during(job.job, () => runServer(given, served));
      case "worker":
        return await runWorker(given, () => data(job));
      case "data":
        return await runDataServer(given, await data(job));
      case "scheduler":
        return await runScheduler(given, events);
    }
  } catch (error) {
    member.fail(error);
    throw error;
  } finally {
    await member.close();
  }
}

/** Requests of keys and micro-batches alone are held to the stated link. */
function shape(transport: Transport, { job, settings: { link } }: PsJob): ShapedTransport | undefined {
  const protocols = [keysProtocol(job), BATCHES_PROTOCOL];
  return link === null ? undefined : shapedTransport(transport, { ...parseLink(link), protocols });
}
