/**
 * @file One node's life in this process: folder, transport, formation, training, local control socket, log. Founders bring the
 * job and the data; joiners get the job from the ring.
 */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import {
  joinRing,
  ownedBy,
  type Job,
  type Ring,
  type RingRole,
  type RingView,
  type RunOutcome,
} from "../../ring/index.ts";
import type { Settings } from "../config/settings.ts";
import type { DataSet } from "../data/dataset.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { createLibp2pTransport } from "../net/libp2p.ts";
import { severable, type SeverableTransport } from "../net/severable.ts";
import { nowMs } from "../runtime/clock.ts";
import { loadJobData } from "../runtime/job-data.ts";
import { controlSocket, entryFor, serveControl, type ControlRequest, type Obeyed } from "../runtime/process-control.ts";
import { describeEnvironment } from "../runtime/process-environment.ts";
import { openLog, type Logger } from "../runtime/process-log.ts";
import { StateFolder } from "../runtime/state-folder.ts";
import { defined } from "../types/assert.ts";
import { DataError, InterruptedError } from "../types/errors.ts";
import { estimateRun, type RunEstimate } from "./estimate.ts";
import { tellError, type ToldError } from "./failure.ts";
import { openRun } from "./open-run.ts";
import { notDurableText } from "./progress.ts";

const PAUSE_LOOK_MS = 1_000;

export interface NodeProcessInit {
  readonly role:
    | { readonly kind: "founder"; readonly settings: Settings; readonly force: boolean; readonly resume: boolean }
    | {
        readonly kind: "joiner";
        readonly address: string;
        readonly expected: Readonly<Record<string, string | number | boolean | null>>;
        /** Null: the folder is there already, made by the founder on this machine. */
        readonly force: boolean | null;
      };
  readonly out: string;
  /** Who this node is, over restarts. */
  readonly state: string;
  readonly listen: readonly string[];
  readonly wish: number | null;
  readonly invite: string | null;
}

/** What a node tells whoever started it. */
export type NodeEvent =
  | { readonly kind: "listening"; readonly addresses: readonly string[] }
  | { readonly kind: "present"; readonly present: number; readonly size: number }
  | {
      readonly kind: "formed";
      readonly node: number;
      readonly job: string;
      readonly steps: number;
      readonly estimate: RunEstimate | null;
    }
  | { readonly kind: "committed"; readonly step: number; readonly loss: number }
  /** This node knows of another view: who is in it, who is not any more, the step that it begins with. */
  | {
      readonly kind: "viewed";
      readonly view: number;
      readonly members: readonly number[];
      readonly removed: RingView["removed"];
      readonly restoreStep: number;
    }
  /** Folders of other runs that this server's process serves now. */
  | { readonly kind: "hosts"; readonly outs: readonly string[] }
  /** A line that the user must see. */
  | { readonly kind: "warning"; readonly text: string }
  | { readonly kind: "done"; readonly summary: Record<string, unknown> }
  /** In order, before the end of the run. */
  | { readonly kind: "left" }
  | { readonly kind: "failed"; readonly error: ToldError };

export class NodeProcess {
  readonly #init: NodeProcessInit;
  readonly #emit: (event: NodeEvent) => void;
  readonly #stopped = Promise.withResolvers<never>();
  #folder: RunFolder | undefined;
  #log: Logger | undefined;
  #ring: Ring | undefined;
  #transport: SeverableTransport | undefined;
  #control: { close(): void } | undefined;
  #state: StateFolder | undefined;
  #isFormed = false;
  #pauseTimer: NodeJS.Timeout | undefined;
  #pause: { readonly waitsFor: string | null; readonly isTold: boolean } = { waitsFor: null, isTold: false };
  /** Nodes that this one saw leave in order. */
  readonly #left = new Set<number>();

