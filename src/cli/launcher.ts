/**
 * @file Starts the local nodes of a ring and watches them. It schedules nothing: when it is killed, the nodes go on. Nodes
 * have sessions of their own, so that Ctrl-C reaches this process alone, which then ends the run in order.
 */
import { join } from "node:path";
import { STATE_FOLDER } from "../metrics/run-folder.ts";
import { ExitCode, InterruptedError, NodeLostError, NotFiniteError } from "../types/errors.ts";
import { ToldFailure, type ToldError } from "./failure.ts";
import { startProcess, type LocalProcess, type ProcessEnd } from "./local-process.ts";
import type { ParentMessage } from "./node.ts";
import { formatBytes, formatSeconds, type Progress } from "./progress.ts";
import { goOnText } from "./resume.ts";
import type { NodeEvent, NodeProcessInit } from "./run-node.ts";
import type { RunRequest, RunResult } from "./run-request.ts";
import { Story } from "./story.ts";

/** Of one node, without the ring having it back in between: what dies at once, again and again, is not started for ever. */
const FAILED_STARTS_MAX = 10;
const RESPAWN_DELAY_MS = 1_000;
/** How long the other nodes may take to end after one has failed before the ring was whole. */
const END_LIMIT_MS = 5_000;
const NOT_STARTED_REMEDY =
  "allow more processes and open files (ulimit -u, ulimit -n), free memory, or start fewer nodes on this machine (--local)";

export async function launchRing(request: RunRequest, progress: Progress): Promise<RunResult> {
  return new Launcher(request, progress).run();
}

interface Child {
  readonly process: LocalProcess;
  readonly wish: number;
  readonly exited: Promise<void>;
  addresses: readonly string[];
  /** The ring has taken it once. */
  wasMember: boolean;
  /** In the newest view, as far as it is known here. */
  isMember: boolean;
  /** It ended because the run did, or as it was asked to. */
  isDone: boolean;
  end: ProcessEnd | undefined;
}

export class Launcher {
  readonly #request: RunRequest;
  readonly #progress: Progress;
  readonly #onEvent: (event: NodeEvent, node: number) => void;
  readonly #story: Story;
  readonly #children: Child[] = [];
  readonly #failures: ToldError[] = [];
  /** Nodes that are to come back. */
  readonly #timers = new Set<NodeJS.Timeout>();
  #summary: Record<string, unknown> | undefined;
  #isFormed = false;
  #isStopping = false;
  #interrupts = 0;
  /** The newest that a node told of; -1 before the ring is whole. */
  #view = -1;

  /** @param onEvent hears what every local node tells, by its place among the starts, which is its number in the ring */
  constructor(request: RunRequest, progress: Progress, onEvent: (event: NodeEvent, node: number) => void = () => {}) {
    this.#request = request;
    this.#progress = progress;
    this.#onEvent = onEvent;
    this.#story = new Story(request.settings.steps, progress);
  }

  /** Processes of the nodes that live, by node. */
  get pids(): ReadonlyMap<number, number> {
    const living = this.#children.filter(({ end, process: { pid } }) => end === undefined && pid !== undefined);
    return new Map(living.map(({ wish, process: { pid } }) => [wish, pid!]));
  }

  get isInterrupted(): boolean {
    return this.#interrupts > 0;
  }

