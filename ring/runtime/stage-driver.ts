/**
 * @file Drives one stage machine in real time: frames from the neighbours and ends of operations go in, frames and operations
 * come out. It decides nothing; it keeps the accounts and the timeline.
 */
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, Direction, FrameKind, type FrameFields, type FrameHeader } from "../../src/wire/header.ts";
import type { Link, Receiver } from "../../src/net/link.ts";
import { TimeAccount } from "../../src/metrics/accounting.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { ThreadSampler } from "../../src/runtime/process-sample.ts";
import type { Feeder } from "../../src/runtime/feeder.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import { defined, unreachable } from "../../src/types/assert.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { stepIndex } from "../../src/types/ids.ts";
import type { StageInput, StageOperation, StageOutput } from "../core/stage-messages.ts";
import type { StageMachine } from "../core/stage.ts";
import type { Edges } from "./edges.ts";
import { encodeMessage, parseMessage, wordSchema, type Failure, type Word } from "./messages.ts";
import { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { keyOf, StageTensors } from "./tensors.ts";

export interface StageEvents {
  readonly committed: (step: number, loss: number) => void;
  readonly evaluated: (completedSteps: number, correct: number, lossSum: number) => void;
  /** Where the shard of the state after `completedSteps` steps is to be written, and that it was. */
  readonly shardFile: (completedSteps: number) => string;
  readonly saved: (completedSteps: number, file: string, written: WrittenFile) => void;
  readonly failed: (failure: DriverFailure) => void;
  /** JSON that is not the stage's business. */
  readonly announcement: (payload: Uint8Array, from: "predecessor" | "successor") => void;
}

export type DriverFailure =
  Extract<Failure, { kind: "notFinite" }> | { readonly kind: "thrown"; readonly error: unknown };

export interface StageDriverInit {
  readonly job: bigint;
  readonly view: number;
  readonly node: number;
  readonly isLast: boolean;
  readonly machine: StageMachine;
  readonly compute: ComputeThread;
  readonly feeder: Feeder | undefined;
  readonly batch: number;
  readonly testCount: number;
  readonly sampler: ThreadSampler;
  readonly timeline: Timeline;
  readonly events: StageEvents;
}

const nothing = { loss: Number.NaN, correct: 0 };

export class StageDriver {
  /** Resolves with the number of completed steps when the last evaluation is over. */
  readonly finished: Promise<number>;
  readonly clockwork: StageClockwork;
  readonly #finished = Promise.withResolvers<number>();
  readonly #init: StageDriverInit;
  readonly #tensors: StageTensors;
  #edges: Edges | undefined;
  #step = 0;
  #isStopped = false;
  #isStopWanted = false;

  constructor(init: StageDriverInit) {
    const { compute, machine, feeder, batch, testCount } = init;
    this.#init = init;
    this.finished = this.#finished.promise;
    this.#tensors = new StageTensors({
      memory: compute.memory,
      layout: defined(compute.layouts[0], "a lap"),
      machine,
      batch,
      testCount,
      feeder,
    });
    this.clockwork = new StageClockwork(new TimeAccount(init.sampler.sample()), init.sampler);
  }

  /** Begins with step `firstStep`; on one node there are no edges. */
  start(edges: Edges | undefined): void {
    this.#edges = edges;
    this.#take({ kind: "start" });
    // A wish that came before there was anybody to tell.
    if (this.#isStopWanted) this.requestStop();
  }

  /** Stage 0 ends after the step that it is in; other stages pass the wish upstream. */
  requestStop(): void {
    this.#isStopWanted = true;
    if (this.#init.node === 0) this.#take({ kind: "stopRequested" });
    else this.#say(this.#edges?.toPredecessor, { say: "stop" });
  }

  /** No frame and no result moves the stage any more. */
  stop(): void {
    this.#isStopped = true;
  }

  receivers(): Readonly<Record<"forward" | "backward", Receiver>> {
    return {
      forward: {
        destination: (header) => this.#destination(header, "predecessor"),
        handle: (frame) => this.#handleForward(frame),
      },
      backward: {
        destination: (header) => this.#destination(header, "successor"),
        handle: (frame) => this.#handleBackward(frame),
      },
    };
  }

  #destination(header: FrameHeader, from: "predecessor" | "successor"): Uint8Array {
    this.#guard(header);
    if (header.kind === FrameKind.token || header.kind === FrameKind.control)
      return new Uint8Array(header.payloadBytes);
    return from === "predecessor" ? this.#tensors.placeForward(header) : this.#tensors.placeBackward(header);
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

  #handleForward({ header, payload }: Frame): void {
    this.#guard(header);
    // The link asks for no memory where there is no payload, so nothing has compared this frame with the plan.
    if (payload.byteLength === 0) this.#destination(header, "predecessor");
    switch (header.kind) {
      case FrameKind.activation:
        this.#received(header);
        return this.#take({ kind: "activation", ...keyOf(header) });
      case FrameKind.evaluation:
        return this.#take({ kind: "evaluation", index: header.microBatch });
      case FrameKind.control: {
        const word = parseMessage(wordSchema, payload);
        if (word.say === "end") return this.#take({ kind: "end", lastStep: stepIndex(word.lastStep) });
        throw new ProtocolError(`"${word.say}" does not come from a predecessor`, "run the same build on every node");
      }
      case FrameKind.token:
        return this.#init.events.announcement(payload, "predecessor");
      default:
        throw new ProtocolError(
          `kind ${header.kind} does not come from a predecessor`,
          "run the same build on every node",
        );
    }
  }

  #handleBackward({ header, payload }: Frame): void {
    this.#guard(header);
    if (payload.byteLength === 0) this.#destination(header, "successor");
    switch (header.kind) {
      case FrameKind.gradient:
        this.#received(header);
        return this.#take({ kind: "gradient", ...keyOf(header), loss: header.value, credits: header.credits });
      case FrameKind.labels:
        return this.#take({ kind: "labels", step: stepIndex(header.step) });
      case FrameKind.evaluation:
        return this.#take({ kind: "evaluationLabels" });
      case FrameKind.control: {
        const word = parseMessage(wordSchema, payload);
        if (word.say === "evaluationCredit") return this.#take({ kind: "evaluationCredit" });
        if (word.say === "stop") return this.requestStop();
        throw new ProtocolError(`"${word.say}" does not come from a successor`, "run the same build on every node");
      }
      case FrameKind.token:
        return this.#init.events.announcement(payload, "successor");
      default:
        throw new ProtocolError(
          `kind ${header.kind} does not come from a successor`,
          "run the same build on every node",
        );
    }
  }

  #received(header: FrameHeader): void {
    const at = nowMs();
    this.#init.timeline.add("receive", header.step, header.microBatch, at, at, header.payloadBytes);
  }

  #take(input: StageInput): void {
    if (this.#isStopped) return;
    for (const output of this.#init.machine.handle(input)) this.#act(output);
  }

  #act(output: StageOutput): void {
    switch (output.kind) {
      case "compute":
        void this.#compute(output.operation);
        return;
      case "sendActivation": {
        const { step, microBatch, slot } = output;
        return this.#sendTensor(this.#edges?.toSuccessor, FrameKind.activation, this.#tensors.output(slot), {
          step,
          microBatch,
        });
      }
      case "sendGradient": {
        const { loss: value, credits } = output;
        const fields = {
          step: output.step,
          microBatch: output.microBatch,
          value,
          credits,
          direction: Direction.backward,
        };
        return this.#sendTensor(
          this.#edges?.toPredecessor,
          FrameKind.gradient,
          this.#tensors.inputGradient(output.slot),
          fields,
        );
      }
      case "sendLabels":
        return this.#sendIntegers(FrameKind.labels, output.step, this.#init.feeder?.stepLabels(output.step));
      case "sendEvaluationLabels":
        return this.#sendIntegers(FrameKind.evaluation, 0, this.#init.feeder?.data.test.labels);
      case "sendEvaluation":
        return this.#sendEvaluation(output.index, output.slot);
      case "sendEvaluationCredit":
        return this.#say(this.#edges?.toPredecessor, { say: "evaluationCredit" });
      case "sendEnd":
        return this.#say(this.#edges?.toSuccessor, { say: "end", lastStep: output.lastStep });
      case "committed":
        return this.#init.events.committed(output.step, output.loss);
      case "evaluated":
        return this.#init.events.evaluated(output.completedSteps, output.correct, output.lossSum);
      case "finished":
        return this.#finished.resolve(output.completedSteps);
      case "violation":
        throw new ProtocolError(output.reason, "run the same build on every node");
    }
    unreachable(output);
  }

  async #compute(operation: StageOperation): Promise<void> {
    try {
      const loss = await this.#run(operation);
      this.#take({ kind: "computed", ...loss });
    } catch (error) {
      if (!this.#isStopped) this.#init.events.failed({ kind: "thrown", error });
    }
  }

  async #run(operation: StageOperation): Promise<{ readonly loss: number; readonly correct: number }> {
    const { compute, events } = this.#init;
    switch (operation.kind) {
      case "forward":
      case "evaluate": {
        if (operation.kind === "evaluate") this.#tensors.fillEvaluation(operation.slot, operation.index);
        else this.#beginForward(operation.slot, operation.step, operation.microBatch);
        const { kind, slot } = operation;
        const result = await this.clockwork.timed(() => compute.run<"forward" | "evaluate">({ kind, lap: 0, slot }));
        if (operation.kind === "forward")
          this.#note("F", operation.step, operation.microBatch, result.startMs, result.endMs);
        if (result.notFiniteLayer >= 0) return this.#notFinite(result.notFiniteLayer);
        return result;
      }
      case "backward": {
        const { startMs, boundaryMs, endMs } = await this.clockwork.timed(() =>
          compute.run<"backward">({ kind: "backward", lap: 0, slot: operation.slot }),
        );
        this.#note("B", operation.step, operation.microBatch, startMs, boundaryMs);
        this.#note("W", operation.step, operation.microBatch, boundaryMs, endMs);
        return nothing;
      }
      case "update": {
        const { startMs, endMs } = await this.clockwork.timed(() =>
          compute.run<"update">({ kind: "update", step: operation.step }),
        );
        this.#note("update", operation.step, 0, startMs, endMs);
        this.clockwork.stepEnded();
        return nothing;
      }
      case "save": {
        const file = events.shardFile(operation.completedSteps);
        const result = await this.clockwork.timed(() =>
          compute.run<"save">({ kind: "save", lap: 0, file, step: operation.completedSteps }),
        );
        events.saved(operation.completedSteps, file, result);
        return nothing;
      }
    }
    return unreachable(operation);
  }

  #beginForward(slot: number, step: number, microBatch: number): void {
    if (microBatch === 0) {
      this.#step = step;
      this.clockwork.stepStarted(step);
    }
    this.#tensors.fillTraining(slot, step, microBatch);
  }

  #notFinite(layer: number): Promise<never> {
    this.#init.events.failed({ kind: "notFinite", node: this.#init.node, step: this.#step, layer });
    // The stage stands still from here on; the failure ends the run.
    return new Promise(() => {});
  }

  #note(kind: "F" | "B" | "W" | "update", step: number, microBatch: number, startMs: number, endMs: number): void {
    const { timeline } = this.#init;
    const waitedFromMs = this.clockwork.noteOperation(kind, startMs, endMs);
    if (waitedFromMs !== undefined) timeline.add("wait", step, microBatch, waitedFromMs, startMs);
    timeline.add(kind, step, microBatch, startMs, endMs);
  }

  #sendTensor(
    link: Link | undefined,
    kind: FrameKind,
    tensor: { readonly bytes: Uint8Array; readonly shape: readonly number[] },
    fields: Pick<FrameFields, "step" | "microBatch"> & Partial<FrameFields>,
  ): void {
    const { job, view, timeline } = this.#init;
    const { step, microBatch, value, credits, direction } = {
      value: Number.NaN,
      credits: 0,
      direction: Direction.forward,
      ...fields,
    };
    const startMs = nowMs();
    const sent = link?.send(
      { kind, dtype: DataType.float32, shape: tensor.shape, job, view, step, microBatch, value, credits, direction },
      tensor.bytes,
    );
    // The slot is not reused before its bytes have left: the neighbour's answer, which frees it, needs them. A lost link shows in `ended`.
    sent?.then(
      () => timeline.add("send", step, microBatch, startMs, nowMs(), tensor.bytes.byteLength),
      () => {},
    );
  }

  #sendEvaluation(index: number, slot: number): void {
    const { job, view } = this.#init;
    const { bytes, shape } = this.#tensors.output(slot);
    const fields = { kind: FrameKind.evaluation, dtype: DataType.float32, shape, job, view, microBatch: index };
    this.#edges?.toSuccessor.send(fields, bytes).then(
      () => this.#take({ kind: "evaluationSent", index }),
      () => {},
    );
  }

  #sendIntegers(kind: FrameKind, step: number, values: Int32Array | undefined): void {
    if (values === undefined) return;
    const { job, view } = this.#init;
    const payload = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const fields = {
      kind,
      dtype: DataType.int32,
      shape: [values.length],
      job,
      view,
      step,
      direction: Direction.backward,
    };
    this.#edges?.toPredecessor.send(fields, payload).catch(() => {});
  }

  #say(link: Link | undefined, word: Word): void {
    const { job, view } = this.#init;
    link?.send({ kind: FrameKind.control, job, view }, encodeMessage(word)).catch(() => {});
  }
}
