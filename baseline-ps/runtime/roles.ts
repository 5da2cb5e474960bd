/** @file What each kind of process does with a job, from its start to its report: a server, a worker, the task scheduler. */
import { parsePace } from "../../src/config/emulation.ts";
import { parseTimeline } from "../../src/config/settings.ts";
import type { DataSet } from "../../src/data/dataset.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { Timeline } from "../../src/metrics/timeline.ts";
import { type ModelSpec, parseModel } from "../../src/nn/spec.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import { GOODBYE_LIMIT_MS } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { chooseEngines } from "../../src/runtime/engines.ts";
import { Feeder } from "../../src/runtime/feeder.ts";
import { LayerwiseCompute } from "../../src/runtime/layerwise.ts";
import { defined } from "../../src/types/assert.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import { type Consistency, rulesOf } from "../core/consistency.ts";
import type { Place } from "../core/chain.ts";
import { placeIn, type ShardChain } from "../core/placement.ts";
import { sizeOf } from "../core/ranges.ts";
import type { NodeAccount } from "./account.ts";
import { BATCHES_PROTOCOL } from "./batch-frames.ts";
import { type Batches, loadedBatches, ServedBatches } from "./batches.ts";
import { fillStore, saveKeys } from "./checkpoint-files.ts";
import { DataServer } from "./data-server.ts";
import { KeyClient } from "./key-client.ts";
import { keysProtocol } from "./key-frames.ts";
import { KeyMemory } from "./key-memory.ts";
import { KeyServer } from "./key-server.ts";
import { layerKeys } from "./layer-keys.ts";
import type { Member } from "./member.ts";
import { type PsJob, type PsRole, STANDBY_PROTOCOL, TASKS_PROTOCOL } from "./messages.ts";
import { stepMsMedian } from "./ps-summary.ts";
import type { ServedJobs } from "./served-jobs.ts";
import { chainProtocol, ShardPeers } from "./shard-peers.ts";
import { firstMap, firstPlacement, mapOf } from "./surviving-group.ts";
import { ServerFunctions } from "./server-functions.ts";
import { ShareHistory } from "./share-history.ts";
import { TaskLine } from "./task-line.ts";
import { TaskServer } from "./tasks.ts";
import { PsWorker } from "./worker.ts";

/** What a role is given. */
export interface RoleInit {
  readonly job: PsJob;
  readonly index: number;
  /** Shaped as the job says. */
  readonly transport: Transport;
  /** How well the shape is kept; null without one. */
  readonly lateness: () => Lateness | null;
  readonly member: Member;
  readonly folder: RunFolder;
  /** The process's, whatever its roles. */
  readonly account: NodeAccount;
}

/** How long a worker waits for those who have the keys of a server that is gone. */
const VIEW_LIMIT_MS = 30_000;

/** A server in a worker's process computes within the worker's steps. */
const WORKER_COUNTS_STEPS = { stepStarted: () => {}, stepEnded: () => {} };

export function consistencyOf({ settings }: PsJob): Consistency {
  const { consistency: kind, tau } = settings;
  return { kind, tau: kind === "async" ? Infinity : (tau ?? 0) };
}

function engineOf({ engine, settings }: PsJob): EngineKind {
  const { ids, kinds } = chooseEngines(settings.engine);
  return defined(kinds[ids.indexOf(engine)], "the job's engine is one that this process offered");
}

function addressesOf({ members }: PsJob, wanted: PsRole): readonly string[] {
  return members.find(({ role }) => role.kind === wanted.kind && role.index === wanted.index)!.addresses;
}

