/**
 * @file The words between a stage machine and what drives it: what it is told, what it asks for, how it is set up.
 * `lap` is always the lap of the stage that a word reaches or that acts; `toLap` that of the neighbour's stage.
 */
import type { MicroBatchKey, StepIndex } from "../../src/types/ids.ts";
import type { ScheduleShape } from "./schedule.ts";
import type { OperationCosts } from "./window.ts";

export interface StageInit {
  readonly shape: ScheduleShape;
  readonly node: number;
  /** Whether every layer of the model has B and W apart. */
  readonly canSplit: boolean;
  readonly segments: SegmentsInit;
  /** Samples in a step's whole batch: the loss is their mean. */
  readonly batch: number;
  /** The first step to run: 0, or the number of steps that a checkpoint holds. */
  readonly firstStep: number;
  /** Steps in all, `firstStep` included. */
  readonly steps: number;
  /** Steps between checkpoints, 0 for none but the last. */
  readonly checkpointEvery: number;
  /** Steps between evaluations, 0 for none but the last. */
  readonly validateEvery: number;
  /** Forward-only micro-batches that cover the test set; 0 skips evaluation. */
  readonly evaluationMicroBatches: number;
  /** The run ends after the first step whose loss is at most this. */
  readonly stopAtLoss: number | null;
  /** Loss of the step before the first: a run that goes on may be at its end already. */
  readonly lossBefore?: number;
  /** Updates wait for the frontier; without replicas nothing does. */
  readonly isReplicated?: boolean;
}

/** The segments of one node as they are cut now; another cut is another plan. */
export interface SegmentsInit {
  /** 0 for the first cut. */
  readonly plan: number;
  /** Places for micro-batches, in each lap. */
  readonly slots: number;
  /** Layers of each lap's segment: the slices of a W. */
  readonly slices: readonly number[];
}

/** A micro-batch in one lap's segment, and the slot that holds its arrays. */
export interface SlotKey extends MicroBatchKey {
  readonly lap: number;
  readonly slot: number;
}

/** An operation of the compute worker. One runs at a time. `fused`: B and W in one. `slice` 0 is the segment's last layer. */
export type StageOperation =
  | ({ readonly kind: "forward" | "backward" | "fused" } & SlotKey)
  | ({ readonly kind: "weight"; readonly slice: number } & SlotKey)
  | { readonly kind: "evaluate"; readonly lap: number; readonly slot: number; readonly index: number }
  | { readonly kind: "update"; readonly step: StepIndex }
  | { readonly kind: "save"; readonly completedSteps: number };

export type StageInput =
  | { readonly kind: "start" }
  /** `value`: the round trip of the whole ring, as node 0 measured it; NaN before that. */
  | ({ readonly kind: "activation"; readonly value: number } & Arrival)
  /**
   * `value` with the last micro-batch of the last lap: the step's loss; else how long this micro-batch was with the nodes
   * downstream, without the latency between them. `credits`: places that are free again.
   */
  | ({ readonly kind: "gradient"; readonly value: number; readonly credits: number } & Arrival)
  /** The neighbour's places: all of them when a plan opens, else those that are free again. */
  | { readonly kind: "credits"; readonly lap: number; readonly credits: number; readonly opensPlan: number | null }
  | { readonly kind: "labels"; readonly step: StepIndex }
  /** The running operation ended. `loss`: sum over the rows, where the model ends, else NaN. */
  | { readonly kind: "computed"; readonly loss: number; readonly correct: number; readonly nowMs: number }
  /** The answer to `drain`: everything that had arrived has been told. */
  | { readonly kind: "drained" }
  /** The bytes of the oldest gradient on its way from `lap` have left this node. */
  | { readonly kind: "gradientLeft"; readonly lap: number }
  /** What this node's operations take, in milliseconds: it sizes the windows from the next step on. */
  | { readonly kind: "measured"; readonly costs: OperationCosts }
  | { readonly kind: "evaluationLabels" }
  | { readonly kind: "evaluation"; readonly lap: number; readonly index: number }
  /** The bytes of an evaluation micro-batch left this node. */
  | { readonly kind: "evaluationLeft"; readonly lap: number }
  | { readonly kind: "evaluationCredit"; readonly lap: number }
  /** Layers move before `step`: the ring has agreed on `plan`. Null at node 0: before the next step, which it alone can name. */
  | { readonly kind: "plan"; readonly plan: number; readonly step: number | null }
  /** They have moved; the answer to `move`. */
  | { readonly kind: "moved"; readonly segments: SegmentsInit }
  | { readonly kind: "end"; readonly lastStep: StepIndex }
  | { readonly kind: "stopRequested" }
  /** Every copy of every layer has this version: the update of the step of that number may be done. */
  | { readonly kind: "frontier"; readonly version: number };

