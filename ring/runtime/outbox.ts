/** @file What one node sends over its edges: tensors, labels, small words. A link that is lost shows in `ended`, not here. */
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { Link } from "../../src/net/link.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { DataType, Direction, FrameKind, type FrameFields } from "../../src/wire/header.ts";
import type { StageOutput } from "../core/stage-messages.ts";
import type { Edges } from "./edges.ts";
import { encodeMessage, type Word } from "./messages.ts";
import type { OutgoingTensor } from "./tensors.ts";

type Of<Kind> = Extract<StageOutput, { readonly kind: Kind }>;

export interface OutboxInit {
  readonly job: bigint;
  readonly view: number;
  readonly timeline: Timeline;
}

export class Outbox {
  readonly #init: OutboxInit;
  #edges: Edges | undefined;

  constructor(init: OutboxInit) {
    this.#init = init;
  }

  /** On one node there are none. */
  connect(edges: Edges | undefined): void {
    this.#edges = edges;
  }

  activation({ step, microBatch, toLap, lap, value }: Of<"sendActivation">, tensor: OutgoingTensor): void {
    const fields = { kind: FrameKind.activation, step, microBatch, lap: toLap, value };
    this.#tensor(this.#edges?.toSuccessor, lap, fields, tensor).catch(() => {});
  }

  /** Resolves when the slot may be used again. */
  gradient(output: Of<"sendGradient">, tensor: OutgoingTensor): Promise<void> {
    const { step, microBatch, toLap, lap, value, credits } = output;
    const direction = Direction.backward;
    const fields = { kind: FrameKind.gradient, step, microBatch, lap: toLap, value, credits, direction };
    return this.#tensor(this.#edges?.toPredecessor, lap, fields, tensor);
  }

  evaluation({ toLap, index }: Of<"sendEvaluation">, { bytes, shape }: OutgoingTensor): Promise<void> {
    const { job, view } = this.#init;
    const kind = FrameKind.evaluation;
    const fields = { kind, dtype: DataType.float32, shape, job, view, microBatch: index, lap: toLap };
    return this.#edges?.toSuccessor.send(fields, bytes) ?? Promise.resolve();
  }

  integers(kind: FrameKind, step: number, values: Int32Array | undefined): void {
    if (values === undefined) return;
    const { job, view } = this.#init;
    const payload = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const typed = { kind, dtype: DataType.int32, shape: [values.length], direction: Direction.backward };
    this.#edges?.toPredecessor.send({ ...typed, job, view, step }, payload).catch(() => {});
  }

  say(to: "predecessor" | "successor", word: Word): void {
    const { job, view } = this.#init;
    const link = to === "predecessor" ? this.#edges?.toPredecessor : this.#edges?.toSuccessor;
    link?.send({ kind: FrameKind.control, job, view }, encodeMessage(word)).catch(() => {});
  }

  async #tensor(
    link: Link | undefined,
    lap: number,
    fields: Pick<FrameFields, "kind" | "step" | "microBatch"> & Partial<FrameFields>,
    { bytes, shape }: OutgoingTensor,
  ): Promise<void> {
    const { job, view, timeline } = this.#init;
    const startMs = nowMs();
    await link?.send({ dtype: DataType.float32, shape, job, view, ...fields }, bytes);
    const { step, microBatch } = fields;
    timeline.add({ kind: "send", step, lap, microBatch, startMs, endMs: nowMs(), bytes: bytes.byteLength });
  }
}
