/**
 * @file Drives one stage machine in real time: frames from the neighbours and ends of operations go in, frames and operations
 * come out. It decides nothing; it keeps the accounts and the timeline.
 */
import type { Frame } from "../../src/wire/decoder.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { Receiver } from "../../src/net/link.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { StateDigest } from "../../src/nn/held-state.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { ThreadSampler } from "../../src/runtime/process-sample.ts";
import type { Feeder } from "../../src/runtime/feeder.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { unreachable } from "../../src/types/assert.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { stepIndex } from "../../src/types/ids.ts";
import type { LayerRange } from "../core/partition.ts";
import type { SegmentsInit, StageInput, StageOperation, StageOutput } from "../core/stage-messages.ts";
import type { StageMachine } from "../core/stage.ts";
import type { OperationCosts } from "../core/window.ts";
import type { Edges } from "./edges.ts";
import { parseMessage, wordSchema, type Failure } from "./messages.ts";
import { Operations } from "./operations.ts";
import { Outbox } from "./outbox.ts";
import { keyOf, StageTensors } from "./tensors.ts";

type Neighbour = "predecessor" | "successor";

export interface StageEvents {
  readonly stepBegan: (step: number) => void;
  readonly loss: (step: number, loss: number) => void;
  readonly updating: (step: number) => void;
  /** Digests of the new version, where copies are kept. */
  readonly updated: (step: number, states: readonly StateDigest[]) => void;
  /** Of the commit's token, from the owner before. */
  readonly token: (version: number, count: number) => void;
  readonly evaluated: (completedSteps: number, correct: number, lossSum: number) => void;
  /** Where the shard of a segment after `completedSteps` steps is to be written, and that it was. */
  readonly shardFile: (completedSteps: number, layers: LayerRange) => string;
  readonly saved: (completedSteps: number, layers: LayerRange, file: string, written: WrittenFile) => void;
  readonly notSaved: (completedSteps: number, layers: LayerRange, reason: string) => void;
  readonly failed: (failure: DriverFailure) => void;
  /** JSON that is not the stage's business. */
  readonly announcement: (payload: Uint8Array, from: Neighbour) => void;
  /** Layers are to move before `step`; the answer is `adopt`. */
  readonly move: (plan: number, step: number) => void;
  /** Memory for a part of a layer that a neighbour announces, and that it is there. */
  readonly layerPlace: (header: FrameHeader, from: Neighbour) => Uint8Array;
  readonly layerPart: (header: FrameHeader, from: Neighbour) => void;
}

export type DriverFailure =
  Extract<Failure, { kind: "notFinite" }> | { readonly kind: "thrown"; readonly error: unknown };

export interface StageDriverInit {
  readonly job: bigint;
  readonly view: number;
  readonly node: number;
  /** It holds the model's begin, and so decides which step is the last. */
  readonly isFirst: boolean;
  readonly machine: StageMachine;
  readonly compute: ComputeThread;
  readonly feeder: Feeder | undefined;
  readonly batch: number;
  readonly testCount: number;
  readonly sampler: ThreadSampler;
  /** The node's, over all views. */
  readonly clockwork: StageClockwork;
  readonly timeline: Timeline;
  /** Undefined where frames may be handled; else when they may: this process stood still, and others may have gone on. */
  readonly gate: () => Promise<void> | undefined;
  readonly events: StageEvents;
}

export class StageDriver {
  /** Resolves with the number of completed steps when the last evaluation is over. */
  readonly finished: Promise<number>;
  readonly clockwork: StageClockwork;
  readonly #finished = Promise.withResolvers<number>();
  readonly #init: StageDriverInit;
  readonly #outbox: Outbox;
  #operations: Operations;
  #step = 0;
  #isStopped = false;
  #isStopWanted = false;

  constructor(init: StageDriverInit) {
    this.#init = init;
    this.finished = this.#finished.promise;
    this.clockwork = init.clockwork;
    this.#outbox = new Outbox(init);
    this.#operations = this.#operate(init.compute);
  }

