/**
 * @file One node of the ring, from the decided view to the summary: it opens its edges, trains its stage, tells the others
 * what they must know, and ends when every node has heard every report. Nobody schedules it.
 */
import type { EngineKind } from "../../src/engine/contract.ts";
import type { Settings } from "../../src/config/settings.ts";
import { parseTimeline } from "../../src/config/settings.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, type MetricsLine, type RunFolder } from "../../src/metrics/run-folder.ts";
import { Timeline } from "../../src/metrics/timeline.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import { nameShard, newestCheckpoint, shardDraft } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { LayerDigest } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { evaluationCount, type Feeder } from "../../src/runtime/feeder.ts";
import { ThreadSampler, threadCpuMs } from "../../src/runtime/process-sample.ts";
import { defined } from "../../src/types/assert.ts";
import { FrameKind } from "../../src/wire/header.ts";
import type { View } from "../core/formation.ts";
import { cutLayers, type LayerRange } from "../core/partition.ts";
import { StageMachine } from "../core/stage.ts";
import { Bulletin } from "./bulletin.ts";
import { Edges, type EdgeInbox, type LinkRole } from "./edges.ts";
import { failureError, type NodeFailure } from "./failure.ts";
import { announcementSchema, encodeMessage, parseMessage, type AnnouncementBody, type Job } from "./messages.ts";
import { nodeReport, type ReportSource } from "./report.ts";
import { StageDriver, type DriverFailure } from "./stage-driver.ts";

/** How long the last word to the neighbours may take when a run fails. */
const FAREWELL_LIMIT_MS = 1_000;

export interface RingNodeInit {
  readonly job: Job;
  readonly view: View;
  readonly node: number;
  readonly folder: RunFolder;
  readonly transport: Transport;
  readonly inbox: EdgeInbox;
  /** At the node with the data: the first stage. */
  readonly feeder: Feeder | undefined;
  readonly onCommitted: (step: number, loss: number) => void;
}

export interface RunOutcome {
  readonly completedSteps: number;
  readonly summary: Record<string, unknown>;
}

export class RingNode {
  readonly layers: LayerRange;
  readonly #init: RingNodeInit;
  readonly #settings: Settings;
  readonly #recorder: Recorder;
  readonly #bulletin: Bulletin;
  readonly #timeline: Timeline;
  readonly #sampler = new ThreadSampler();
  readonly #failed = Promise.withResolvers<never>();
  #machine: StageMachine | undefined;
  #driver: StageDriver | undefined;
  #edges: Edges | undefined;
  #hasFailed = false;
  #isStopWanted = false;
  #startedCpuMs = 0;

  constructor(init: RingNodeInit) {
    const { job, view, node, folder } = init;
    this.#init = init;
    this.#settings = job.settings;
    this.layers = defined(cutLayers(view.layerCosts, view.members.length)[node], "a segment for each node");
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
    this.#bulletin = new Bulletin({ job, view, folder, isWriter, recorder: this.#recorder });
    // Whoever awaits `train` sees it; until then it must not count as unhandled.
    this.#failed.promise.catch(() => {});
  }

