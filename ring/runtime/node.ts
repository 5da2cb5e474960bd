/**
 * @file One node of the ring, from its first view to the summary: it trains its stage in each view, tells the others what they must know,
 * and ends when every node has heard every report. Nobody schedules it. With replicas views come and go (`recovery.ts`); without, the
 * first one is the only one, and who dies ends the run.
 */
import type { DataSet } from "../../src/data/dataset.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import { parseMemoryLimit, parsePace } from "../../src/config/emulation.ts";
import { parseTimeline, type Settings } from "../../src/config/settings.ts";
import { TimeAccount } from "../../src/metrics/accounting.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, type MetricsLine, type RunFolder } from "../../src/metrics/run-folder.ts";
import { Timeline } from "../../src/metrics/timeline.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { SegmentInit } from "../../src/nn/layout.ts";
import { nameShard, openCheckpoint } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { Feeder } from "../../src/runtime/feeder.ts";
import { watchMemory } from "../../src/runtime/process-memory.ts";
import { ThreadSampler, threadCpuMs } from "../../src/runtime/process-sample.ts";
import { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { defined } from "../../src/types/assert.ts";
import type { Candidate } from "../core/formation.ts";
import type { Neighbour } from "../core/moves.ts";
import type { LayerRange } from "../core/partition.ts";
import { memberOf, type RingView } from "../core/view.ts";
import { Bulletin } from "./bulletin.ts";
import type { ControlInbox } from "./control-inbox.ts";
import type { ControlMessage } from "./control-messages.ts";
import { neighboursOf, type EdgeInbox, type LinkRole } from "./edges.ts";
import { failureError, memoryExceeded, type NodeFailure } from "./failure.ts";
import { Finish } from "./finish.ts";
import { History } from "./history.ts";
import type { Announcement, AnnouncementBody, Job } from "./messages.ts";
import type { NodeState } from "./node-state.ts";
import { Recovery, type RecoveryEvents } from "./recovery.ts";
import type { ReplicaInbox } from "./replicas.ts";
import { nodeReport, type ReportSource } from "./report.ts";
import { fullMap, planNode } from "./segments.ts";
import { Session, type SessionEvents } from "./session.ts";
import type { DriverFailure } from "./stage-driver.ts";

/** A node that has left may still be asked for layers so long. */
const LEAVING_MS = 1_000;
/** How long the last word to the others may take when a run fails. */
const FAREWELL_LIMIT_MS = 1_000;

export interface RingNodeInit {
  readonly job: Job;
  /** As the founder measured them, one a layer. */
  readonly layerCosts: readonly number[];
  /** Id of the engine that all share. */
  readonly engine: string;
  readonly view: RingView;
  /** Negative for one that has no number yet. */
  readonly node: number;
  /** False for a process that joins a running ring, or comes back to it. */
  readonly isMember: boolean;
  readonly self: Candidate;
  readonly invite: string | null;
  readonly folder: RunFolder;
  readonly transport: Transport & { readonly lateness?: Lateness };
  readonly inboxes: { readonly edges: EdgeInbox; readonly control: ControlInbox; readonly replicas: ReplicaInbox };
  /** What survives the process; needed where there are replicas. */
  readonly state: NodeState | undefined;
  /** Whoever holds the model's begin needs it. */
  readonly data: () => Promise<DataSet>;
  readonly onCommitted: (step: number, loss: number) => void;
  /** A checkpoint is not on the disk; training goes on. */
  readonly onNotDurable: (step: number, reason: string) => void;
  /** This node's part in a view has begun or changed. */
  readonly onView: (view: RingView, node: number) => void;
}

export interface RunOutcome {
  readonly completedSteps: number;
  /** Null where this node has left before the end. */
  readonly summary: Record<string, unknown> | null;
}

export class RingNode {
  readonly #init: RingNodeInit;
  readonly #settings: Settings;
  readonly #engine: EngineKind;
  readonly #recorder: Recorder;
  readonly #timeline: Timeline;
  readonly #history: History;
  readonly #sampler = new ThreadSampler();
  readonly #clockwork: StageClockwork;
  readonly #failed = Promise.withResolvers<never>();
  readonly #done = Promise.withResolvers<RunOutcome>();
  readonly #finish: Finish;
  #node: number;
  #view: RingView;
  #bulletin: Bulletin;
  #recovery: Recovery | undefined;
  #session: Session | undefined;
  #compute: ComputeThread | undefined;
  #feeder: Promise<Feeder> | undefined;
  #earlierMoves = 0;
  /** Of the commit, before there is an edge to send it over: there is at most one. */
  #token: { readonly version: number; readonly count: number } | undefined;
  #hasFailed = false;
  #isStopWanted = false;
  #isLeaving = false;
  #startedCpuMs = 0;
  #counters = { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };
  #neighbours = 0;

  constructor(init: RingNodeInit) {
    const { job, view, node, folder } = init;
    this.#init = init;
    this.#settings = job.settings;
    this.#engine = init.engine.split(":")[0] as EngineKind;
    this.#view = view;
    this.#node = node;
    const lines = folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[];
    const earlier = init.isMember ? lines.slice(0, job.firstStep) : lines;
    const startedMs = nowMs() - (earlier.at(-1)?.elapsedMs ?? 0);
    this.#recorder = new Recorder({ folder, batch: job.settings.batch, earlier, startedMs });
    this.#history = new History({
      recorder: this.#recorder,
      state: init.state,
      told: (...step) => this.#told(...step),
    });
    this.#timeline = new Timeline(folder, () => this.#node, parseTimeline(job.settings.timeline));
    this.#clockwork = new StageClockwork(new TimeAccount(this.#sampler.sample()), this.#sampler, job.settings.laps);
    this.#bulletin = this.#newBulletin(view);
    this.#finish = new Finish({
      tell: (message) => this.#recovery?.send(message),
      others: () => this.#recovery?.others ?? [],
      finished: (outcome) => this.#done.resolve(outcome),
    });
    // Whoever awaits `train` sees it; until then it must not count as unhandled.
    this.#failed.promise.catch(() => {});
  }

  get #isReplicated(): boolean {
    return this.#settings.replicas > 0;
  }

  /** For `status` and `why`. */
  describe() {
    const sinceMs = this.#clockwork.lastOperationEndMs;
    return {
      ...(this.#session?.describe() ?? { step: this.#recorder.steps, phase: "joining" as const, cut: this.#view.cut }),
      idleSinceMs: sinceMs === undefined ? null : nowMs() - sinceMs,
      idlePercent: this.#clockwork.idlePercent,
      losses: this.#recorder.losses,
      view: this.#view,
      node: this.#node,
      recovery: this.#recovery?.describe() ?? null,
    };
  }

  /** Ends the run in order after the step that the first stage is in. */
  requestStop(): void {
    this.#isStopWanted = true;
    this.#session?.driver.requestStop();
    this.#recovery?.send({ say: "stop" });
  }

  /** This node goes in order: the others take its layers over, and `train` ends without a summary. */
  leave(): void {
    this.#isLeaving = true;
    this.#recovery?.wish({ kind: "leave" });
  }

  /** Trains to the end. Throws the error of the failure that ended the run, wherever in the ring it happened. */
  async train(): Promise<RunOutcome> {
    const { memoryLimit } = this.#settings;
    const unwatch =
      memoryLimit === null ? () => {} : watchMemory(parseMemoryLimit(memoryLimit), (bytes) => this.#exceeded(bytes));
    this.#startedCpuMs = threadCpuMs();
    try {
      if (this.#isReplicated) this.#recovery = this.#recover();
      else this.#begin().catch((error: unknown) => this.#fail({ kind: "thrown", node: this.#node, error }));
      return await Promise.race([this.#done.promise, this.#failed.promise]);
    } finally {
      unwatch();
      this.#timeline.flush();
      await this.#bulletin.written;
      await this.#history.close();
      await this.#recovery?.close();
      await this.#compute?.stop();
    }
  }

  /** The only view of a ring without replicas. */
  async #begin(): Promise<void> {
    const { view, job } = this.#init;
    this.#viewed(view);
    const compute = await this.#startCompute(view.cut);
    if (job.firstStep > 0) await compute.run<"load">({ kind: "load", files: this.#files });
    await this.#startSession(view, compute);
  }

  /** Of the checkpoint that the run goes on from. */
  get #files(): readonly string[] {
    const { job, folder } = this.#init;
    return job.firstStep === 0 ? [] : openCheckpoint(folder, job.firstStep).files;
  }

  #segments(cut: readonly LayerRange[], view: RingView): readonly SegmentInit[] {
    const place = view.owners.indexOf(this.#node);
    return place < 0 ? [] : planNode(this.#settings, this.#engine, cut, view.owners.length, place).segments;
  }

  async #startCompute(
    cut: readonly LayerRange[],
    blocks?: Parameters<typeof ComputeThread.start>[0]["blocks"],
  ): Promise<ComputeThread> {
    const segments = this.#segments(cut, this.#view);
    const pace = this.#pace === null ? {} : { pace: this.#pace };
    const state = blocks === undefined ? {} : { blocks };
    return (this.#compute = await ComputeThread.start({ segments, engine: this.#engine, ...state, ...pace }));
  }

  get #pace(): number | null {
    const { pace, nodes } = this.#settings;
    return pace === null ? null : parsePace(pace, nodes)[Math.max(0, this.#node) % nodes]!;
  }

  #recover(): Recovery {
    const { job, view, self, isMember, transport, inboxes, invite } = this.#init;
    const state = defined(this.#init.state, "a ring with replicas keeps state");
    return new Recovery({
      ...{ job: job.job, settings: this.#settings, self, node: this.#node, view, isMember, invite, transport },
      ...{ state, files: this.#files },
      ...{ engine: this.#engine, pace: this.#pace, control: inboxes.control, replicas: inboxes.replicas },
      segments: (of) => this.#segments(of.cut, of),
      events: this.#recoveryEvents(),
    });
  }

  #recoveryEvents(): RecoveryEvents {
    return {
      viewed: (view, lastHeardMs, begun) => {
        this.#history.flush();
        this.#viewed(view);
        this.#history.viewed(view, lastHeardMs, begun);
      },
      begin: (view, compute) => {
        if (!view.owners.includes(this.#node)) return void this.#finishAsSpare(view);
        this.#startSession(view, compute).catch((error: unknown) => this.#sessionFailed(view, error));
      },
      end: () => {
        const begun = this.#session?.describe().step;
        this.#endSession();
        return begun;
      },
      frontier: (version) => {
        this.#session?.driver.frontier(version);
        this.#rebalance(version);
      },
      sendToken: (version, count) => {
        // Copies may be whole before the edges are open.
        if (this.#session?.isOpen === true) this.#session.sendToken(version, count);
        else this.#token = { version, count };
      },
      committed: (step, loss) => this.#history.committed(step, loss, this.#view.view),
      lost: (layers) =>
        this.#fail({
          kind: "announced",
          failure: { kind: "segmentsLost", layers: [...layers], step: this.#recorder.steps },
        }),
      hear: (message, node) => this.#hearControl(message, node),
      note: (kind, fields) => this.#recorder.event(kind, nowMs(), fields),
      worked: (step, { startMs, endMs, runQueueMs }) => {
        this.#clockwork.inserted({ startMs, endMs, runQueueMs });
        this.#timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs, bytes: 0 });
      },
      failed: (error) => this.#fail({ kind: "thrown", node: this.#node, error }),
      catchUp: (view) =>
        this.#history.catchUp(
          view,
          (from) => this.#askLosses(view, from),
          () => view !== this.#view,
        ),
      pace: () => ({ isTraining: this.#session?.isTraining === true, stepMs: this.#clockwork.stepMsMedian }),
    };
  }

  /** A view was decided: who writes, and whose reports are due. */
  #viewed(view: RingView): void {
    const me = view.members.find(({ peerId }) => peerId === this.#init.self.peerId);
    if (me !== undefined) this.#node = me.node;
    const hasMoved = view.view > 0 && sameMembers(view, this.#view) && String(view.cut) !== String(this.#view.cut);
    if (hasMoved) this.#earlierMoves += 1;
    this.#view = view;
    const lowest = Math.min(...view.members.filter(({ machine }) => machine === me?.machine).map(({ node }) => node));
    this.#recorder.write(me !== undefined && lowest === me.node);
    this.#token = undefined;
    this.#bulletin = this.#newBulletin(view);
    this.#finish.reset();
    this.#init.inboxes.edges.advance(view.view);
    this.#history.look();
    this.#init.onView(view, this.#node);
    if (me !== undefined || !this.#isLeaving) return;
    const outcome = { completedSteps: this.#recorder.steps, summary: null };
    setTimeout(() => this.#done.resolve(outcome), LEAVING_MS);
  }

  #newBulletin(view: RingView): Bulletin {
    const { job, folder, onNotDurable, engine } = this.#init;
    return new Bulletin({
      ...{ job, view, folder, engine, recorder: this.#recorder, onNotDurable },
      isWriter: () => this.#recorder.isWriter,
    });
  }

  async #startSession(view: RingView, compute: ComputeThread): Promise<void> {
    const { job, folder, transport, inboxes, layerCosts } = this.#init;
    const isFirst = view.owners[0] === this.#node;
    const feeder = isFirst ? await this.#loadFeeder() : undefined;
    // The next to hold the model's begin has the data ready.
    if (this.#isReplicated && view.owners[1] === this.#node) void this.#loadFeeder().catch(() => {});
    if (view !== this.#view) return;
    this.#clockwork.segmentsChanged(compute.layouts.length);
    const session = (this.#session = new Session({
      ...{ job, view, node: this.#node, engine: this.#engine, layerCosts, folder, transport, feeder, compute },
      ...{ inbox: inboxes.edges, clockwork: this.#clockwork, sampler: this.#sampler, timeline: this.#timeline },
      startCompute: (cut, step, layers) => this.#startCompute(cut, { step, layers }),
      lossBefore: this.#history.lossOf(view.restoreStep - 1),
      earlierMoves: this.#earlierMoves,
      gate: () => this.#recovery?.gate(),
      events: this.#sessionEvents(view),
    }));
    if (view.owners.length > 1) {
      const { predecessor, successor } = neighboursOf(view, this.#node);
      this.#neighbours = Math.max(this.#neighbours, predecessor === successor ? 1 : 2);
    }
    await session.start();
    if (session.isOver) return;
    if (this.#token !== undefined) session.sendToken(this.#token.version, this.#token.count);
    if (this.#isStopWanted) session.driver.requestStop();
    const completedSteps = await session.driver.finished;
    if (!session.isOver) await this.#finishSession(session, completedSteps);
  }

  #loadFeeder(): Promise<Feeder> {
    const { seed, batch, microBatches } = this.#settings;
    return (this.#feeder ??= this.#init.data().then((data) => new Feeder(data, { seed, batch, microBatches })));
  }

  #sessionEvents(view: RingView): SessionEvents {
    return {
      loss: (step, loss) => {
        this.#history.noteLoss(step, loss);
        if (this.#recovery === undefined) this.#history.committed(step, loss, view.view);
        else this.#recovery.loss(step, loss);
      },
      evaluated: (step, correct, lossSum) => this.#announce({ kind: "evaluated", step, correct, lossSum }),
      saved: (step, layers, file, written) =>
        this.#announce({ kind: "saved", step, shard: nameShard(file, layers, written) }),
      notSaved: (step, reason) => this.#announce({ kind: "notSaved", step, reason }),
      updating: (step) => this.#recovery?.updating(view, step),
      updated: (step, states) => this.#recovery?.updated(view, step, this.#history.lossOf(step), states),
      token: (version, count) => this.#recovery?.token(version, count),
      announcement: (announcement, from) => this.#hear(announcement, from),
      edgeEnded: (neighbour, end, role) => this.#edgeEnded(view, neighbour, end, role),
      failed: (failure) => this.#driverFailed(failure),
      note: (kind, fields) => this.#recorder.event(kind, nowMs(), fields),
      recut: (cut) => this.#recovery?.wish({ kind: "recut", view: view.view, map: { owners: view.owners, cut } }),
      adopted: (compute) => (this.#compute = compute),
    };
  }

  #endSession(): void {
    const session = this.#session;
    if (session === undefined) return;
    session.stop();
    this.#count(session);
    this.#session = undefined;
  }

  #count({ counters }: Session): void {
    this.#counters = {
      bytesSent: this.#counters.bytesSent + counters.bytesSent,
      bytesReceived: this.#counters.bytesReceived + counters.bytesReceived,
      messagesSent: this.#counters.messagesSent + counters.messagesSent,
    };
  }

  /** A view whose edges do not open is over soon, or must be. */
  #sessionFailed(view: RingView, error: unknown): void {
    if (view !== this.#view || this.#hasFailed) return;
    this.#recorder.event("sessionFailed", nowMs(), { view: view.view, message: (error as Error).message });
    this.#recovery?.wish({ kind: "stalled" });
  }

  /** Spares, and room for them to hold layers: the first place proposes a cut for all members. */
  #rebalance(version: number): void {
    const view = this.#view;
    if (version !== view.restoreStep + 1 || view.owners[0] !== this.#node) return;
    const map = fullMap(this.#settings, view, this.#init.layerCosts);
    if (map !== undefined) this.#recovery?.wish({ kind: "recut", view: view.view, map });
  }

  async #finishSession(session: Session, completedSteps: number): Promise<void> {
    // The last step must be committed as every other one: its copies may not be whole yet.
    await this.#history.reached(completedSteps, () => session.isOver);
    if (session.isOver) return;
    const compute = this.#recovery?.compute ?? defined(this.#compute, "a compute thread");
    const { digests: final } = await compute.run<"digests">({ kind: "digests" });
    this.#timeline.flush();
    const layers = compute.layouts.map(({ init }) => init.layers);
    this.#report(completedSteps, { final, layers, clockwork: this.#clockwork, pace: session.driver.measured.pace });
    await this.#summarize(completedSteps, session);
  }

  /** The owners' reports say that the run is over. */
  async #finishAsSpare(view: RingView): Promise<void> {
    const completedSteps = await this.#bulletin.completedSteps;
    await this.#history.reached(completedSteps, () => view !== this.#view);
    if (view !== this.#view) return;
    this.#report(completedSteps, { final: [], layers: [], clockwork: this.#clockwork, pace: null });
    await this.#summarize(completedSteps, undefined);
  }

  #report(completedSteps: number, source: ReportSource): void {
    if (this.#session !== undefined) this.#count(this.#session);
    const report = nodeReport(source, {
      member: memberOf(this.#view, this.#node)!,
      counters: { ...this.#counters, bytesSent: this.#counters.bytesSent + (this.#recovery?.bytesSent ?? 0) },
      neighbours: this.#neighbours,
      settings: this.#settings,
      link: this.#init.transport.lateness ?? null,
      communicationCpuMs: threadCpuMs() - this.#startedCpuMs,
    });
    this.#announce({ kind: "report", completedSteps, report, recoveries: this.#history.recoveries });
  }

  async #summarize(completedSteps: number, session: Session | undefined): Promise<void> {
    const view = this.#view;
    const summary = await this.#bulletin.summary;
    if (view !== this.#view) return;
    const outcome = { completedSteps, summary };
    if (this.#recovery !== undefined) return this.#finish.complete(view.view, outcome);
    await session?.close();
    this.#done.resolve(outcome);
  }

  /** To this node and all others: once round the ring, or straight where every node has a stream to every other. */
  #announce(body: AnnouncementBody): void {
    this.#bulletin.post(body);
    if (this.#recovery === undefined) this.#session?.send("successor", { origin: this.#node, body });
    else this.#recovery.send({ say: "announce", view: this.#view.view, body });
  }

  #hear(announcement: Announcement, from: Neighbour): void {
    const { body, origin } = announcement;
    if (body.kind === "failure") {
      const onward = from === "predecessor" ? "successor" : "predecessor";
      return this.#fail({ kind: "announced", failure: body.failure }, [onward]);
    }
    this.#bulletin.post(body);
    if (neighboursOf(this.#view, this.#node).successor !== origin) this.#session?.send("successor", announcement);
  }

  #hearControl(message: ControlMessage, node: number): void {
    switch (message.say) {
      case "announce":
        if (message.body.kind === "failure")
          return this.#fail({ kind: "announced", failure: message.body.failure }, []);
        if (message.view === this.#view.view) this.#bulletin.post(message.body);
        return;
      case "stop":
        this.#isStopWanted = true;
        return this.#session?.driver.requestStop();
      case "complete":
        if (message.view === this.#view.view) this.#finish.heard(node);
        return;
      case "askLosses":
        return this.#recovery?.send({ say: "losses", ...this.#history.lossesFrom(message.from) }, node);
      case "losses":
        return this.#history.heardLosses(message.from, message.losses);
      default:
        return;
    }
  }

  #askLosses(view: RingView, from: number): void {
    const others = view.members.filter(({ node }) => node !== this.#node);
    for (const { node } of others) this.#recovery?.send({ say: "askLosses", from }, node);
  }

  #told(step: number, loss: number): void {
    this.#init.onCommitted(step, loss);
    this.#recovery?.reported(step + 1);
  }

  #exceeded(residentBytes: number): void {
    const error = memoryExceeded(this.#node, residentBytes, this.#settings.memoryLimit);
    this.#fail({ kind: "thrown", node: this.#node, error });
  }

  #driverFailed(failure: DriverFailure): void {
    if (failure.kind === "notFinite") this.#fail({ kind: "announced", failure });
    else this.#fail({ kind: "thrown", node: this.#node, error: failure.error });
  }

  #edgeEnded(view: RingView, neighbour: number, end: LinkEnd, role: LinkRole): void {
    const step = this.#recorder.steps;
    if (this.#recovery !== undefined && end.kind !== "failed") {
      if (end.kind === "refused")
        this.#recorder.event("edgeRefused", nowMs(), { neighbour, by: end.by, reason: end.reason });
      return this.#recovery.edgeBroken(view, neighbour);
    }
    switch (end.kind) {
      case "goodbye":
        // All that this node still waits for would have come from its predecessor; the successor may be done earlier.
        if (role !== "forward") return;
        return this.#fail({ kind: "announced", failure: { kind: "lost", node: neighbour, step } });
      case "lost":
        return this.#fail({ kind: "announced", failure: { kind: "lost", node: neighbour, step } });
      case "refused":
        return this.#fail({ kind: "refused", node: this.#node, neighbour, by: end.by, reason: end.reason });
      case "failed":
        return this.#fail({ kind: "thrown", node: this.#node, error: end.error });
    }
  }

  /** The first failure counts: the others are told, and `train` throws. After the summary there is nothing left to lose. */
  #fail(failure: NodeFailure, tell: readonly Neighbour[] = ["predecessor", "successor"]): void {
    if (this.#hasFailed || this.#bulletin.isComplete) return;
    this.#hasFailed = true;
    const { body, error } = failureError(failure, this.#init.folder, this.#view);
    this.#recorder.event("failed", nowMs(), { ...body.failure });
    for (const to of tell) this.#session?.send(to, { origin: this.#node, body });
    if (tell.length > 0) this.#recovery?.send({ say: "announce", view: this.#view.view, body });
    void this.#farewell().then(() => this.#failed.reject(error));
  }

  /** What is said last leaves first. */
  async #farewell(): Promise<void> {
    this.#session?.driver.stop();
    const limit = new Promise((resolve) => setTimeout(resolve, FAREWELL_LIMIT_MS).unref());
    await Promise.race([this.#session?.close() ?? this.#recovery?.close(), limit]);
  }
}

function sameMembers(a: RingView, b: RingView): boolean {
  return a.members.length === b.members.length && a.members.every(({ node }, i) => node === b.members[i]?.node);
}
