/**
 * @file One node of the ring, from the decided view to the summary: it opens its edges, trains its stage, tells the others
 * what they must know, and ends when every node has heard every report. Nobody schedules it.
 */
import type { EngineKind } from "../../src/engine/contract.ts";
import type { Settings } from "../../src/config/settings.ts";
import { parseTimeline } from "../../src/config/settings.ts";
import { parseMemoryLimit, parsePace } from "../../src/config/emulation.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, type MetricsLine, type RunFolder } from "../../src/metrics/run-folder.ts";
import { Timeline } from "../../src/metrics/timeline.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { LayerBlock } from "../../src/nn/blocks.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import { nameShard, openCheckpoint, shardDraft } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { LayerDigest } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { evaluationCount, type Feeder } from "../../src/runtime/feeder.ts";
import { watchMemory } from "../../src/runtime/process-memory.ts";
import { ThreadSampler, threadCpuMs } from "../../src/runtime/process-sample.ts";
import { defined } from "../../src/types/assert.ts";
import { DataType, Direction, FrameKind } from "../../src/wire/header.ts";
import type { View } from "../core/formation.ts";
import type { Neighbour } from "../core/moves.ts";
import type { LayerRange } from "../core/partition.ts";
import type { StageInit } from "../core/stage-messages.ts";
import { StageMachine } from "../core/stage.ts";
import { Balancer } from "./balancer.ts";
import { Bulletin } from "./bulletin.ts";
import { Edges, type EdgeInbox, type LinkRole } from "./edges.ts";
import { failureError, memoryExceeded, type NodeFailure } from "./failure.ts";
import { encodeMessage, parseMessage, roundSchema, type AnnouncementBody, type Job } from "./messages.ts";
import type { LayerPart } from "./migration.ts";
import { nodeReport, type ReportSource } from "./report.ts";
import { CAN_SPLIT, firstCut, planNode, segmentsInit, shapeOf } from "./segments.ts";
import { StageDriver, type DriverFailure } from "./stage-driver.ts";

/** How long the last word to the neighbours may take when a run fails. */
const FAREWELL_LIMIT_MS = 1_000;

export interface RingNodeInit {
  readonly job: Job;
  readonly view: View;
  readonly node: number;
  readonly folder: RunFolder;
  readonly transport: Transport & { readonly lateness?: Lateness };
  readonly inbox: EdgeInbox;
  /** At the node with the data: the first stage. */
  readonly feeder: Feeder | undefined;
  readonly onCommitted: (step: number, loss: number) => void;
  /** A checkpoint is not on the disk. */
  readonly onNotDurable: (step: number, reason: string) => void;
}

export interface RunOutcome {
  readonly completedSteps: number;
  readonly summary: Record<string, unknown>;
}

export class RingNode {
  readonly #init: RingNodeInit;
  readonly #settings: Settings;
  readonly #recorder: Recorder;
  readonly #bulletin: Bulletin;
  readonly #timeline: Timeline;
  readonly #balancer: Balancer;
  readonly #sampler = new ThreadSampler();
  readonly #failed = Promise.withResolvers<never>();
  #compute: ComputeThread | undefined;
  #machine: StageMachine | undefined;
  #driver: StageDriver | undefined;
  #edges: Edges | undefined;
  #hasFailed = false;
  #isStopWanted = false;
  #startedCpuMs = 0;

