/**
 * @file One view's training at one owner: it opens the edges to its neighbours, runs its stage from the restored step on, and ends with the
 * view. Nothing of it is left for the next one, which begins with micro-batch 0 of its own step.
 */
import type { EngineKind } from "../../src/engine/contract.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { LayerBlock } from "../../src/nn/blocks.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import type { StateDigest } from "../../src/nn/held-state.ts";
import { shardDraft } from "../../src/runtime/checkpoint.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { evaluationCount, type Feeder } from "../../src/runtime/feeder.ts";
import type { ThreadSampler } from "../../src/runtime/process-sample.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { DataType, Direction, FrameKind } from "../../src/wire/header.ts";
import type { Neighbour } from "../core/moves.ts";
import type { LayerRange } from "../core/partition.ts";
import type { StageInit } from "../core/stage-messages.ts";
import { StageMachine } from "../core/stage.ts";
import type { RingView } from "../core/view.ts";
import { Balancer } from "./balancer.ts";
import { Edges, type EdgeInbox, type LinkRole } from "./edges.ts";
import { encodeMessage, parseMessage, roundSchema, type Announcement, type Job } from "./messages.ts";
import type { LayerPart } from "./migration.ts";
import { CAN_SPLIT, planNode, presentShape, segmentsInit } from "./segments.ts";
import { StageDriver, type DriverFailure } from "./stage-driver.ts";

export interface SessionEvents {
  /** A step's loss is known; see `StageOutput`. */
  readonly loss: (step: number, loss: number) => void;
  readonly evaluated: (completedSteps: number, correct: number, lossSum: number) => void;
  readonly saved: (completedSteps: number, layers: LayerRange, file: string, written: WrittenFile) => void;
  readonly notSaved: (completedSteps: number, layers: LayerRange, reason: string) => void;
  /** The update of a step begins, and has ended: digests where copies are kept. */
  readonly updating: (step: number) => void;
  readonly updated: (step: number, states: readonly StateDigest[]) => void;
  readonly token: (version: number, count: number) => void;
  readonly announcement: (announcement: Announcement, from: Neighbour) => void;
  readonly edgeEnded: (neighbour: number, end: LinkEnd, role: LinkRole) => void;
  readonly failed: (failure: DriverFailure) => void;
  readonly note: (kind: string, fields: Readonly<Record<string, unknown>>) => void;
  /** The ring has agreed on other layers, which only another view brings. */
  readonly recut: (cut: readonly LayerRange[]) => void;
}

export interface SessionInit {
  readonly job: Job;
  readonly view: RingView;
  readonly node: number;
  readonly engine: EngineKind;
  readonly layerCosts: readonly number[];
  readonly folder: RunFolder;
  readonly transport: Transport;
  readonly inbox: EdgeInbox;
  /** At the model's begin. */
  readonly feeder: Feeder | undefined;
  readonly compute: ComputeThread;
  readonly startCompute: (
    cut: readonly LayerRange[],
    step: number,
    layers: readonly LayerBlock[],
  ) => Promise<ComputeThread>;
  readonly clockwork: StageClockwork;
  readonly sampler: ThreadSampler;
  readonly timeline: Timeline;
  /** Loss of the step before the first. */
  readonly lossBefore: number;
  /** Moves of layers that earlier views saw. */
  readonly earlierMoves: number;
  /** Undefined where frames may be handled; else when they may. */
  readonly gate: () => Promise<void> | undefined;
  readonly events: SessionEvents;
}

export class Session {
  readonly view: RingView;
  readonly driver: StageDriver;
  readonly #init: SessionInit;
  readonly #settings: Settings;
  readonly #machine: StageMachine;
  readonly #balancer: Balancer;
  readonly #place: number;
  #compute: ComputeThread;
  #edges: Edges | undefined;
  /** Ends the edges, those that are still to open as well. */
  readonly #edgesOver = new AbortController();
  #isOver = false;