  constructor(init: NodeProcessInit, emit: (event: NodeEvent) => void) {
    this.#init = init;
    this.#emit = emit;
    // Seen by whoever races against it; before that it must not count as unhandled.
    this.#stopped.promise.catch(() => {});
  }

  /** In order where the ring is formed; at once before that. */
  requestStop(): void {
    if (this.#ring === undefined)
      this.#stopped.reject(new InterruptedError("interrupted before the ring was whole", "start it again"));
    else this.#ring.requestStop();
  }

  /** Runs to the end and tells how it ended; never throws. */
  async run(): Promise<ToldError | undefined> {
    try {
      const { summary } = await this.#live();
      this.#log?.info(summary === null ? "left" : "done");
      this.#emit(summary === null ? { kind: "left" } : { kind: "done", summary });
      return undefined;
    } catch (error) {
      return this.fail(error);
    } finally {
      clearInterval(this.#pauseTimer);
      this.#control?.close();
      await this.#transport?.close();
      await this.#state?.close();
    }
  }

  /** Tells the log and whoever started this process; also for an error that nobody awaits. */
  fail(error: unknown): ToldError {
    const told = tellError(error, this.#folder?.file("logs"));
    this.#log?.error({ error: told }, told.message);
    this.#emit({ kind: "failed", error: told });
    return told;
  }

  /** A ring that cannot go on says why, once it has lasted from one look to the next. */
  #lookForPause(): void {
    const waitsFor = this.#ring?.describe()?.recovery?.waitsFor ?? null;
    const pause = { waitsFor, isTold: this.#pause.isTold && this.#pause.waitsFor === waitsFor };
    if (waitsFor !== null && waitsFor === this.#pause.waitsFor && !pause.isTold) {
      this.#warn(`paused: ${waitsFor}`);
      pause.isTold = true;
    }
    this.#pause = pause;
  }

  #warn(text: string): void {
    this.#log?.warn(text);
    this.#emit({ kind: "warning", text });
  }

  async #live(): Promise<RunOutcome> {
    const { listen, wish, invite, out } = this.#init;
    const data = await this.#check();
    const state = (this.#state = await StateFolder.open(this.#init.state));
    this.#transport = severable(await createLibp2pTransport({ listen, privateKeySeed: state.identity.seed }));
    // Only now: a port in use must not cost the run that is to be replaced.
    const role = this.#openRole(data);
    if (role.kind === "founder") await this.#serve(role.job, 0, defined(this.#folder, "a founder has a folder"));
    this.#emit({ kind: "listening", addresses: this.#transport.addresses });
    const joining = joinRing({
      ...{ role, wish, invite, transport: this.#transport, state },
      machine: machineOf(out),
      onPresent: (present, size) => this.#emit({ kind: "present", present, size }),
      onCommitted: (step, loss) => this.#emit({ kind: "committed", step, loss }),
      onNotDurable: (step, reason) => this.#warn(notDurableText(step, reason)),
      onView: (view, node) => this.#viewed(view, node),
    });
    const ring = (this.#ring = await Promise.race([joining, this.#stopped.promise]));
    this.#pauseTimer = setInterval(() => this.#lookForPause(), PAUSE_LOOK_MS).unref();
    // Whoever outlives the others holds the model's begin: without the data here the ring would stop then, and not now.
    if (this.#init.role.kind === "joiner" && this.#init.role.force !== null) await this.#loadData(ring.job);
    return this.#train(ring, this.#folder ?? this.#joinedFolder());
  }

  /** Reads what there is to read, and changes nothing. */
  async #check(): Promise<DataSet | undefined> {
    const { role, out } = this.#init;
    const goesOn = role.kind === "founder" && role.resume;
    if (role.force !== null && !goesOn) RunFolder.check(out, role.force);
    return role.kind === "founder" ? loadJobData(role.settings) : undefined;
  }

  #openRole(data: DataSet | undefined): RingRole {
    const { role, out } = this.#init;
    if (role.kind === "founder") {
      const dataSet = defined(data, "a founder has read its data");
      const { folder, firstStep } = openRun(role.settings, out, role, dataSet, (text) =>
        this.#warn(`warning: ${text}`),
      );
      this.#open(folder);
      return { kind: "founder", data: dataSet, job: newJob(role.settings, dataSet, firstStep) };
    }
    if (role.force === null) this.#open(new RunFolder(out));
    const { address, expected } = role;
    return { kind: "joiner", address, expected, data: (job) => this.#loadData(job) };
  }

  /** On a machine that joined: what the job's settings name must be the same data here. */
  async #loadData({ settings, dataSha256 }: Job): Promise<DataSet> {
    const data = await loadJobData(settings);
    if (data.sha256 === dataSha256) return data;
    throw new DataError(
      `${data.name} on this machine is not the job's data`,
      "copy the data folder of another node here",
    );
  }

  /** The folder of a machine that joined: made when the ring has taken it, so that a refusal replaces nothing. */
  #joinedFolder(): RunFolder {
    return this.#open(RunFolder.create(this.#init.out, this.#init.role.force === true));
  }

  #open(folder: RunFolder): RunFolder {
    this.#folder = folder;
    this.#log = openLog(folder.file("logs", `node-${this.#init.wish ?? `pid-${process.pid}`}.log`));
    this.#log.info({ peerId: this.#transport?.peerId, addresses: this.#transport?.addresses }, "listening");
    return folder;
  }

  #train(ring: Ring, folder: RunFolder): Promise<RunOutcome> {
    this.#log?.info({ node: ring.node, view: ring.view.view, engine: ring.engine }, "the ring is known");
    return ring.train(folder);
  }

