/**
 * @file One node of the ring, from its first view to the summary: it trains its stage in each view (`session.ts`), and ends when every node
 * has heard every report (`conversation.ts`). Nobody schedules it. With replicas views come and go (`recovery.ts`); without, the first one is
 * the only one, and who dies ends the run.
 */
import type { DataSet } from "../../src/data/dataset.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import { parseTimeline, type Settings } from "../../src/config/settings.ts";
import { TimeAccount } from "../../src/metrics/accounting.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { Timeline } from "../../src/metrics/timeline.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import type { Transport } from "../../src/net/transport.ts";
import { nameShard } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { ThreadSampler } from "../../src/runtime/process-sample.ts";
import { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { defined } from "../../src/types/assert.ts";
import type { Candidate } from "../core/formation.ts";
import { isMove, isWriter, type RingView } from "../core/view.ts";
import type { ControlInbox } from "./control-inbox.ts";
import { Conversation } from "./conversation.ts";
import { VIEW_OVER, type EdgeInbox, type LinkRole } from "./edges.ts";
import { Equipment } from "./equipment.ts";
import { edgeFailure } from "./failure.ts";
import type { RunOutcome } from "./finish.ts";
import { History } from "./history.ts";
import type { Job } from "./messages.ts";
import type { NodeState } from "./node-state.ts";
import type { RecoveryEvents } from "./recovery-init.ts";
import { Recovery } from "./recovery.ts";
import type { ReplicaInbox } from "./replicas.ts";
import { fullMap, serialStepMs } from "./segments.ts";
import { Session, type SessionEvents } from "./session.ts";
import type { DriverFailure } from "./stage-driver.ts";
import { Tally } from "./tally.ts";

/** A node that has left may still be asked for layers so long. */
const LEAVING_MS = 1_000;
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

export class RingNode {
  readonly #init: RingNodeInit;
  readonly #settings: Settings;
  readonly #equipment: Equipment;
  readonly #recorder: Recorder;
  readonly #timeline: Timeline;
  readonly #history: History;
  readonly #sampler = new ThreadSampler();
  readonly #clockwork: StageClockwork;
  readonly #tally: Tally;
  readonly #conversation: Conversation;
  #node: number;
  #view: RingView;
  #recovery: Recovery | undefined;
  #session: Session | undefined;
  #earlierMoves = 0;
  /** Of the commit, before there is an edge to send it over: there is at most one. */
  #token: { readonly version: number; readonly count: number } | undefined;
  #isStopWanted = false;
  #isLeaving = false;

  constructor(init: RingNodeInit) {
    const { job, view, node, folder, data } = init;
    this.#init = init;
    this.#settings = job.settings;
    this.#equipment = new Equipment({ job, engine: init.engine.split(":")[0] as EngineKind, folder, data });
    this.#tally = new Tally(job.settings);
    this.#view = view;
    this.#node = node;
    const lines = folder.readMetrics();
    const earlier = init.isMember ? lines.slice(0, job.firstStep) : lines;
    const startedMs = nowMs() - (earlier.at(-1)?.elapsedMs ?? 0);
    this.#recorder = new Recorder({
      folder,
      batch: job.settings.batch,
      earlier,
      startedMs,
      onFault: init.onNotDurable,
    });
    this.#history = new History({
      recorder: this.#recorder,
      state: init.state,
      told: (...step) => this.#told(...step),
    });
    this.#timeline = new Timeline(folder, () => this.#node, parseTimeline(job.settings.timeline));
    this.#clockwork = new StageClockwork(new TimeAccount(this.#sampler.sample()), this.#sampler, job.settings.laps);
    this.#conversation = this.#converse();
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
    this.#stop();
    this.#recovery?.send({ say: "stop" });
  }

  #stop(): void {
    this.#isStopWanted = true;
    this.#session?.driver.requestStop();
  }

  /** This node goes in order: the others take its layers over, and `train` ends without a summary. */
  leave(): void {
    this.#isLeaving = true;
    this.#recovery?.wish({ kind: "leave" });
  }

  /** Ends at once, whatever becomes of the others. */
  end(): void {
    this.#session?.stop();
    this.#conversation.end({ completedSteps: this.#recorder.steps, summary: null });
  }

  /** Trains to the end. Throws the error of the failure that ended the run, wherever in the ring it happened. */
  async train(): Promise<RunOutcome> {
    const unwatch = this.#equipment.watchMemory(this.#node, (error) => this.#broken(error));
    this.#tally.start();
    try {
      if (this.#isReplicated) this.#recovery = this.#recover();
      else this.#begin().catch((error: unknown) => this.#broken(error));
      return await this.#conversation.outcome;
    } finally {
      unwatch();
      this.#timeline.flush();
      await this.#conversation.written;
      await this.#history.close();
      await this.#recovery?.close();
      await this.#equipment.stop();
    }
  }

  /** The only view of a ring without replicas. */
  async #begin(): Promise<void> {
    const { view, job } = this.#init;
    this.#viewed(view);
    const compute = await this.#equipment.start(view.cut, view, this.#node);
    if (job.firstStep > 0) await compute.run<"load">({ kind: "load", files: this.#equipment.files });
    await this.#startSession(view, compute);
  }

  #converse(): Conversation {
    const { job, self, engine, folder, onNotDurable, view, transport } = this.#init;
    const init = {
      ...{ tally: this.#tally, lateness: transport.lateness ?? null },
      ...{ job, self, engine, folder, onNotDurable, recorder: this.#recorder, history: this.#history },
      present: () => ({ node: this.#node, session: this.#session, recovery: this.#recovery }),
      stop: () => this.#stop(),
    };
    return new Conversation(init, view);
  }

  #recover(): Recovery {
    const { job, view, self, isMember, transport, inboxes, invite } = this.#init;
    const equipment = this.#equipment;
    const state = defined(this.#init.state, "a ring with replicas keeps state");
    return new Recovery({
      ...{ job: job.job, settings: this.#settings, self, node: this.#node, view, isMember, invite, transport },
      ...{ state, control: inboxes.control, replicas: inboxes.replicas },
      ...{ engine: equipment.engine, pace: equipment.paceOf(this.#node), files: equipment.files },
      segments: (of) => equipment.segments(of.cut, of, this.#node),
      events: this.#recoveryEvents(),
    });
  }

  #recoveryEvents(): RecoveryEvents {
    return {
      viewed: (view, lastHeardMs, begun) => {
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
      lost: (layers) => {
        const failure = { kind: "segmentsLost", layers: [...layers], step: this.#recorder.steps } as const;
        this.#conversation.fail({ kind: "announced", failure });
      },
      hear: (message, from) => this.#conversation.hearControl(message, from),
      met: (node) => this.#conversation.met(node),
      isOver: () => this.#conversation.isOver,
      note: (kind, fields) => this.#recorder.event(kind, nowMs(), fields),
      worked: (step, { startMs, endMs, runQueueMs }) => {
        this.#clockwork.inserted({ startMs, endMs, runQueueMs });
        this.#timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs, bytes: 0 });
      },
      failed: (error) => this.#broken(error),
      catchUp: (view) =>
        this.#history.catchUp(
          view,
          (from) => this.#conversation.askLosses(view, from),
          () => view !== this.#view,
        ),
      pace: () => ({
        isTraining: this.#session?.isTraining === true,
        steps: this.#recorder.steps,
        stepMs: () => Math.max(this.#clockwork.recentStepMs, serialStepMs(this.#settings, this.#init.layerCosts)),
      }),
    };
  }

  /** A view was decided: who writes, and whose reports are due. */
  #viewed(view: RingView): void {
    const me = view.members.find(({ peerId }) => peerId === this.#init.self.peerId);
    if (me !== undefined) this.#node = me.node;
    if (isMove(this.#view, view)) this.#earlierMoves += 1;
    this.#view = view;
    if (!this.#conversation.isOver) this.#recorder.write(isWriter(view, this.#init.self.peerId));
    this.#history.flush();
    this.#token = undefined;
    this.#conversation.viewed(view);
    this.#init.inboxes.edges.advance(view.view);
    this.#history.look();
    this.#init.onView(view, this.#node);
    if (me !== undefined || !this.#isLeaving) return;
    const outcome = { completedSteps: this.#recorder.steps, summary: null };
    setTimeout(() => this.#conversation.end(outcome), LEAVING_MS);
  }

  async #startSession(view: RingView, compute: ComputeThread): Promise<void> {
    const { job, folder, transport, inboxes, layerCosts } = this.#init;
    const feeder = view.owners[0] === this.#node ? await this.#equipment.feeder() : undefined;
    // The next to hold the model's begin has the data ready.
    if (this.#isReplicated && view.owners[1] === this.#node) void this.#equipment.feeder().catch(() => {});
    if (view !== this.#view) return;
    this.#clockwork.segmentsChanged(compute.layouts.length);
    const session = (this.#session = new Session({
      ...{ job, view, node: this.#node, layerCosts, folder, transport, feeder, compute },
      ...{ engine: this.#equipment.engine, inbox: inboxes.edges },
      ...{ clockwork: this.#clockwork, sampler: this.#sampler, timeline: this.#timeline },
      startCompute: (cut, step, layers) => this.#equipment.start(cut, view, this.#node, { step, layers }),
      lossBefore: this.#history.lossOf(view.restoreStep - 1),
      earlierMoves: this.#earlierMoves,
      gate: () => this.#recovery?.gate(),
      events: this.#sessionEvents(view),
    }));
    this.#tally.sessionBegan(view, this.#node);
    // 1. The run is stopped. 2. A view changes before all have told how it ended. 3. The next one makes no step more than was told.
    if (this.#isStopWanted) session.driver.requestStop();
    await session.start();
    if (session.isOver) return;
    if (this.#token !== undefined) session.sendToken(this.#token.version, this.#token.count);
    const completedSteps = await session.driver.finished;
    if (!session.isOver) await this.#finishSession(session, completedSteps);
  }

  #sessionEvents(view: RingView): SessionEvents {
    return {
      loss: (step, loss) => {
        this.#history.noteLoss(step, loss);
        if (this.#recovery === undefined) this.#history.committed(step, loss, view.view);
        else this.#recovery.loss(step, loss);
      },
      evaluated: (step, correct, lossSum) => this.#conversation.announce({ kind: "evaluated", step, correct, lossSum }),
      saved: (step, layers, file, written) =>
        this.#conversation.announce({ kind: "saved", step, shard: nameShard(file, layers, written) }, view),
      notSaved: (step, layers, reason) => this.#conversation.announce({ kind: "notSaved", step, layers, reason }, view),
      updating: (step) => this.#recovery?.updating(view, step),
      updated: (step, states) => this.#recovery?.updated(view, step, this.#history.lossOf(step), states),
      token: (version, count) => this.#recovery?.token(version, count),
      announcement: (announcement, from) => this.#conversation.hear(announcement, from),
      edgeEnded: (neighbour, end, role) => this.#edgeEnded(view, neighbour, end, role),
      failed: (failure) => this.#driverFailed(failure),
      note: (kind, fields) => this.#recorder.event(kind, nowMs(), fields),
      recut: (cut) => this.#recovery?.wish({ kind: "recut", view: view.view, map: { owners: view.owners, cut } }),
    };
  }

  #endSession(): void {
    const session = this.#session;
    if (session === undefined) return;
    session.stop();
    this.#tally.sessionEnded(session);
    this.#session = undefined;
  }

  /** A view whose edges do not open is over soon, or must be. */
  #sessionFailed(view: RingView, error: unknown): void {
    if (view !== this.#view || this.#conversation.hasFailed) return;
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
    const compute = this.#recovery?.compute ?? defined(this.#equipment.compute, "a compute thread");
    const { digests: final } = await compute.run<"digests">({ kind: "digests" });
    this.#timeline.flush();
    const layers = compute.layouts.map(({ init }) => init.layers);
    const { pace } = session.driver.measured;
    await this.#conversation.report(completedSteps, { final, layers, clockwork: this.#clockwork, pace });
  }

  /** The owners' reports say that the run is over. */
  async #finishAsSpare(view: RingView): Promise<void> {
    const completedSteps = await this.#conversation.completedSteps;
    const isOver = (): boolean => view !== this.#view;
    // One that keeps no copy was told nothing on the way.
    await this.#history.askUntil(completedSteps, (from) => this.#conversation.askLosses(view, from), isOver);
    if (isOver()) return;
    const nothing = { final: [], layers: [], clockwork: this.#clockwork, pace: null };
    await this.#conversation.report(completedSteps, nothing);
  }

  #told(step: number, loss: number): void {
    this.#init.onCommitted(step, loss);
    this.#recovery?.reported(step + 1);
  }

  #broken(error: unknown): void {
    this.#conversation.fail({ kind: "thrown", node: this.#node, error });
  }

  #driverFailed(failure: DriverFailure): void {
    if (failure.kind === "notFinite") this.#conversation.fail({ kind: "announced", failure });
    else this.#broken(failure.error);
  }

  #edgeEnded(view: RingView, neighbour: number, end: LinkEnd, role: LinkRole): void {
    const step = this.#recorder.steps;
    if (this.#recovery !== undefined && end.kind !== "failed") {
      if (end.kind === "refused" && end.reason !== VIEW_OVER)
        this.#recorder.event("edgeRefused", nowMs(), { neighbour, by: end.by, reason: end.reason });
      return this.#recovery.edgeBroken(view, neighbour);
    }
    const failure = edgeFailure(end, role, neighbour, { node: this.#node, step });
    if (failure !== undefined) this.#conversation.fail(failure);
  }
}
