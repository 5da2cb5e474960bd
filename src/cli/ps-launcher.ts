/**
 * @file Starts the processes of a parameter server on this machine and watches them: first the manager, which says where it listens, then the
 * others. A process that dies ends the run, by its name.
 */
import { join, resolve } from "node:path";
import { ExitCode, InterruptedError, NodeLostError } from "../types/errors.ts";
import { isRunning, type NodeEntry } from "../runtime/process-control.ts";
import { tellError, ToldFailure, type ToldError } from "./failure.ts";
import { startProcess, type LocalProcess, type ProcessEnd } from "./local-process.ts";
import type { Progress } from "./progress.ts";
import type { PsProcessInit } from "./ps-process.ts";
import { namesOf, processesOf } from "./ps-processes.ts";
import type { NodeEvent } from "./run-node.ts";
import type { RunRequest, RunResult } from "./run-request.ts";
import { askServersOf } from "./servers-of.ts";

/** How long the others may take to end after the run has failed. */
const END_LIMIT_MS = 5_000;
/** Between two looks at servers that are another run's, until they are here. */
const LOOK_INTERVAL_MS = 500;

interface Child {
  readonly name: string;
  readonly process: LocalProcess;
  readonly exited: Promise<void>;
  end: ProcessEnd | undefined;
  /** The run may go on without it: that is the manager's to say. */
  readonly isSpare: boolean;
  /** Folders of other runs that it serves, which it outlives this one for. */
  hosts: readonly string[];
}

export function launchParameterServer(request: RunRequest, progress: Progress): Promise<RunResult> {
  return new PsLauncher(request, progress).run();
}

class PsLauncher {
  readonly #request: RunRequest;
  readonly #progress: Progress;
  readonly #children: Child[] = [];
  readonly #failures: ToldError[] = [];
  #summary: Record<string, unknown> | undefined;
  #firstDead: Child | undefined;
  #hasJob = false;
  #interrupts = 0;
  #look: NodeJS.Timeout | undefined;

  constructor(request: RunRequest, progress: Progress) {
    this.#request = request;
    this.#progress = progress;
  }

  async run(): Promise<RunResult> {
    const onSignal = (): void => this.#interrupt();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, onSignal);
    try {
      const { force, resume } = this.#request;
      this.#start("server manager", { kind: "manager", force, resume });
      // The list grows when the manager says where it listens.
      for (let index = 0; index < this.#children.length; index += 1) await this.#children[index]!.exited;
      return this.#result();
    } finally {
      clearInterval(this.#look);
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, onSignal);
      for (const child of this.#children) if (child.end === undefined) child.process.kill("SIGKILL");
    }
  }

  #start(name: string, role: PsProcessInit["role"]): void {
    const { settings, out } = this.#request;
    const exited = Promise.withResolvers<void>();
    const init: PsProcessInit = { system: "ps", settings, out, role };
    const child: Child = {
      name,
      process: startProcess(
        { kind: "init", init, orphans: settings.orphans },
        {
          heard: (event) => this.#hear(event, child),
          ended: (end) => {
            child.end = end;
            if (end.kind !== "exited" || end.code !== ExitCode.done) this.#died(child);
            exited.resolve();
          },
        },
      ),
      exited: exited.promise,
      end: undefined,
      isSpare:
        settings.serverReplicas > 0 && (role.kind === "manager" || role.members.every(({ kind }) => kind !== "data")),
      hosts: [],
    };
    this.#children.push(child);
  }

  #startMembers(manager: readonly string[]): void {
    const { settings, serversOf } = this.#request;
    for (const members of processesOf(settings, serversOf === null)) {
      this.#start(namesOf(members), { kind: "member", members, manager });
    }
    if (serversOf !== null) void this.#borrow(serversOf, manager);
  }

