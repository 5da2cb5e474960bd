/**
 * @file What the main thread asks of the compute thread and what comes back: plain data, cloned between the threads.
 * Results carry times on the common clock.
 */
import type { EngineKind } from "../engine/contract.ts";
import type { LayerBlock } from "../nn/blocks.ts";
import type { ForwardResult } from "../nn/segment.ts";
import type { StateDigest } from "../nn/held-state.ts";
import type { ReplicaInit, SegmentInit } from "../nn/layout.ts";
import type { WrittenFile } from "../nn/safetensors.ts";
import { AssertionFailed } from "../types/assert.ts";
import * as errors from "../types/errors.ts";
import type { LayerTimesUs } from "./compute-layer-times.ts";
import type { PaceCounts } from "./compute-pace.ts";

export interface ComputeInit {
  /** One for each lap, in the order of the laps: parts of one model, with the same optimizer. */
  readonly segments: readonly SegmentInit[];
  readonly engine: EngineKind;
  /**
   * With it segments and replicas keep the version before, and segments the gradient of the last update, for the replicas.
   * Without it segments are updated in place.
   */
  readonly redundancy?: { readonly replicas: readonly ReplicaInit[] };
  /** Shards that together cover segments and replicas; without them, and without `blocks`, all start as before the first step. */
  readonly restore?: readonly string[];
  /**
   * The state from memory instead: blocks that together cover the segments, and the step that comes next. Replicas that they do
   * not cover are without a state.
   */
  readonly blocks?: { readonly step: number; readonly layers: readonly LayerBlock[] };
  /** GFLOP/s: forward and backward passes take as long as at this speed, or as they need. Without it they take what they need. */
  readonly pace?: number;
}

interface SlotOperation<Kind extends string> {
  readonly kind: Kind;
  /** Index of the segment. */
  readonly lap: number;
  /** Of this segment. */
  readonly slot: number;
}

/**
 * Slots, steps and order are those of `Segment`. "backward" is the passes for inputs and for weights in one. "update" and
 * "digests" are for all segments, "load" for the replicas too.
 */
export type Operation =
  | SlotOperation<"forward">
  | SlotOperation<"evaluate">
  /** The slot's newest forward pass is as if it had not been. */
  | SlotOperation<"abandon">
  | SlotOperation<"backward">
  | SlotOperation<"backwardInput">
  /** One layer's part of the backward pass for weights, numbered in the model. */
  | (SlotOperation<"weightLayer"> & { readonly layer: number })
  | { readonly kind: "update"; readonly step: number }
  /** One slice, in order, of a replica's update by the gradient that the main thread wrote; zero afterwards, as by "update". */
  | {
      readonly kind: "replicaUpdate";
      readonly replica: number;
      readonly step: number;
      readonly slice: number;
      readonly slices: number;
    }
  /** The main thread filled a replica's arrays with the state of `step`. */
  | { readonly kind: "replicaFilled"; readonly replica: number; readonly step: number }
  | { readonly kind: "digests" }
  /** Writes a segment's shard; `step` must be the one that comes next. */
  | { readonly kind: "save"; readonly lap: number; readonly file: string; readonly step: number }
  /** Reads shards; drops the micro-batches under way. */
  | { readonly kind: "load"; readonly files: readonly string[] };

export type OperationKind = Operation["kind"];

/** Whether a state is torn while such an operation is under way. */
export function changesStates(kind: OperationKind): boolean {
  return kind === "update" || kind === "replicaUpdate" || kind === "replicaFilled" || kind === "load";
}

export interface LayerDigest {
  /** In the model. */
  readonly layer: number;
  /** SHA-256 of its parameters, 32 bytes. */
  readonly digest: Uint8Array;
}

/** What an operation gives beside its times. */
export interface Outcomes {
  forward: ForwardResult;
  evaluate: ForwardResult;
  abandon: object;
  /** When the backward pass for inputs ended and that for weights began. */
  backward: { readonly boundaryMs: number };
  backwardInput: object;
  /** Null for a thread that is not paced. */
  weightLayer: { readonly pace: PaceCounts | null };
  update: {
    /** In the order of the layers. */
    readonly layerUs: readonly LayerTimesUs[];
    /** Null for a thread that is not paced. */
    readonly pace: PaceCounts | null;
    /** Of the new version, in each segment's order of layers; none without redundancy. */
    readonly states: readonly StateDigest[];
  };
  /** Of the new version after the last slice, else none. */
  replicaUpdate: { readonly states: readonly StateDigest[] };
  replicaFilled: { readonly states: readonly StateDigest[] };
  /** In the order of the layers. */
  digests: { readonly digests: readonly LayerDigest[] };
  save: WrittenFile;
  load: LoadedState;
}

export interface LoadedState {
  /** That comes next. */
  readonly step: number;
  /** Of segments and of replicas with a state; none without redundancy. */
  readonly states: readonly StateDigest[];
}

export interface OperationTimes {
  readonly startMs: number;
  readonly endMs: number;
  /** How long the thread was runnable without a core since its previous operation; 0 where the system does not say. */
  readonly runQueueMs: number;
}

export type OperationResult<Kind extends OperationKind> = Outcomes[Kind] & OperationTimes;

/** What the worker sends: after its start `LoadedState`, then a result per operation. */
export type Reply<Value> =
  { readonly ok: true; readonly value: Value } | { readonly ok: false; readonly error: SentError };

/** An error in a form that keeps its class. */
export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly remedy: string;
  readonly stack: string;
}

export function sendableError(error: unknown): SentError {
  if (!(error instanceof Error)) return { name: "Error", message: String(error), remedy: "", stack: "" };
  const remedy = error instanceof errors.RingTmpError ? error.remedy : "";
  return { name: error.name, message: error.message, remedy, stack: error.stack ?? "" };
}

const CLASSES = [
  errors.UsageError, errors.DataError, errors.NetworkError, errors.ProtocolError, errors.NodeLostError,
  errors.NotFiniteError, errors.InterruptedError,
]; // prettier-ignore

/** An error of the same class (an `Error` for foreign ones) with the stack of the thread that threw. */
export function receivedError({ name, message, remedy, stack }: SentError): Error {
  const Operating = CLASSES.find((known) => known.name === name);
  const foreign = name === AssertionFailed.name ? new AssertionFailed(message) : new Error(message);
  const error = Operating === undefined ? foreign : new Operating(message, remedy);
  error.stack = stack;
  return error;
}