interface Arrival extends MicroBatchKey {
  readonly lap: number;
  readonly nowMs: number;
}

export type StageOutput =
  | { readonly kind: "compute"; readonly operation: StageOperation }
  /** Tell what else has arrived, then `drained`: a W is the only thing to do. */
  | { readonly kind: "drain" }
  | ({ readonly kind: "sendActivation"; readonly toLap: number; readonly value: number } & SlotKey)
  | ({
      readonly kind: "sendGradient";
      readonly toLap: number;
      readonly value: number;
      readonly credits: number;
    } & SlotKey)
  | {
      readonly kind: "sendCredits";
      readonly toLap: number;
      readonly credits: number;
      readonly opensPlan: number | null;
    }
  | { readonly kind: "sendLabels"; readonly step: StepIndex }
  | { readonly kind: "sendEvaluationLabels" }
  | {
      readonly kind: "sendEvaluation";
      readonly lap: number;
      readonly toLap: number;
      readonly index: number;
      readonly slot: number;
    }
  | { readonly kind: "sendEvaluationCredit"; readonly toLap: number }
  | { readonly kind: "sendEnd"; readonly lastStep: StepIndex }
  /** A step's loss is known: it is committed when no copy of the layers lacks its update. */
  | { readonly kind: "loss"; readonly step: StepIndex; readonly loss: number }
  | { readonly kind: "evaluated"; readonly completedSteps: number; readonly correct: number; readonly lossSum: number }
  /** This node is before `step`: move the layers, then say `moved`. Node 0 tells the others first. */
  | { readonly kind: "move"; readonly plan: number; readonly step: number }
  | { readonly kind: "finished"; readonly completedSteps: number }
  /** A neighbour broke the protocol: its connection is to be closed with this reason. */
  | { readonly kind: "violation"; readonly from: "predecessor" | "successor"; readonly reason: string };

/** What a frame's header says before its payload is read. */
export type AnnouncedTensor =
  | ({ readonly kind: "activation" | "gradient"; readonly lap: number } & MicroBatchKey)
  | { readonly kind: "evaluation"; readonly lap: number; readonly index: number };

export type Place =
  { readonly kind: "slot"; readonly slot: number } | { readonly kind: "refused"; readonly reason: string };

export const refusal = (reason: string): Place => ({ kind: "refused", reason });

/** Where a node's segments lie on the ring. */
export interface Position {
  readonly node: number;
  readonly nodes: number;
  readonly laps: number;
}

/** The model begins at node 0's first lap, and ends at the last node's last. */
export const beginsModel = ({ node }: Position, lap: number): boolean => node === 0 && lap === 0;
export const endsModel = ({ node, nodes, laps }: Position, lap: number): boolean =>
  node === nodes - 1 && lap === laps - 1;

/** Laps are counted where the closure edge ends: an activation enters the next one there, a gradient the one before. */
export const lapOfSuccessor = ({ node, nodes }: Position, lap: number): number => (node === nodes - 1 ? lap + 1 : lap);
export const lapOfPredecessor = ({ node }: Position, lap: number): number => (node === 0 ? lap - 1 : lap);