  /** The servers of another run; one that dies before it comes is no child that could be missed. */
  async #borrow(run: string, manager: readonly string[]): Promise<void> {
    const { settings, out } = this.#request;
    try {
      const servers = await askServersOf(run, settings.servers, { manager, out: resolve(out) });
      if (!this.#hasJob) this.#look = setInterval(() => this.#lookFor(servers), LOOK_INTERVAL_MS);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #lookFor(servers: readonly NodeEntry[]): void {
    if (!servers.every(isRunning)) this.#giveUp(new NodeLostError("a server is gone before it came", "start it again"));
  }

  #giveUp(error: unknown): void {
    clearInterval(this.#look);
    this.#failures.push(tellError(error, undefined));
    for (const child of this.#children) child.process.kill("SIGTERM");
  }

  #hear(event: NodeEvent, child: Child): void {
    const { settings, out } = this.#request;
    switch (event.kind) {
      case "listening":
        return this.#startMembers(event.addresses);
      case "present":
        return this.#progress.waiting(`${event.present} of ${event.size} processes are here`);
      case "formed": {
        this.#hasJob = true;
        clearInterval(this.#look);
        const { nodes, servers, dataServers } = settings;
        const data = dataServers === 0 ? "" : `, ${dataServers} data ${dataServers === 1 ? "server" : "servers"}`;
        const what = `${nodes} workers, ${servers} ${servers === 1 ? "server" : "servers"}${data}`;
        const where = `results in ${out}, logs in ${join(out, "logs")}`;
        return this.#progress.say(`parameter server: ${what}, ${settings.consistency}, job ${event.job}; ${where}`);
      }
      case "committed":
        return this.#progress.step(event.step, settings.steps, event.loss);
      case "warning":
        return this.#progress.say(event.text);
      case "done":
        this.#summary = event.summary;
        return this.#sayHosted("done");
      case "hosts":
        child.hosts = event.outs;
        return;
      case "failed":
        // What ends a run that survives its processes, the manager knows best.
        if (child === this.#children[0]) this.#failures.unshift(event.error);
        else this.#failures.push(event.error);
        return;
      case "viewed":
      case "left":
        return;
    }
  }

  /** The manager tells the others; who has not ended a little later is ended. */
  #died(child: Child): void {
    if (this.#hasJob && child.isSpare) {
      const how = child.end?.kind === "exited" ? (child.end.signal ?? `exit code ${child.end.code}`) : "not started";
      return this.#progress.say(`${child.name} ended (${how})`);
    }
    if (this.#firstDead === undefined) this.#sayHosted(`${child.name} ended`);
    this.#firstDead ??= child;
    const isAlone = !this.#hasJob;
    for (const other of this.#children) {
      if (other.end !== undefined) continue;
      if (isAlone) other.process.kill("SIGTERM");
      setTimeout(() => this.#end(other), END_LIMIT_MS).unref();
    }
  }

  #end(child: Child): void {
    if (child.end === undefined && child.hosts.length === 0) child.process.kill("SIGKILL");
  }

  /** Servers stay until all that they serve has ended. */
  #sayHosted(why: string): void {
    const outs = new Set(this.#children.flatMap(({ hosts }) => hosts));
    if (outs.size === 0) return;
    this.#progress.say(
      `${why}: the servers stay until ${[...outs].join(" and ")} has ended too (Ctrl-C ends both now)`,
    );
  }

  #interrupt(): void {
    this.#interrupts += 1;
    const isOver = this.#summary !== undefined || this.#firstDead !== undefined;
    if (this.#interrupts > 1 || !this.#hasJob || isOver) {
      for (const child of this.#children) child.process.kill("SIGKILL");
      process.exit(ExitCode.interrupted);
    }
    this.#progress.say("interrupted: finishing the step and writing the results (once more ends at once)");
    for (const { process: child } of this.#children) if (child.connected) child.send({ kind: "stop" });
  }

  #result(): RunResult {
    const isSurvived = this.#request.settings.serverReplicas > 0;
    if (this.#summary !== undefined && (isSurvived || this.#failures.length === 0)) {
      return { summary: this.#summary, interrupted: this.#interrupts > 0 };
    }
    this.#progress.end();
    const told = this.#failures.filter(({ name }) => name !== InterruptedError.name);
    const dead = this.#firstDead;
    const isKilled = dead !== undefined && (isUntold(dead.end) || told.length === 0);
    const unexpected = told.find(({ exitCode }) => exitCode === ExitCode.unexpected);
    const cause = unexpected ?? (isKilled ? undefined : told[0]);
    if (cause !== undefined) throw new ToldFailure(cause);
    const how = dead?.end?.kind === "exited" ? (dead.end.signal ?? `exit code ${dead.end.code}`) : dead?.end?.reason;
    const { out } = this.#request;
    throw new NodeLostError(
      `${dead?.name ?? "a process"} ended (${how}) before the run was done`,
      `see ${join(out, "logs")}; start the run again, or go on with --resume ${out} where it has a checkpoint`,
    );
  }
}

/** Of these its peers know less than whoever started it: one of its roles, or nothing. */
function isUntold(end: ProcessEnd | undefined): boolean {
  return end?.kind === "notStarted" || (end?.kind === "exited" && end.signal !== null);
}