/** Serves its shard of the job's keys until nobody trains any more; other jobs' keys may lie beside them in this process. */
export async function runServer(init: RoleInit, served: ServedJobs): Promise<void> {
  const { job, index, transport, member, folder, account } = init;
  const { settings, firstStep } = job;
  const consistency = consistencyOf(job);
  const map = firstMap(job);
  const memory = new KeyMemory(engineOf(job));
  const isSurvivor = settings.serverReplicas > 0;
  const functions = new ServerFunctions();
  const { optimizer, lr: rate, nodes: workers, coLocate } = settings;
  const { clockwork } = account;
  const inserted: typeof clockwork.inserted = (interval) => clockwork.inserted(interval);
  const rules = rulesOf(consistency.kind);
  const failed = Promise.withResolvers<never>();
  const node = coLocate ? index : workers + index;
  const timeline = new Timeline(folder, () => node, parseTimeline(settings.timeline));
  let server: KeyServer | undefined;
  const peers = isSurvivor ? chainPeers(init, memory, () => server) : undefined;
  server = new KeyServer({
    ...{ job: job.job, server: index, map, clients: workers, peerId: transport.peerId, timeline },
    ...{ memory, functions, function: optimizer, rate },
    ...(peers === undefined ? {} : { peers, places: placesIn(firstPlacement(job).chains, index) }),
    keepsBefore: isSurvivor && consistency.kind === "bsp",
    fill: (store, range) => fillStore(job, store, range, folder),
    clockwork: coLocate ? { ...WORKER_COUNTS_STEPS, inserted } : clockwork,
    shard: { firstStep, shares: workers, rules, tau: consistency.tau },
    onFailure: (_, error) => {
      // Who is gone is the manager's to say.
      if (!isSurvivor || !(error instanceof NodeLostError)) failed.reject(error);
    },
  });
  followViews(init, () => server);
  const accept = async (stream: ByteStream): Promise<void> =>
    server === undefined ? stream.abort(new Error(`job ${job.job} is over`)) : server.accept(stream);
  if (peers !== undefined) {
    await transport.handle(chainProtocol(job.job), (stream) => void peers.accept(stream).catch(() => {}));
  }
  await listen(init, keysProtocol(job.job), accept);
  try {
    await Promise.race([member.finish, member.failed, member.free, failed.promise]);
    const facts = {
      role: "server",
      layers: [],
      parameters: sizeOf(server.keys),
      neighbours: coLocate ? workers - 1 : workers,
    };
    const report = account.report({
      ...{
        node,
        peerId: transport.peerId,
        counters: sumOf(server.counters, peers?.counters),
        pace: null,
        link: init.lateness(),
      },
      ...{ ...facts, layerDigests: {}, initialLayerDigests: {} },
    });
    member.report({ report, run: null, sharedWith: served.metBy(job.job) });
    await Promise.race([member.over(), member.failed, member.free]);
    await server.close(GOODBYE_LIMIT_MS);
    await peers?.close();
  } finally {
    timeline.flush();
    // The protocol outlives the job where the process serves others; the values need not.
    server = undefined;
  }
}

function followViews({ job, index, member }: RoleInit, server: () => KeyServer | undefined): void {
  const map = firstMap(job);
  let living: readonly number[] = Array.from({ length: job.settings.nodes }, (_, worker) => worker);
  member.onView((view) => {
    const epoch = Math.max(...view.chains.map((chain) => chain.epoch));
    server()?.adopt(view.number, mapOf(map, view), placesIn(view.chains, index), epoch);
    for (const worker of living) if (!view.workers.includes(worker)) server()?.forget(worker);
    living = view.workers;
  });
}

type Traffic = KeyServer["counters"];

function sumOf(one: Traffic, other: Traffic = { bytesSent: 0, bytesReceived: 0, messagesSent: 0 }): Traffic {
  return {
    bytesSent: one.bytesSent + other.bytesSent,
    bytesReceived: one.bytesReceived + other.bytesReceived,
    messagesSent: one.messagesSent + other.messagesSent,
  };
}

/** Where one server is in the chains of shards. */
function placesIn(chains: readonly ShardChain[], server: number): ReadonlyMap<number, Place> {
  const places = chains.map((chain, shard): [number, Place | undefined] => [shard, placeIn(chain, server)]);
  return new Map(places.filter((entry): entry is [number, Place] => entry[1] !== undefined));
}

function chainPeers(
  { job, index, transport, member }: RoleInit,
  memory: KeyMemory,
  server: () => KeyServer | undefined,
): ShardPeers {
  return new ShardPeers({
    ...{ job: job.job, server: index, shards: firstMap(job).shards, memory, transport },
    addressesOf: (other) => member.addressesOf(job, { kind: "server", index: other }),
    onMessage: (shard, message) => server()?.hear(shard, message),
    onInstalled: (shard, epoch) => member.copied(shard, epoch),
  });
}