  /** Each view: where this node is a member for the first time, it is told and can be asked from now on. */
  #viewed(view: RingView, node: number): void {
    const { job, engine } = defined(this.#ring, "a ring has views");
    const members = view.members.map((member) => member.node);
    this.#log?.info({ view: view.view, node, members }, "view");
    const { removed, restoreStep } = view;
    for (const { node: gone, cause } of removed) if (cause === "left") this.#left.add(gone);
    for (const member of members) this.#left.delete(member);
    this.#emit({ kind: "viewed", view: view.view, members, removed, restoreStep });
    const me = view.members.find((member) => member.node === node);
    if (me === undefined || this.#isFormed) return;
    this.#isFormed = true;
    const folder = defined(this.#folder, "a folder");
    const lowest = view.members.find(({ machine }) => machine === me.machine);
    if (lowest === me) this.#writeJob(job, engine, folder);
    if (view.view > 0 || node !== 0) {
      this.#serve(job, node, folder).catch((error: unknown) => this.#warn(`no control socket: ${String(error)}`));
    }
    const estimate = view.view === 0 && node === 0 ? estimateRun(job, view, this.#ring!) : null;
    this.#emit({ kind: "formed", node, job: job.job, steps: job.settings.steps, estimate });
  }

  #writeJob(job: Job, engine: string, folder: RunFolder): void {
    folder.writeJson(RUN_FILES.config, job.settings);
    const environment = { ...describeEnvironment(engine, job.settings), dataSha256: job.dataSha256 };
    folder.writeJson(RUN_FILES.environment, environment);
    // Each node of this machine answers at a socket of its own, numbered as the nodes are.
    const control = controlSocket(job.job, "NODE");
    folder.writeJson(RUN_FILES.job, { job: job.job, name: job.settings.name, control });
  }

  /** Answers the local control socket from now on; the founder, which is node 0, also while the ring forms. */
  async #serve(job: Job, node: number, folder: RunFolder): Promise<void> {
    const { job: id, settings } = job;
    const out = realpathSync(folder.path);
    const entry = entryFor({ job: id, name: settings.name, system: "ring", node, startedMs: nowMs(), out });
    this.#control = await serveControl(entry, (request) => this.#answer(request, job));
  }

  #answer(request: ControlRequest, job: Job): unknown {
    const [word, peerId = ""] = request.split(" ");
    switch (word as "status" | "stop" | "leave" | "cut" | "mend" | "host") {
      case "status":
        return this.#ring === undefined ? this.#forming(job) : this.#status(this.#ring);
      case "stop":
        this.requestStop();
        return done;
      case "leave":
        return this.#leave();
      case "cut":
        this.#transport?.sever(peerId);
        this.#log?.warn({ peerId }, "cut");
        return done;
      case "mend":
        this.#transport?.mend(peerId);
        this.#log?.warn({ peerId }, "mended");
        return done;
      case "host":
        return { isDone: false, reason: "a ring has no servers" };
    }
  }

