/**
 * @file One process of a parameter server: the manager, a server, a data server, a worker or the task scheduler. The manager opens the folder and
 * brings the job; the others get it from there. Each answers at a local control socket.
 */
import { realpathSync } from "node:fs";
import { randomBytes } from "node:crypto";
import {
  joinParameterServer,
  type Live,
  manageParameterServer,
  type PsJob,
  type PsRole,
  ServedJobs,
} from "../../baseline-ps/index.ts";
import { parseMemoryLimit } from "../config/emulation.ts";
import type { Settings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { createLibp2pTransport } from "../net/libp2p.ts";
import type { Transport } from "../net/transport.ts";
import { nowMs } from "../runtime/clock.ts";
import { checkSameData, loadJobData } from "../runtime/job-data.ts";
import { controlSocket, entryFor, serveControl, type ControlRequest } from "../runtime/process-control.ts";
import { describeEnvironment } from "../runtime/process-environment.ts";
import { openLog, type Logger } from "../runtime/process-log.ts";
import { watchMemory } from "../runtime/process-memory.ts";
import { InterruptedError, NodeLostError } from "../types/errors.ts";
import { tellError, type ToldError } from "./failure.ts";
import { openRun } from "./open-run.ts";
import { notDurableText } from "./progress.ts";
import { GuestRuns } from "./ps-guests.ts";
import { namesOf, nodeOf, SCHEDULER } from "./ps-processes.ts";
import type { NodeEvent } from "./run-node.ts";

export interface PsProcessInit {
  readonly system: "ps";
  readonly settings: Settings;
  readonly out: string;
  readonly role:
    | { readonly kind: "manager"; readonly force: boolean; readonly resume: boolean }
    | {
        readonly kind: "member";
        readonly members: readonly PsRole[];
        readonly manager: readonly string[];
        /** To a run that trains already. */
        readonly joins?: boolean;
      };
}

const LISTEN = ["/ip4/127.0.0.1/tcp/0"];

export class PsProcess {
  readonly #init: PsProcessInit;
  readonly #emit: (event: NodeEvent) => void;
  readonly #outgrown = Promise.withResolvers<never>();
  readonly #stopped = Promise.withResolvers<never>();
  #stop: (() => void) | undefined;
  #member: Parameters<NonNullable<Parameters<typeof joinParameterServer>[0]["onJob"]>>[2] | undefined;
  #log: Logger | undefined;
  #transport: Transport | undefined;
  #control: { close(): void } | undefined;
  /** Of a server. */
  #guests: GuestRuns | undefined;
  #step = 0;
  #loss: number | null = null;

  constructor(init: PsProcessInit, emit: (event: NodeEvent) => void) {
    this.#init = init;
    this.#emit = emit;
    for (const { promise } of [this.#outgrown, this.#stopped]) promise.catch(() => {});
  }

  /** The task scheduler ends the run in order; the others end with it. The manager alone, before anybody trains, ends at once. */
  requestStop(): void {
    if (this.#stop !== undefined) this.#stop();
    else if (this.#init.role.kind === "manager") {
      this.#stopped.reject(new InterruptedError("interrupted before everybody was here", "start it again"));
    }
  }

  /** Asks to go, in order, from a run that can do without it. */
  leave(): void {
    this.#member?.leave();
  }

  async run(): Promise<ToldError | undefined> {
    const { settings, role } = this.#init;
    const { memoryLimit } = settings;
    const unwatch =
      memoryLimit === null ? () => {} : watchMemory(parseMemoryLimit(memoryLimit), (bytes) => this.#outgrow(bytes));
    try {
      const own = await this.#live(
        role.kind === "manager" ? this.#manage(role) : this.#join(role.members, role.manager, role.joins ?? false),
      );
      const others = await this.#live(this.#guests?.close());
      return own ?? others;
    } finally {
      unwatch();
      this.#control?.close();
      await this.#transport?.close();
    }
  }

  async #live(living: Promise<void> | undefined): Promise<ToldError | undefined> {
    try {
      await Promise.race([living, this.#outgrown.promise, this.#stopped.promise]);
      return undefined;
    } catch (error) {
      return this.fail(error);
    }
  }

  fail(error: unknown): ToldError {
    const told = tellError(error, this.#log === undefined ? undefined : `${this.#init.out}/logs`);
    this.#log?.error({ error: told }, told.message);
    this.#emit({ kind: "failed", error: told });
    return told;
  }

  #outgrow(bytes: number): void {
    const mebibytes = Math.ceil(bytes / 2 ** 20);
    this.#outgrown.reject(
      new NodeLostError(
        `${this.#name} takes ${mebibytes} MiB, more than --memory-limit ${this.#init.settings.memoryLimit}`,
        "allow more, use more servers, or let workers hold less (--worker-holds range)",
      ),
    );
  }

  get #name(): string {
    const { role } = this.#init;
    if (role.kind === "manager") return "server manager";
    // Which one it is, it does not know before it has come.
    return role.joins === true ? `joined ${role.members[0]!.kind} ${process.pid}` : namesOf(role.members);
  }

  async #manage({ force, resume }: Extract<PsProcessInit["role"], { kind: "manager" }>): Promise<void> {
    const { settings, out } = this.#init;
    if (!resume) RunFolder.check(out, force);
    const data = await loadJobData(settings);
    this.#transport = await createLibp2pTransport({ listen: LISTEN });
    const warn = (text: string): void => this.#emit({ kind: "warning", text: `warning: ${text}` });
    const { folder, firstStep } = openRun(settings, out, { force, resume }, data, warn);
    this.#open(folder);
    const job = randomBytes(8).toString("hex");
    this.#emit({ kind: "listening", addresses: this.#transport.addresses });
    const summary = await manageParameterServer({
      ...{ job, settings, dataSha256: data.sha256, firstStep, transport: this.#transport, folder },
      onPresent: (present, size) => this.#emit({ kind: "present", present, size }),
      onChanged: (text) => this.#emit({ kind: "warning", text }),
      onLost: (role) => this.#emit({ kind: "warning", text: goneText(role) }),
      onJob: (decided) => {
        // From now on the task scheduler ends the run.
        this.#stop = () => {};
        const environment = { ...describeEnvironment(decided.engine, settings), dataSha256: data.sha256 };
        folder.writeJson(RUN_FILES.environment, environment);
        folder.writeJson(RUN_FILES.job, {
          ...{ job, name: settings.name, control: controlSocket(job, "NODE") },
          manager: this.#transport!.addresses,
        });
        void this.#serve(decided, folder);
        this.#emit({ kind: "formed", node: this.#node, job, steps: settings.steps, estimate: null });
      },
    });
    this.#emit({ kind: "done", summary });
  }

  async #join(roles: readonly PsRole[], manager: readonly string[], joins: boolean): Promise<void> {
    const { settings, out } = this.#init;
    const folder = this.#open(new RunFolder(out));
    const transport = await createLibp2pTransport({ listen: LISTEN });
    this.#transport = transport;
    const served = new ServedJobs();
    const server = roles.find(({ kind }) => kind === "server");
    if (server !== undefined) {
      this.#guests = new GuestRuns({
        ...{ role: server, transport, served, log: this.#log },
        answerFor: (job, guest, live) => this.#answerFor(job, guest, nodeOf(server, job.settings), live),
        onChanged: (outs) => this.#emit({ kind: "hosts", outs }),
      });
    }
    await joinParameterServer({
      ...{ roles, manager, transport, engine: settings.engine, folder, served, joins },
      onSummary: (summary) => this.#emit({ kind: "done", summary }),
      onLost: (role) => this.#emit({ kind: "warning", text: goneText(role) }),
      onJob: (job, live, member) => {
        this.#member = member;
        const holds = roles.some(({ kind }) => kind === "worker" || kind === "server");
        void this.#serve(job, folder, holds ? live : undefined);
      },
      data: async () => {
        const data = await loadJobData(settings);
        checkSameData(folder, data, this.#name);
        return data;
      },
      events: {
        onReady: (tasks) => (this.#stop = () => tasks.requestStop()),
        onCommitted: (step, loss) => {
          [this.#step, this.#loss] = [step + 1, loss];
          this.#emit({ kind: "committed", step, loss });
        },
        onNotDurable: (step, reason) => this.#emit({ kind: "warning", text: notDurableText(step, reason) }),
      },
    });
    this.#emit({ kind: "left" });
  }

  #open(folder: RunFolder): RunFolder {
    this.#log = openLog(folder.file("logs", `${this.#name.replaceAll(" ", "-")}.log`));
    this.#log.info({ pid: process.pid }, "starts");
    return folder;
  }

  get #node(): number {
    const { role, settings } = this.#init;
    if (role.kind === "manager") return nodeOf(SCHEDULER, settings) + 1;
    return nodeOf(this.#member?.role ?? role.members[0]!, settings);
  }

  async #serve(job: PsJob, folder: RunFolder, live?: () => Live): Promise<void> {
    this.#control = await this.#answerFor(job, folder, this.#node, live);
  }

  /** Undefined where there can be no socket, which is told. */
  async #answerFor(
    job: PsJob,
    folder: RunFolder,
    node: number,
    live: (() => Live) | undefined,
  ): Promise<{ close(): void } | undefined> {
    const { settings } = job;
    try {
      const out = realpathSync(folder.path);
      const fields = { job: job.job, name: settings.name, system: "ps", node, startedMs: nowMs(), out };
      return await serveControl(entryFor(fields), (request) => this.#answer(request, job, node, live));
    } catch (error) {
      this.#emit({ kind: "warning", text: `no control socket: ${String(error)}` });
      return undefined;
    }
  }

  #answer(request: ControlRequest, job: PsJob, node: number, live: (() => Live) | undefined): unknown {
    if (request === "stop") {
      this.requestStop();
      return { isDone: true };
    }
    if (request.startsWith("host ") && this.#guests !== undefined)
      return this.#guests.take(request.slice("host ".length));
    if (request === "leave" && this.#member !== undefined && job.settings.serverReplicas > 0) {
      this.leave();
      return { isDone: true };
    }
    if (request !== "status") return { isDone: false, reason: "not in this version for a parameter server" };
    const byNode = Map.groupBy(job.members, ({ role }) => nodeOf(role, job.settings));
    const members = [...byNode].map(([number, roles]) => {
      const [{ peerId, addresses }] = [roles[0]!];
      return { node: number, peerId, addresses, layers: [], role: roles.map(({ role }) => role.kind).join("+") };
    });
    return {
      ...{
        job: job.job,
        system: "ps",
        view: this.#member?.view?.number ?? 0,
        step: this.#step,
        steps: job.settings.steps,
        node,
      },
      ...{
        pid: process.pid,
        replicas: job.settings.serverReplicas,
        state: "training",
        loss: this.#loss,
        idlePercent: 0,
        ...live?.(),
      },
      members,
    };
  }
}

const goneText = (role: string): string => `${role} is gone: the run goes on without it`;