/** Trains until the scheduler has no more tasks. */
export async function runWorker(init: RoleInit, data: () => Promise<DataSet>): Promise<void> {
  const { job, index, transport, member, folder, account } = init;
  const { settings } = job;
  const { batch, microBatches, seed, nodes, pace, workerHolds } = settings;
  const loaded = settings.dataServers === 0 ? loadedBatches(new Feeder(await data(), settings)) : undefined;
  const model = parseModel(settings.model);
  const compute = await LayerwiseCompute.start({
    ...{ model: settings.model, rows: batch / microBatches, batch, seed, engine: engineOf(job) },
    held: workerHolds === "model" ? "all" : "pool",
    ...(pace === null ? {} : { pace: parsePace(pace, nodes)[index]! }),
  });
  await Promise.race([member.begin, member.failed]);
  const isServerHere = settings.coLocate && index < settings.servers;
  const timeline = new Timeline(folder, () => index, parseTimeline(settings.timeline));
  const client = await connectKeys(init);
  const batches = loaded ?? (await servedBatches(init, model));
  const tasks = await openTasks(init);
  member.working();
  const worker = new PsWorker({
    ...{ settings, consistency: consistencyOf(job), overlaps: settings.overlap === "on", compute, client, tasks },
    ...{
      keys: layerKeys(model),
      batches,
      clockwork: account.clockwork,
    },
    timeline,
    save: (step) => saveKeys(job, client, folder, step),
  });
  account.lag = () => worker.lag;
  try {
    await Promise.race([worker.train(), member.failed, member.free]);
    const report = account.report({
      ...{
        node: index,
        peerId: transport.peerId,
        role: "worker",
        counters: client.counters,
        pace: compute.pace,
        link: init.lateness(),
      },
      ...{ layers: [[0, model.layers.length]], parameters: heldParameters(model, workerHolds) },
      ...{ neighbours: isServerHere ? settings.servers - 1 : settings.servers, layerDigests: {} },
      initialLayerDigests: {},
    });
    member.report({ report, values: client.values, dataBytesSent: batches.bytesSent, run: null });
    await tasks.close();
    await batches.close();
    await client.close();
    await Promise.race([member.over(), member.failed, member.free]);
  } finally {
    timeline.flush();
    await compute.stop();
  }
}

function openTasks({ job, index, transport, member }: RoleInit): Promise<TaskLine> {
  const kinds = job.settings.serverReplicas > 0 ? (["scheduler", "standby"] as const) : (["scheduler"] as const);
  const schedulers = kinds.map((kind) => addressesOf(job, { kind, index: 0 }));
  return TaskLine.open({
    transport,
    schedulers,
    job: job.job,
    worker: index,
    isFirstGone: member.view?.standsIn ?? false,
  });
}

/** The worker's client, which hears who has what from now on. A worker that has come since finds the keys where they are now. */
async function connectKeys({ job, index, transport, member }: RoleInit): Promise<KeyClient> {
  const first = firstMap(job);
  const { view: newest } = member;
  const map = newest === undefined ? first : mapOf(first, newest);
  const addressesOfServer = (server: number): readonly string[] =>
    member.addressesOf(job, { kind: "server", index: server });
  const servers = Array.from({ length: Math.max(...map.heads) + 1 }, (_, server) =>
    map.heads.includes(server) ? addressesOfServer(server) : [],
  );
  const client = await KeyClient.connect({
    ...{ job: job.job, client: index, map, view: newest?.number ?? 0, servers, transport, nowMs },
    ...(job.settings.serverReplicas === 0 ? {} : { survival: { limitMs: VIEW_LIMIT_MS } }),
  });
  member.onView((view) => {
    // A worker that goes has no part in it.
    if (view.workers.includes(index)) void client.adopt(view.number, mapOf(first, view), addressesOfServer);
  });
  return client;
}

function servedBatches({ job, index, transport }: RoleInit, { features }: ModelSpec): Promise<Batches> {
  const { dataServers, batch, microBatches } = job.settings;
  const servers = Array.from({ length: dataServers }, (_, server) => addressesOf(job, { kind: "data", index: server }));
  return ServedBatches.connect({
    ...{ job: job.job, worker: index, servers, transport, rows: batch / microBatches, features },
  });
}

/** Serves micro-batches until nobody trains any more. */
export async function runDataServer(init: RoleInit, data: DataSet): Promise<void> {
  const { job, index, member } = init;
  const { dataServers, nodes: workers, microBatches } = job.settings;
  const feeder = new Feeder(data, job.settings);
  const server = new DataServer({ job: job.job, index, dataServers, workers, microBatches, feeder });
  await listen(init, BATCHES_PROTOCOL, (stream) => server.accept(stream));
  await Promise.race([member.finish, member.failed]);
  member.report({ report: null, dataBytesSent: server.bytesSent, run: null });
  await Promise.race([member.over(), member.failed]);
  await server.close(GOODBYE_LIMIT_MS);
}