  constructor(init: RingNodeInit) {
    const { job, view, node, folder, onNotDurable } = init;
    this.#init = init;
    this.#settings = job.settings;
    const machine = view.members[node]!.machine;
    const isWriter = view.members.find((member) => member.machine === machine)?.node === node;
    const earlier = (folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[]).slice(0, job.firstStep);
    this.#recorder = new Recorder({
      folder,
      isWriter,
      batch: job.settings.batch,
      view: view.view,
      earlierLosses: earlier.map((line) => line.loss),
      startedMs: nowMs() - (earlier.at(-1)?.elapsedMs ?? 0),
    });
    this.#timeline = new Timeline(folder, node, parseTimeline(job.settings.timeline));
    this.#bulletin = new Bulletin({ job, view, folder, isWriter, recorder: this.#recorder, onNotDurable });
    this.#balancer = this.#createBalancer();
    // Whoever awaits `train` sees it; until then it must not count as unhandled.
    this.#failed.promise.catch(() => {});
  }

  /** For `status` and `why`. */
  describe() {
    const sinceMs = this.#driver?.clockwork.lastOperationEndMs;
    return {
      ...(this.#machine?.describe() ?? { step: this.#init.job.firstStep, phase: "joining" as const }),
      idleSinceMs: sinceMs === undefined ? null : nowMs() - sinceMs,
      idlePercent: this.#driver?.clockwork.idlePercent ?? 0,
      losses: this.#recorder.losses,
      /** One range a stage. */
      cut: this.#balancer.cut,
    };
  }

  /** Ends the run in order after the step that the first stage is in. */
  requestStop(): void {
    this.#isStopWanted = true;
    this.#driver?.requestStop();
  }

  /** Trains to the end. Throws the error of the failure that ended the run, wherever in the ring it happened. */
  async train(): Promise<RunOutcome> {
    const { memoryLimit } = this.#settings;
    const unwatch =
      memoryLimit === null ? () => {} : watchMemory(parseMemoryLimit(memoryLimit), (bytes) => this.#exceeded(bytes));
    try {
      const compute = await this.#startCompute();
      return await Promise.race([this.#trainOn(compute), this.#failed.promise]);
    } finally {
      unwatch();
      this.#timeline.flush();
      await this.#bulletin.written;
      await this.#compute?.stop();
    }
  }

  #exceeded(residentBytes: number): void {
    const { node } = this.#init;
    const error = memoryExceeded(node, residentBytes, this.#settings.memoryLimit);
    this.#fail({ kind: "thrown", node, error });
  }

  #plan(cut: readonly LayerRange[]) {
    const { view, node } = this.#init;
    const engine = view.engine.split(":")[0] as EngineKind;
    return { engine, ...planNode(this.#settings, engine, cut, view.members.length, node) };
  }

  async #startCompute(): Promise<ComputeThread> {
    const plan = this.#plan(this.#balancer.cut);
    this.#machine = new StageMachine({ ...this.#stageInit(), segments: segmentsInit(plan, 0) });
    return (this.#compute = await ComputeThread.start({ segments: plan.segments, engine: plan.engine, ...this.#pace }));
  }

  get #pace(): { readonly pace?: number } {
    const { view, node } = this.#init;
    const { pace } = this.#settings;
    return pace === null ? {} : { pace: parsePace(pace, view.members.length)[node]! };
  }

  /** Digests of the weights before the job's first step, also where the run goes on from a checkpoint, which is then loaded. */
  async #loadWeights(compute: ComputeThread): Promise<readonly LayerDigest[]> {
    const { job, folder } = this.#init;
    const { digests } = await compute.run<"digests">({ kind: "digests" });
    if (job.firstStep > 0) {
      await compute.run<"load">({ kind: "load", files: openCheckpoint(folder, job.firstStep).files });
    }
    return digests;
  }

  #stageInit(): Omit<StageInit, "segments"> {
    const { job, view, node } = this.#init;
    const { microBatches, batch, steps, checkpointEvery, validateEvery, stopAtLoss } = this.#settings;
    const { firstStep } = job;
    return {
      shape: shapeOf(this.#settings, view.members.length),
      ...{ node, canSplit: CAN_SPLIT, batch, firstStep, steps, checkpointEvery, validateEvery, stopAtLoss },
      evaluationMicroBatches: evaluationCount(job.testCount, batch / microBatches),
    };
  }

  #createBalancer(): Balancer {
    const { view, node, job } = this.#init;
    return new Balancer({
      ...{ settings: this.#settings, view, node, firstStep: job.firstStep, cut: firstCut(this.#settings, view) },
      driver: () => defined(this.#driver, "a driver"),
      compute: () => defined(this.#compute, "a compute thread"),
      sendToken: (token) => this.#send("successor", { balance: token }),
      sendLayer: (to, part) => this.#sendLayer(to, part),
      event: (kind, fields) => this.#recorder.event(kind, nowMs(), fields),
      recut: (...moved) => {
        this.#recut(...moved).catch((error: unknown) => this.#fail({ kind: "thrown", node, error }));
      },
    });
  }

  /** Other layers from now on: a compute thread with other memory, filled from what moved and what stayed. */
  async #recut(plan: number, step: number, cut: readonly LayerRange[], layers: readonly LayerBlock[]): Promise<void> {
    const planned = this.#plan(cut);
    await this.#compute?.stop();
    const { segments, engine } = planned;
    this.#compute = await ComputeThread.start({ segments, engine, blocks: { step, layers }, ...this.#pace });
    this.#driver?.adopt(this.#compute, segmentsInit(planned, plan));
    this.#recorder.event("migrated", nowMs(), { plan, step, cut });
  }

  #sendLayer(to: Neighbour, { step, layer, offsetBytes, bytes }: LayerPart): void {
    const { job, view } = this.#init;
    const fields = {
      ...{ kind: FrameKind.parameters, dtype: DataType.float32, shape: [bytes.length / 4] },
      ...{ job: BigInt(`0x${job.job}`), view: view.view, step, microBatch: layer, value: offsetBytes },
    };
    const isForward = to === "successor";
    const direction = isForward ? Direction.forward : Direction.backward;
    const link = isForward ? this.#edges?.toSuccessor : this.#edges?.toPredecessor;
    // A link that is lost shows in `ended`.
    link?.send({ ...fields, direction }, bytes).catch(() => {});
  }

  async #trainOn(compute: ComputeThread): Promise<RunOutcome> {
    const initial = await this.#loadWeights(compute);
    const driver = this.#createDriver(compute);
    if (this.#init.view.members.length > 1) await this.#openEdges(driver);
    this.#startedCpuMs = threadCpuMs();
    driver.start(this.#edges);
    if (this.#isStopWanted) driver.requestStop();
    const completedSteps = await driver.finished;
    const last = defined(this.#compute, "a compute thread");
    const { digests: final } = await last.run<"digests">({ kind: "digests" });
    this.#timeline.flush();
    const layers = last.layouts.map(({ init }) => init.layers);
    const { pace } = driver.measured;
    const source: ReportSource = { initial, final, layers, clockwork: driver.clockwork, pace };
    this.#announce({ kind: "report", report: this.#report(source) });
    const summary = await this.#bulletin.summary;
    await this.#edges?.close();
    return { completedSteps, summary };
  }

  #report(source: ReportSource) {
    const { view, node } = this.#init;
    const counters = this.#edges?.counters ?? { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };
    const others = new Set([(node + 1) % view.members.length, (node + view.members.length - 1) % view.members.length]);
    others.delete(node);
    return nodeReport(source, {
      member: view.members[node]!,
      counters,
      neighbours: others.size,
      model: this.#settings.model,
      link: this.#init.transport.lateness ?? null,
      communicationCpuMs: threadCpuMs() - this.#startedCpuMs,
    });
  }

  #createDriver(compute: ComputeThread): StageDriver {
    const { job, view, node, feeder, folder, onCommitted } = this.#init;
    this.#driver = new StageDriver({
      job: BigInt(`0x${job.job}`),
      view: view.view,
      node,
      machine: defined(this.#machine, "the machine comes before the driver"),
      compute,
      feeder,
      batch: this.#settings.batch,
      testCount: job.testCount,
      sampler: this.#sampler,
      timeline: this.#timeline,
      events: {
        stepBegan: (step) => this.#balancer.stepBegan(step),
        committed: (step, loss) => {
          this.#recorder.committed(step, loss, nowMs());
          onCommitted(step, loss);
        },
        evaluated: (step, correct, lossSum) => this.#announce({ kind: "evaluated", step, correct, lossSum }),
        shardFile: (step, layers) => shardDraft(folder, step, layers),
        saved: (step, layers, file, written) => this.#saved(step, layers, file, written),
        notSaved: (step, reason) => this.#announce({ kind: "notSaved", step, reason: reason.slice(0, 2000) }),
        failed: (failure) => this.#driverFailed(failure),
        announcement: (payload, from) => this.#hear(payload, from),
        move: (plan, step) => this.#balancer.begin(plan, step),
        layerPlace: (header, from) => this.#balancer.layerPlace(header, from),
        layerPart: (header, from) => this.#balancer.layerPart(header, from),
      },
    });
    return this.#driver;
  }

  async #openEdges(driver: StageDriver): Promise<void> {
    const { job, view, node, transport, inbox } = this.#init;
    const onEnd = (neighbour: number, end: LinkEnd, role: LinkRole): void => this.#linkEnded(neighbour, end, role);
    const opening = { job: job.job, view, node, transport, receivers: driver.receivers(), onEnd };
    this.#edges = await Edges.open(opening, inbox);
  }

  #saved(step: number, layers: LayerRange, draft: string, written: WrittenFile): void {
    this.#announce({ kind: "saved", step, shard: nameShard(draft, layers, written) });
  }

  /** To this node and, once round the ring, to all others. */
  #announce(body: AnnouncementBody): void {
    this.#bulletin.post(body);
    this.#send("successor", { origin: this.#init.node, body });
  }

  #send(to: Neighbour, message: unknown): void {
    const link = to === "successor" ? this.#edges?.toSuccessor : this.#edges?.toPredecessor;
    const { job, view } = this.#init;
    const fields = { kind: FrameKind.token, job: BigInt(`0x${job.job}`), view: view.view };
    // A link that is lost shows in `ended`.
    link?.send(fields, encodeMessage(message)).catch(() => {});
  }

  #hear(payload: Uint8Array, from: Neighbour): void {
    const announcement = parseMessage(roundSchema, payload);
    if ("balance" in announcement) return this.#balancer.hear(announcement.balance, from);
    const { body, origin } = announcement;
    if (body.kind === "failure") {
      this.#fail(
        { kind: "announced", failure: body.failure },
        from === "predecessor" ? ["successor"] : ["predecessor"],
      );
      return;
    }
    this.#bulletin.post(body);
    if ((this.#init.node + 1) % this.#init.view.members.length !== origin) this.#send("successor", announcement);
  }

  #driverFailed(failure: DriverFailure): void {
    if (failure.kind === "notFinite") this.#fail({ kind: "announced", failure });
    else this.#fail({ kind: "thrown", node: this.#init.node, error: failure.error });
  }

  #linkEnded(neighbour: number, end: LinkEnd, role: LinkRole): void {
    const step = this.#recorder.losses.length;
    switch (end.kind) {
      case "goodbye":
        // All that this node still waits for would have come from its predecessor; the successor may be done earlier.
        if (role !== "forward") return;
        return this.#fail({ kind: "announced", failure: { kind: "lost", node: neighbour, step } });
      case "lost":
        return this.#fail({ kind: "announced", failure: { kind: "lost", node: neighbour, step } });
      case "refused":
        return this.#fail({ kind: "refused", node: this.#init.node, neighbour, by: end.by, reason: end.reason });
      case "failed":
        return this.#fail({ kind: "thrown", node: this.#init.node, error: end.error });
    }
  }

  /** The first failure counts: the neighbours are told, and `train` throws. After the summary there is nothing left to lose. */
  #fail(failure: NodeFailure, tell: readonly Neighbour[] = ["predecessor", "successor"]): void {
    if (this.#hasFailed || this.#bulletin.isComplete) return;
    this.#hasFailed = true;
    this.#driver?.stop();
    const { body, error } = failureError(failure, this.#init.folder, this.#init.view);
    this.#recorder.event("failed", nowMs(), { ...body.failure });
    for (const to of tell) this.#send(to, { origin: this.#init.node, body });
    void this.#farewell().then(() => this.#failed.reject(error));
  }

  async #farewell(): Promise<void> {
    const limit = new Promise<void>((done) => setTimeout(done, FAREWELL_LIMIT_MS).unref());
    await Promise.race([this.#edges?.close(), limit]);
  }
}