  /** Ends every local node at once. */
  kill(): void {
    this.#isStopping = true;
    for (const child of this.#children) child.process.kill("SIGKILL");
  }

  /** The run ends in order after the step under way. */
  stop(): void {
    this.#isStopping = true;
    const message: ParentMessage = { kind: "stop" };
    for (const child of this.#children) if (child.process.connected) child.process.send(message);
  }

  async run(): Promise<RunResult> {
    const onSignal = (): void => this.#interrupt();
    process.on("SIGINT", onSignal);
    process.on("SIGTERM", onSignal);
    try {
      this.#startFounder();
      // Joiners are started when the founder says where it listens, so the list grows while we wait.
      for (let index = 0; index < this.#children.length; index += 1) await this.#children[index]!.exited;
      return this.#result();
    } finally {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
      for (const timer of this.#timers) clearTimeout(timer);
      for (const child of this.#children) if (child.end === undefined) child.process.kill("SIGKILL");
    }
  }

  #startFounder(): void {
    const { settings, force, resume, out, invite } = this.#request;
    const role = { kind: "founder", settings, force, resume } as const;
    this.#start({ role, out, state: this.#state(0), invite, wish: 0, listen: [this.#listen] });
  }

  /** Only a ring that waits for others listens beyond this machine. */
  get #listen(): string {
    const { local, settings, listen } = this.#request;
    return listen ?? (local < settings.nodes ? "/ip4/0.0.0.0/tcp/0" : "/ip4/127.0.0.1/tcp/0");
  }

  #startJoiners(addresses: readonly string[]): void {
    const { settings, local } = this.#request;
    const address = addresses.find((each) => each.startsWith("/ip4/127.")) ?? addresses[0];
    if (address === undefined) return;
    if (local < settings.nodes) this.#tellHowToJoin(addresses, settings.nodes - local);
    for (let wish = 1; wish < local; wish += 1) {
      this.#startJoiner(wish, address);
    }
  }

  /** Also one that comes back: its state folder says who it is. */
  #startJoiner(wish: number, address: string): void {
    const { out, invite } = this.#request;
    const role = { kind: "joiner", address, expected: {}, force: null } as const;
    const listen = [this.#listen.replace(/\/tcp\/\d+/, "/tcp/0")];
    this.#start({ role, out, state: this.#state(wish), invite, wish, listen });
  }

  #state(wish: number): string {
    return join(this.#request.out, STATE_FOLDER, String(wish));
  }

  #tellHowToJoin(addresses: readonly string[], missing: number): void {
    const token = this.#request.invite === null ? "" : ` --invite ${this.#request.invite}`;
    this.#progress.say(`waiting for ${missing} more ${missing === 1 ? "node" : "nodes"}; on each machine run one of:`);
    for (const each of addresses) this.#progress.say(`  ringtmp join ${each}${token}`);
  }

  #start(init: NodeProcessInit): void {
    const exited = Promise.withResolvers<void>();
    const message: ParentMessage = { kind: "init", init, orphans: this.#request.settings.orphans };
    const child = startProcess(message, {
      heard: (event) => this.#hear(entry, event),
      ended: (end) => {
        entry.end = end;
        if (!endedWell(end)) this.#childFailed();
        // First the one that comes back, then the one that is gone: the list is waited for to its end.
        this.#respawn(entry);
        exited.resolve();
      },
    });
    const entry: Child = {
      ...{ process: child, wish: init.wish ?? 0, exited: exited.promise },
      ...{ addresses: [], wasMember: false, isMember: false, isDone: false, end: undefined },
    };
    this.#children.push(entry);
  }

  /** A node that died comes back as long as another one can take it in. */
  #respawn(dead: Child): void {
    if (!this.#isFormed || this.#isStopping || dead.isDone || dead.end === undefined || endedWell(dead.end)) return;
    if (this.#summary !== undefined || !this.#failures.every(isBug)) return;
    if (dead.end.kind === "notStarted") this.#story.warned(notStarted(dead.wish, dead.end.reason));
    else this.#story.died(dead.wish, howEnded(dead.end));
    const { respawn, replicas } = this.#request.settings;
    if (!respawn || replicas === 0) return;
    const starts = this.#children.filter(({ wish }) => wish === dead.wish);
    // A host that it was sent to may itself have died just then: that is no reason to give it up.
    const failed = starts.toReversed().findIndex(({ wasMember }) => wasMember);
    const isHopeless = (failed < 0 ? starts.length : failed) >= FAILED_STARTS_MAX;
    if (isHopeless)
      this.#progress.say(`node ${dead.wish} died ${FAILED_STARTS_MAX} times on its way back: it stays away`);
    else this.#startLater(dead.wish, FAILED_STARTS_MAX);
  }

  /** A process that boots takes the cores that the others need to go on: they come first. */
  #startLater(node: number, attempts: number): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (this.#isStopping || this.#summary !== undefined || !this.#failures.every(isBug)) return;
      if (!this.start(node) && attempts > 1) this.#startLater(node, attempts - 1);
    }, RESPAWN_DELAY_MS);
    this.#timers.add(timer);
  }

  /** Starts a local node that has ended. Returns false where no node lives that could take it in. */
  start(node: number): boolean {
    const hosts = this.#children.filter(
      ({ end, addresses, wish }) => end === undefined && wish !== node && addresses.length > 0,
    );
    const { addresses = [] } = hosts.find(({ isMember }) => isMember) ?? hosts[0] ?? {};
    const address = addresses.find((each) => each.startsWith("/ip4/127.")) ?? addresses[0];
    if (address !== undefined) this.#startJoiner(node, address);
    return address !== undefined;
  }

  #hear(child: Child, event: NodeEvent): void {
    this.#onEvent(event, child.wish);
    switch (event.kind) {
      case "listening":
        child.addresses = event.addresses;
        if (child.wish === 0 && !this.#isFormed) this.#startJoiners(event.addresses);
        return;
      case "present":
        if (child.wish === 0 && !this.#isFormed)
          this.#progress.waiting(`${event.present} of ${event.size} nodes are here`);
        return;
      case "formed":
        child.wasMember = child.isMember = true;
        if (child.wish === 0 && !this.#isFormed) this.#formed(event);
        return;
      case "viewed":
        this.#viewed(event);
        return this.#story.viewed(event);
      case "committed":
        return this.#story.committed(event.step, event.loss);
      case "warning":
        return this.#story.warned(event.text);
      case "done":
        this.#summary ??= event.summary;
        child.isDone = true;
        return this.#endOutsiders();
      case "left":
        child.isDone = true;
        return;
      case "hosts":
        return;
      case "failed":
        // What goes wrong on the way back into a ring that trains is not the run's end.
        if (!this.#isFormed || child.wasMember) this.#failures.push(event.error);
        if (child.wasMember && isBug(event.error)) this.#progress.say(`node ${child.wish}: ${event.error.message}`);
        return;
    }
  }

  #viewed({ view, members }: Extract<NodeEvent, { kind: "viewed" }>): void {
    if (view <= this.#view) return;
    this.#view = view;
    for (const child of this.#children) child.isMember = members.includes(child.wish);
  }

  /** The run is over: who is not in the ring would wait for ever to be taken in. */
  #endOutsiders(): void {
    for (const { end, isMember, process: child } of this.#children) {
      if (end === undefined && !isMember) child.kill("SIGKILL");
    }
  }

  #formed(event: Extract<NodeEvent, { kind: "formed" }>): void {
    this.#isFormed = true;
    const { settings, out } = this.#request;
    const { estimate } = event;
    this.#progress.say(
      `ring of ${settings.nodes} nodes, job ${event.job}; results in ${out}, logs in ${join(out, "logs")}`,
    );
    if (settings.nodes === 2 && settings.replicas > 0) this.#warnOfTwo();
    if (estimate === null) return;
    const { stepMs, runSeconds, nodeBytesMax } = estimate;
    const time = `about ${formatSeconds(runSeconds)} (${stepMs.toFixed(1)} ms a step)`;
    this.#progress.say(`estimate: ${time}, up to ${formatBytes(nodeBytesMax)} of memory a node`);
  }

  #warnOfTwo(): void {
    const address = this.#children[0]?.addresses[0] ?? "<multiaddr>";
    this.#progress.say(
      "warning: two nodes cannot tell a dead peer from a cut link: both pause until the other is back;",
    );
    this.#progress.say(`  add a third node, a spare votes: ringtmp join ${address}`);
  }

  /** Before the ring is whole nobody can go on: the others are ended too. Afterwards the ring itself decides. */
  #childFailed(): void {
    if (this.#isFormed) return;
    for (const child of this.#children) {
      if (child.end !== undefined) continue;
      child.process.kill("SIGTERM");
      setTimeout(() => child.end ?? child.process.kill("SIGKILL"), END_LIMIT_MS).unref();
    }
  }

  #interrupt(): void {
    this.#interrupts += 1;
    if (this.#interrupts > 1) {
      this.kill();
      process.exit(ExitCode.interrupted);
    }
    this.#progress.say("interrupted: finishing the step and writing the results (once more ends at once)");
    this.stop();
  }

  #result(): RunResult {
    const failure = this.#failure();
    // A ring with replicas ends well whoever died on the way.
    const isWell = failure === undefined || this.#request.settings.replicas > 0;
    if (this.#summary !== undefined && isWell) {
      return { summary: this.#summary, interrupted: this.#interrupts > 0 };
    }
    this.#progress.end();
    if (failure !== undefined) throw new ToldFailure(failure);
    const { out } = this.#request;
    if (this.#isFormed && this.#request.settings.replicas > 0) {
      throw new NodeLostError("every node on this machine is gone before the run was done", goOnText(out));
    }
    const dead = this.#firstDead;
    if (dead?.end.kind === "notStarted") {
      throw new NodeLostError(notStarted(dead.wish, dead.end.reason), NOT_STARTED_REMEDY);
    }
    const who = dead === undefined ? "every node ended" : `node ${dead.wish} ended with ${howEnded(dead.end)}`;
    throw new NodeLostError(`${who} before the run was done`, `see ${join(out, "logs")}, and start it again`);
  }

  /** What to tell the user. Nodes that this launcher ended, because another one had died, are not the cause. */
  #failure(): ToldError | undefined {
    const told = this.#failures.filter(({ name }) => this.#interrupts > 0 || name !== InterruptedError.name);
    const cause = this.#firstDead?.end;
    const isToldByNone = cause?.kind === "notStarted" || cause?.signal === "SIGKILL";
    if (!this.#isFormed && isToldByNone) return undefined;
    const ofCode = (code: ExitCode): ToldError | undefined => told.find(({ exitCode }) => exitCode === code);
    // A bug in one node is a lost node to the others.
    return ofCode(ExitCode.unexpected) ?? ofCode(ExitCode.lost) ?? told[0];
  }

  get #firstDead(): (Child & { readonly end: ProcessEnd }) | undefined {
    const dead = this.#children.flatMap((child) => {
      const { end } = child;
      return end === undefined || endedWell(end) ? [] : [{ ...child, end }];
    });
    return dead.find(({ process: { killed } }) => !killed) ?? dead[0];
  }
}

function endedWell(end: ProcessEnd): boolean {
  return end.kind === "exited" && end.code === ExitCode.done;
}

function howEnded({ code, signal }: Extract<ProcessEnd, { kind: "exited" }>): string {
  return signal ?? `exit code ${code}`;
}

const notStarted = (node: number, reason: string): string => `node ${node} could not be started: ${reason}`;

/** Of one node alone; other failures are the whole ring's. */
function isBug({ exitCode, name }: ToldError): boolean {
  return exitCode === ExitCode.unexpected && name !== NotFiniteError.name;
}