  /** For `status`. */
  describe(): {
    readonly step: number;
    readonly phase: string;
    readonly credits: number;
    readonly idlePercent: number;
    readonly losses: readonly number[];
  } {
    const stage = this.#machine?.describe() ?? { step: this.#init.job.firstStep, phase: "joining", credits: 0 };
    return { ...stage, idlePercent: this.#driver?.clockwork.idlePercent ?? 0, losses: this.#recorder.losses };
  }

  /** Ends the run in order after the step that the first stage is in. */
  requestStop(): void {
    this.#isStopWanted = true;
    this.#driver?.requestStop();
  }

  /** Trains to the end. Throws the error of the failure that ended the run, wherever in the ring it happened. */
  async train(): Promise<RunOutcome> {
    const compute = await this.#startCompute();
    try {
      return await Promise.race([this.#trainOn(compute), this.#failed.promise]);
    } finally {
      this.#timeline.flush();
      await compute.stop();
    }
  }

  async #startCompute(): Promise<ComputeThread> {
    const { view } = this.#init;
    const { model, optimizer, lr, seed, batch, microBatches } = this.#settings;
    const engine = view.engine.split(":")[0] as EngineKind;
    this.#machine = new StageMachine(this.#stageInit());
    const rows = batch / microBatches;
    const segment = { model, layers: this.layers, rows, slots: this.#machine.slots, optimizer, rate: lr, seed, batch };
    return ComputeThread.start({ segments: [segment], engine });
  }

  /** Digests of the weights before the job's first step, also where the run goes on from a checkpoint, which is then loaded. */
  async #loadWeights(compute: ComputeThread): Promise<readonly LayerDigest[]> {
    const { job, folder } = this.#init;
    const { digests } = await compute.run<"digests">({ kind: "digests" });
    if (job.firstStep > 0)
      await compute.run<"load">({ kind: "load", files: newestCheckpoint(folder, this.layers).files });
    return digests;
  }

  #stageInit() {
    const { job, view, node } = this.#init;
    const { schedule, microBatches, batch, steps, checkpointEvery, validateEvery, stopAtLoss } = this.#settings;
    const evaluationMicroBatches = evaluationCount(job.testCount, batch / microBatches);
    const { firstStep } = job;
    const stages = view.members.length;
    return {
      stage: node,
      stages,
      schedule,
      microBatches,
      batch,
      firstStep,
      steps,
      checkpointEvery,
      validateEvery,
      evaluationMicroBatches,
      stopAtLoss,
    };
  }

  async #trainOn(compute: ComputeThread): Promise<RunOutcome> {
    const initial = await this.#loadWeights(compute);
    const driver = this.#createDriver(compute);
    if (this.#init.view.members.length > 1) await this.#openEdges(driver);
    this.#startedCpuMs = threadCpuMs();
    driver.start(this.#edges);
    if (this.#isStopWanted) driver.requestStop();
    const completedSteps = await driver.finished;
    const final = await compute.run<"digests">({ kind: "digests" });
    this.#timeline.flush();
    const source: ReportSource = {
      initial,
      final: final.digests,
      layers: this.layers,
      clockwork: driver.clockwork,
    };
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
      communicationCpuMs: threadCpuMs() - this.#startedCpuMs,
    });
  }

  #createDriver(compute: ComputeThread): StageDriver {
    const { job, view, node, feeder, folder, onCommitted } = this.#init;
    this.#driver = new StageDriver({
      job: BigInt(`0x${job.job}`),
      view: view.view,
      node,
      isLast: node === view.members.length - 1,
      machine: defined(this.#machine, "the machine comes before the driver"),
      compute,
      feeder,
      batch: this.#settings.batch,
      testCount: job.testCount,
      sampler: this.#sampler,
      timeline: this.#timeline,
      events: {
        committed: (step, loss) => {
          this.#recorder.committed(step, loss, nowMs());
          onCommitted(step, loss);
        },
        evaluated: (step, correct, lossSum) => this.#announce({ kind: "evaluated", step, correct, lossSum }),
        shardFile: (step) => shardDraft(folder, step, this.layers),
        saved: (step, file, written) => this.#saved(step, file, written),
        failed: (failure) => this.#driverFailed(failure),
        announcement: (payload, from) => this.#hear(payload, from),
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

  #saved(step: number, draft: string, written: WrittenFile): void {
    this.#announce({ kind: "saved", step, shard: nameShard(draft, this.layers, written) });
  }

  /** To this node and, once round the ring, to all others. */
  #announce(body: AnnouncementBody): void {
    this.#bulletin.post(body);
    this.#send("successor", { origin: this.#init.node, body });
  }

  #send(
    to: "predecessor" | "successor",
    announcement: { readonly origin: number; readonly body: AnnouncementBody },
  ): void {
    const link = to === "successor" ? this.#edges?.toSuccessor : this.#edges?.toPredecessor;
    const { job, view } = this.#init;
    const fields = { kind: FrameKind.token, job: BigInt(`0x${job.job}`), view: view.view };
    // A link that is lost shows in `ended`.
    link?.send(fields, encodeMessage(announcement)).catch(() => {});
  }

  #hear(payload: Uint8Array, from: "predecessor" | "successor"): void {
    const announcement = parseMessage(announcementSchema, payload);
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
  #fail(failure: NodeFailure, tell: readonly ("predecessor" | "successor")[] = ["predecessor", "successor"]): void {
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