  constructor(init: SessionInit) {
    const { view, node, job, engine, compute } = init;
    this.#init = init;
    this.view = view;
    this.#settings = job.settings;
    this.#compute = compute;
    this.#place = view.owners.indexOf(node);
    const plan = planNode(this.#settings, engine, view.cut, view.owners.length, this.#place);
    this.#machine = new StageMachine({ ...this.#stageInit(), segments: segmentsInit(plan, 0) });
    this.#balancer = this.#createBalancer();
    this.driver = this.#createDriver();
  }

  describe() {
    /** One range a stage. */
    return { ...this.#machine.describe(), cut: this.#balancer.cut };
  }

  /** Opens the edges and begins. Throws NetworkError where a neighbour cannot be reached; nothing where the view ends meanwhile. */
  async start(): Promise<void> {
    const { job, view, node, transport, inbox, events } = this.#init;
    if (view.owners.length > 1) {
      const onEnd = (neighbour: number, end: LinkEnd, role: LinkRole): void => {
        if (!this.#isOver) events.edgeEnded(neighbour, end, role);
      };
      const { signal } = this.#edgesOver;
      const opening = { job: job.job, view, node, transport, receivers: this.driver.receivers(), onEnd, signal };
      try {
        this.#edges = await Edges.open(opening, inbox);
      } catch (error) {
        if (!this.#isOver) throw error;
      }
    }
    if (this.#isOver) return this.#edgesOver.abort();
    this.driver.start(this.#edges);
  }

  get counters(): Edges["counters"] {
    return this.#edges?.counters ?? { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };
  }

  get isOpen(): boolean {
    return this.#edges !== undefined;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Commits are to be expected: it trains, or has finished what not all copies have. It saves and evaluates as long as that takes. */
  get isTraining(): boolean {
    const { phase, awaitsFrontier } = this.#machine.describe();
    return phase === "created" || phase === "training" || phase === "updating" || awaitsFrontier !== null;
  }

  /** No frame of the view is sent or handled any more. */
  stop(): void {
    this.#isOver = true;
    this.driver.stop();
    this.#edgesOver.abort();
  }

  /** The run is over: GOODBYE on every edge. */
  async close(): Promise<void> {
    this.#isOver = true;
    await this.#edges?.close();
  }

  /** Once round the ring, or as far as it is whole. */
  send(to: Neighbour, message: unknown): void {
    const link = to === "successor" ? this.#edges?.toSuccessor : this.#edges?.toPredecessor;
    // A link that is lost shows in `ended`.
    link?.send({ kind: FrameKind.token, ...this.#fields }, encodeMessage(message)).catch(() => {});
  }

  /** Of the commit's token, to the next owner. */
  sendToken(version: number, count: number): void {
    const fields = { kind: FrameKind.frontier, ...this.#fields, step: version, microBatch: count };
    this.#edges?.toSuccessor.send(fields).catch(() => {});
  }

  get #fields() {
    const { job, view } = this.#init;
    return { job: BigInt(`0x${job.job}`), view: view.view };
  }

  #stageInit(): Omit<StageInit, "segments"> {
    const { job, view, lossBefore } = this.#init;
    const { microBatches, batch, steps, checkpointEvery, validateEvery, stopAtLoss } = this.#settings;
    return {
      shape: presentShape(this.#settings, view.owners.length),
      ...{
        node: this.#place,
        canSplit: CAN_SPLIT,
        batch,
        steps,
        checkpointEvery,
        validateEvery,
        stopAtLoss,
        lossBefore,
      },
      firstStep: view.restoreStep,
      isReplicated: view.replicas > 0,
      evaluationMicroBatches: evaluationCount(job.testCount, batch / microBatches),
    };
  }

  #createBalancer(): Balancer {
    const { view, layerCosts, earlierMoves, events } = this.#init;
    return new Balancer({
      ...{ settings: this.#settings, view, place: this.#place, layerCosts, earlierMoves },
      driver: () => this.driver,
      compute: () => this.#compute,
      sendToken: (token) => this.send("successor", { balance: token }),
      sendLayer: (to, part) => this.#sendLayer(to, part),
      event: events.note,
      newView: view.replicas > 0 ? events.recut : null,
      recut: (...moved) => {
        this.#recut(...moved).catch((error: unknown) => events.failed({ kind: "thrown", error }));
      },
    });
  }

  /** Other layers from now on: a compute thread with other memory, filled from what moved and what stayed. */
  async #recut(plan: number, step: number, cut: readonly LayerRange[], layers: readonly LayerBlock[]): Promise<void> {
    const { engine, view, startCompute, events } = this.#init;
    await this.#compute.stop();
    this.#compute = await startCompute(cut, step, layers);
    const planned = planNode(this.#settings, engine, cut, view.owners.length, this.#place);
    this.driver.adopt(this.#compute, segmentsInit(planned, plan));
    events.note("migrated", { plan, step, cut });
  }

  #sendLayer(to: Neighbour, { step, layer, offsetBytes, bytes }: LayerPart): void {
    const isForward = to === "successor";
    const fields = {
      ...{ kind: FrameKind.parameters, dtype: DataType.float32, shape: [bytes.length / 4] },
      ...{ ...this.#fields, step, microBatch: layer, value: offsetBytes },
      direction: isForward ? Direction.forward : Direction.backward,
    };
    const link = isForward ? this.#edges?.toSuccessor : this.#edges?.toPredecessor;
    // A link that is lost shows in `ended`.
    link?.send(fields, bytes).catch(() => {});
  }

  #createDriver(): StageDriver {
    const { job, view, node, compute, feeder, folder, sampler, clockwork, timeline, gate, events } = this.#init;
    return new StageDriver({
      job: BigInt(`0x${job.job}`),
      view: view.view,
      ...{ node, isFirst: this.#place === 0, machine: this.#machine, compute, feeder },
      batch: this.#settings.batch,
      testCount: job.testCount,
      ...{ sampler, clockwork, timeline, gate },
      events: {
        ...events,
        stepBegan: (step) => this.#balancer.stepBegan(step),
        shardFile: (step, layers) => shardDraft(folder, step, layers),
        announcement: (payload, from) => this.#hear(payload, from),
        move: (plan, step) => this.#balancer.begin(plan, step),
        layerPlace: (header, from) => this.#balancer.layerPlace(header, from),
        layerPart: (header, from) => this.#balancer.layerPart(header, from),
      },
    });
  }

  #hear(payload: Uint8Array, from: Neighbour): void {
    const word = parseMessage(roundSchema, payload);
    if ("balance" in word) this.#balancer.hear(word.balance, from);
    else this.#init.events.announcement(word, from);
  }
}