  #operate(compute: ComputeThread, before?: StageTensors): Operations {
    const { machine, feeder, batch, testCount, timeline, events } = this.#init;
    const { memory, layouts } = compute;
    const tensors = new StageTensors({ memory, layouts, machine, batch, testCount, feeder }, before);
    const { shardFile, saved, notSaved } = events;
    return new Operations({ compute, tensors, clockwork: this.clockwork, timeline, shardFile, saved, notSaved });
  }

  /** What this node's layers take, and how well it kept a stated pace. */
  get measured(): Pick<Operations, "layerUs" | "pace"> {
    return this.#operations;
  }

  /** Begins with step `firstStep`; on one node there are no edges. */
  start(edges: Edges | undefined): void {
    this.#outbox.connect(edges);
    this.#take({ kind: "start" });
    // A wish that came before there was anybody to tell.
    if (this.#isStopWanted) this.requestStop();
  }

  /** Node 0 ends after the step that it is in; others pass the wish upstream. */
  requestStop(): void {
    this.#isStopWanted = true;
    if (this.#init.isFirst) this.#take({ kind: "stopRequested" });
    else this.#outbox.say("predecessor", { say: "stop" });
  }

  /** Every copy of every layer has this version. */
  frontier(version: number): void {
    this.#take({ kind: "frontier", version });
  }

  /** Layers will move before `step`; null at node 0, which names it. */
  planMove(plan: number, step: number | null): void {
    this.#take({ kind: "plan", plan, step });
  }

  /** The layers have moved: from now on this is the node's compute thread. The old one may end. */
  adopt(compute: ComputeThread, segments: SegmentsInit): void {
    this.#operations = this.#operate(compute, this.#operations.tensors);
    this.clockwork.segmentsChanged(compute.layouts.length);
    this.#take({ kind: "moved", segments });
  }

  /** No frame and no result moves the stage any more. */
  stop(): void {
    this.#isStopped = true;
  }

  receivers(): Readonly<Record<"forward" | "backward", Receiver>> {
    return {
      forward: this.#receiver("predecessor"),
      backward: this.#receiver("successor"),
    };
  }

  #receiver(from: Neighbour): Receiver {
    return {
      gate: this.#init.gate,
      destination: (header) => this.#destination(header, from),
      handle: (frame) => this.#handle(frame, from),
    };
  }

  #destination(header: FrameHeader, from: Neighbour): Uint8Array {
    this.#guard(header);
    if (header.kind === FrameKind.token || header.kind === FrameKind.control)
      return new Uint8Array(header.payloadBytes);
    if (header.kind === FrameKind.parameters) return this.#init.events.layerPlace(header, from);
    const { tensors } = this.#operations;
    return from === "predecessor" ? tensors.placeForward(header) : tensors.placeBackward(header);
  }

  /** Frames of another job or view never reach a handler. The sender is the link's, proven when it opened. */
  #guard(header: FrameHeader): void {
    const { job, view } = this.#init;
    if (header.job === job && header.view === view) return;
    throw new ProtocolError(
      `a frame of job ${header.job}, view ${header.view}: this ring is job ${job}, view ${view}`,
      "let the node join again",
    );
  }

  #handle({ header, payload }: Frame, from: Neighbour): void {
    this.#guard(header);
    // The link asks for no memory where there is no payload, so nothing has compared this frame with the plan.
    if (payload.byteLength === 0 && header.kind !== FrameKind.frontier) this.#destination(header, from);
    if (header.kind === FrameKind.frontier) return this.#hearToken(header, from);
    if (header.kind === FrameKind.token) return this.#init.events.announcement(payload, from);
    if (header.kind === FrameKind.parameters) return this.#init.events.layerPart(header, from);
    if (header.kind === FrameKind.control) return this.#word(payload, from);
    if (from === "predecessor") this.#handleForward(header);
    else this.#handleBackward(header);
  }

  #hearToken({ step: version, microBatch: count }: FrameHeader, from: Neighbour): void {
    if (from !== "predecessor") throw unexpected("a commit's token", from);
    if (!this.#isStopped) this.#init.events.token(version, count);
  }

  #handleForward(header: FrameHeader): void {
    const { lap, value, microBatch } = header;
    switch (header.kind) {
      case FrameKind.activation:
        this.#received(header);
        return this.#take({ kind: "activation", ...keyOf(header), value, nowMs: nowMs() });
      case FrameKind.evaluation:
        return this.#take({ kind: "evaluation", lap, index: microBatch });
      default:
        throw unexpected(`kind ${header.kind}`, "predecessor");
    }
  }

  #handleBackward(header: FrameHeader): void {
    const { value, credits } = header;
    switch (header.kind) {
      case FrameKind.gradient:
        this.#received(header);
        return this.#take({ kind: "gradient", ...keyOf(header), value, credits, nowMs: nowMs() });
      case FrameKind.labels:
        return this.#take({ kind: "labels", step: stepIndex(header.step) });
      case FrameKind.evaluation:
        return this.#take({ kind: "evaluationLabels" });
      default:
        throw unexpected(`kind ${header.kind}`, "successor");
    }
  }

  #word(payload: Uint8Array, from: Neighbour): void {
    const word = parseMessage(wordSchema, payload);
    if ((word.say === "end") !== (from === "predecessor")) throw unexpected(`"${word.say}"`, from);
    switch (word.say) {
      case "end":
        return this.#take({ kind: "end", lastStep: stepIndex(word.lastStep) });
      case "stop":
        return this.requestStop();
      case "evaluationCredit":
        return this.#take({ kind: "evaluationCredit", lap: word.lap });
      case "credits":
        return this.#take({ ...word, kind: "credits" });
    }
    unreachable(word);
  }

  #received(header: FrameHeader): void {
    const { step, lap, microBatch, payloadBytes: bytes } = header;
    const at = nowMs();
    this.#init.timeline.add({ kind: "receive", step, lap, microBatch, startMs: at, endMs: at, bytes });
  }

  /** An operation is started before anything is sent: the worker need not wait for the sending. */
  #take(input: StageInput): void {
    if (this.#isStopped) return;
    const outputs = this.#init.machine.handle(input);
    for (const output of outputs) if (output.kind === "compute") void this.#compute(output.operation);
    for (const output of outputs) if (output.kind !== "compute") this.#act(output);
  }

  #act(output: Exclude<StageOutput, { kind: "compute" }>): void {
    const { tensors } = this.#operations;
    const { events, feeder } = this.#init;
    switch (output.kind) {
      case "drain":
        // What the kernel has for this process by now is read before the next turn of the loop.
        setImmediate(() => this.#take({ kind: "drained" }));
        return;
      case "sendActivation":
        return this.#outbox.activation(output, tensors.output(output.lap, output.slot));
      case "sendGradient": {
        const { lap, slot } = output;
        this.#outbox.gradient(output, tensors.inputGradient(lap, slot)).then(
          () => this.#take({ kind: "gradientLeft", lap }),
          () => {},
        );
        return;
      }
      case "sendCredits": {
        const { toLap: lap, credits, opensPlan } = output;
        return this.#outbox.say("predecessor", { say: "credits", lap, credits, opensPlan });
      }
      case "sendLabels":
        return this.#outbox.integers(FrameKind.labels, output.step, feeder?.stepLabels(output.step));
      case "sendEvaluationLabels":
        return this.#outbox.integers(FrameKind.evaluation, 0, feeder?.data.test.labels);
      case "sendEvaluation": {
        const { lap, slot } = output;
        this.#outbox.evaluation(output, tensors.output(lap, slot)).then(
          () => this.#take({ kind: "evaluationLeft", lap }),
          () => {},
        );
        return;
      }
      case "sendEvaluationCredit":
        return this.#outbox.say("predecessor", { say: "evaluationCredit", lap: output.toLap });
      case "sendEnd":
        return this.#outbox.say("successor", { say: "end", lastStep: output.lastStep });
      case "loss":
        return events.loss(output.step, output.loss);
      case "evaluated":
        return events.evaluated(output.completedSteps, output.correct, output.lossSum);
      case "move":
        return events.move(output.plan, output.step);
      case "finished":
        return this.#finished.resolve(output.completedSteps);
      case "violation":
        throw new ProtocolError(output.reason, "run the same build on every node");
    }
    unreachable(output);
  }

  async #compute(operation: StageOperation): Promise<void> {
    const { events, node } = this.#init;
    if (operation.kind === "forward" && operation.microBatch === 0 && operation.lap === 0) {
      this.#step = operation.step;
      events.stepBegan(operation.step);
    }
    try {
      if (operation.kind === "update") events.updating(operation.step);
      const { loss, correct, notFiniteLayer, states } = await this.#operations.run(operation);
      // The version is there whether or not the view still is.
      if (operation.kind === "update") events.updated(operation.step, states);
      // The stage stands still from here on; the failure ends the run.
      if (notFiniteLayer !== null) {
        return events.failed({ kind: "notFinite", node, step: this.#step, layer: notFiniteLayer });
      }
      if (operation.kind === "update") this.#take({ kind: "measured", costs: this.#meanCosts() });
      this.#take({ kind: "computed", loss, correct, nowMs: nowMs() });
    } catch (error) {
      if (!this.#isStopped) events.failed({ kind: "thrown", error });
    }
  }

  /** Of one lap. */
  #meanCosts(): OperationCosts {
    const laps = this.clockwork.recentCosts;
    const mean = (kind: keyof OperationCosts): number => laps.reduce((sum, lap) => sum + lap[kind], 0) / laps.length;
    return { forward: mean("forward"), backward: mean("backward"), weight: mean("weight") };
  }
}

function unexpected(what: string, from: Neighbour): ProtocolError {
  return new ProtocolError(`${what} does not come from a ${from}`, "run the same build on every node");
}