  #leave(): Obeyed {
    if (this.#ring === undefined) return { isDone: false, reason: "the ring is not whole yet" };
    // Nobody could take its layers over.
    if (this.#ring.job.settings.replicas === 0) this.requestStop();
    else this.#ring.leave();
    return done;
  }

  #forming(job: Job): unknown {
    const { peerId = "", addresses = [] } = this.#transport ?? {};
    return {
      ...{ job: job.job, system: "ring", view: 0, step: job.firstStep, steps: job.settings.steps, node: 0 },
      ...{ pid: process.pid, state: "joining", loss: null, idlePercent: 0 },
      members: [{ node: 0, peerId, addresses, layers: [] }],
    };
  }

  #status(ring: Ring): unknown {
    const { job, view, node } = ring;
    const described = ring.describe();
    const { losses = [], cut = view.cut, phase = "joining", recovery = null } = described ?? {};
    const members = view.members.map((member) => ({
      ...{ node: member.node, peerId: member.peerId, addresses: member.addresses, machine: member.machine },
      layers: ownedBy({ ...view, cut }, member.node),
    }));
    const departed = view.departed.map((member) => ({
      ...{ node: member.node, peerId: member.peerId, addresses: member.addresses, machine: member.machine },
      ...{ layers: [], gone: this.#left.has(member.node) ? "left" : "dead" },
    }));
    const state = stateOf(phase, recovery);
    const loss = losses.at(-1) ?? null;
    const { steps } = job.settings;
    const { owners, voters, replicas } = view;
    const run = { job: job.job, system: "ring", view: view.view, steps, node, pid: process.pid, state, loss };
    const machine = machineOf(this.#init.out);
    const { losses: _, view: __, node: ___, ...stage } = described ?? { ...notYet(job.firstStep), losses, view, node };
    return { ...stage, ...run, machine, owners, voters, replicas, members: [...members, ...departed] };
  }
}

const done: Obeyed = { isDone: true };

function stateOf(phase: string, recovery: { readonly phase: string; readonly isSealed: boolean } | null): string {
  if (recovery?.phase === "outside") return "joining";
  if (recovery !== null && (recovery.isSealed || recovery.phase !== "running")) return "recovering";
  return phase === "joining" || phase === "created" ? "joining" : "training";
}

function notYet(step: number) {
  return { step, phase: "joining", idlePercent: 0 };
}

function newJob(settings: Settings, data: DataSet, firstStep: number): Job {
  return {
    job: randomBytes(8).toString("hex"),
    settings,
    dataSha256: data.sha256,
    testCount: data.test.count,
    firstStep,
  };
}

/** Nodes that see the same folder on the same boot of the same machine. */
function machineOf(out: string): string {
  const bootFile = "/proc/sys/kernel/random/boot_id";
  const boot = existsSync(bootFile) ? readFileSync(bootFile, "utf8").trim() : "";
  return `${hostname()} ${boot} ${realPath(resolve(out))}`.slice(0, 500);
}

/** Without symbolic links, also where the last parts are yet to be made. */
function realPath(path: string): string {
  return existsSync(path) ? realpathSync(path) : join(realPath(dirname(path)), basename(path));
}