/** Gives tasks, and writes what was committed. */
export async function runScheduler(init: RoleInit, events: SchedulerEvents): Promise<void> {
  const { job, member, transport } = init;
  const part = job.settings.serverReplicas > 0 ? "scheduler" : "alone";
  const { tasks, end } = taskServer(init, events, part);
  if (part === "scheduler") {
    await transport.handle(STANDBY_PROTOCOL, (stream) => void tasks.acceptStandby(stream).catch(() => {}));
  }
  await listen(init, TASKS_PROTOCOL, (stream) => tasks.accept(stream));
  events.onReady(tasks);
  await Promise.race([tasks.ended, tasks.deposed, member.failed]);
  await end();
}

/** Hears what the scheduler hears, and is the scheduler where that is gone. */
export async function runStandby(init: RoleInit, events: SchedulerEvents): Promise<void> {
  const { job, member, transport } = init;
  const { tasks, end } = taskServer(init, events, "standby");
  await transport.handle(TASKS_PROTOCOL, (stream) => void tasks.accept(stream).catch(() => {}));
  await soonReached(() => tasks.follow(transport, addressesOf(job, { kind: "scheduler", index: 0 })));
  member.ready();
  events.onReady(tasks);
  await Promise.race([tasks.released, tasks.ended, member.failed]);
  // All have been told by the scheduler that the run is over: it reports, or it is gone.
  if (!tasks.isActive) await Promise.race([tasks.released, tasks.tookOver, member.failed]);
  if (tasks.isActive) return end();
  member.report({ report: null, run: null });
  await Promise.race([member.over(), member.failed]);
}

function taskServer(
  { job, member, folder }: RoleInit,
  events: SchedulerEvents,
  part: "alone" | "scheduler" | "standby",
): { readonly tasks: TaskServer; readonly end: () => Promise<void> } {
  const { settings, firstStep } = job;
  const { nodes: workers, steps, microBatches, batch, validateEvery, checkpointEvery, stopAtLoss } = settings;
  const earlier = folder.readMetrics().slice(0, firstStep);
  const startedMs = nowMs() - (earlier.at(-1)?.elapsedMs ?? 0);
  const recorder = new Recorder({ folder, batch, earlier, startedMs, onFault: events.onNotDurable });
  recorder.write(part !== "standby");
  const { assignment } = rulesOf(settings.consistency);
  const history = new ShareHistory(folder, firstStep, events.onNotDurable);
  const tasks = new TaskServer({
    ...{ job: job.job, recorder, history, part, ...events },
    scheduler: {
      ...{ workers, assignment, firstStep, steps, microBatches, batch, stopAtLoss },
      ...{ evaluateEvery: validateEvery, saveEvery: checkpointEvery },
    },
  });
  member.onView(({ workers: living, standsIn }) => {
    if (standsIn && part === "standby") tasks.takeOver();
    tasks.living(living);
  });
  const end = async (): Promise<void> => {
    recorder.finish();
    history.flush();
    const { testAccuracy, layerDigests } = tasks;
    const stepMs = stepMsMedian(recorder.lines.slice(firstStep));
    const run = { losses: recorder.losses, stepMs, lags: history.lags, testAccuracy, layerDigests };
    member.report({ report: null, run });
    await tasks.close();
    await Promise.race([member.over(), member.failed]);
  };
  return { tasks, end };
}

/** Who is to be reached may not listen yet. */
async function soonReached(reach: () => Promise<void>): Promise<void> {
  for (let left = REACH_TRIES; ; left -= 1) {
    try {
      return await reach();
    } catch (error) {
      if (left === 0) throw error;
      await new Promise((go) => setTimeout(go, REACH_INTERVAL_MS));
    }
  }
}

const REACH_TRIES = 100;
const REACH_INTERVAL_MS = 100;

export interface SchedulerEvents {
  readonly onReady: (tasks: Pick<TaskServer, "requestStop">) => void;
  readonly onCommitted: (step: number, loss: number) => void;
  readonly onNotDurable: (step: number, reason: string) => void;
}

/** Whoever dialled hears of what goes wrong. */
async function listen(
  { transport, member }: RoleInit,
  protocol: string,
  accept: (stream: ByteStream) => Promise<unknown>,
): Promise<void> {
  await transport.handle(protocol, (stream) => {
    accept(stream).catch(() => {});
  });
  member.ready();
}

export function heldParameters({ layers, parameters }: ModelSpec, holds: "model" | "range"): number {
  if (holds === "model") return parameters;
  const largest = Math.max(...layers.map(({ inputs, outputs }) => (inputs + 1) * outputs));
  return Math.min(parameters, 2 * largest);
}
