/**
 * @file The words between a stage machine and what drives it: what it is told, what it asks for, how it is set up.
 */
import type { MicroBatchKey, StepIndex } from "../../src/types/ids.ts";
import type { ScheduleKind } from "./schedule.ts";

export interface StageInit {
  readonly stage: number;
  readonly stages: number;
  readonly schedule: ScheduleKind;
  readonly microBatches: number;
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
}

/** An operation of the compute worker. One runs at a time. */
export type StageOperation =
  | ({ readonly kind: "forward" | "backward"; readonly slot: number } & MicroBatchKey)
  | { readonly kind: "evaluate"; readonly slot: number; readonly index: number }
  | { readonly kind: "update"; readonly step: StepIndex }
  | { readonly kind: "save"; readonly completedSteps: number };

export type StageInput =
  | { readonly kind: "start" }
  | ({ readonly kind: "activation" } & MicroBatchKey)
  | { readonly kind: "labels"; readonly step: StepIndex }
  /** `loss` is the step's, with its last micro-batch, else NaN. `credits`: places that are free again. */
  | ({ readonly kind: "gradient"; readonly loss: number; readonly credits: number } & MicroBatchKey)
  /** The running operation ended. `loss`: sum over the rows, at the last stage's forward, else NaN. */
  | { readonly kind: "computed"; readonly loss: number; readonly correct: number }
  | { readonly kind: "evaluationLabels" }
  | { readonly kind: "evaluation"; readonly index: number }
  /** The bytes of evaluation micro-batch `index` left this node. */
  | { readonly kind: "evaluationSent"; readonly index: number }
  | { readonly kind: "evaluationCredit" }
  | { readonly kind: "end"; readonly lastStep: StepIndex }
  | { readonly kind: "stopRequested" };

export type StageOutput =
  | { readonly kind: "compute"; readonly operation: StageOperation }
  | ({ readonly kind: "sendActivation"; readonly slot: number } & MicroBatchKey)
  | ({
      readonly kind: "sendGradient";
      readonly slot: number;
      readonly loss: number;
      readonly credits: number;
    } & MicroBatchKey)
  | { readonly kind: "sendLabels"; readonly step: StepIndex }
  | { readonly kind: "sendEvaluationLabels" }
  | { readonly kind: "sendEvaluation"; readonly index: number; readonly slot: number }
  | { readonly kind: "sendEvaluationCredit" }
  | { readonly kind: "sendEnd"; readonly lastStep: StepIndex }
  | { readonly kind: "committed"; readonly step: StepIndex; readonly loss: number }
  | { readonly kind: "evaluated"; readonly completedSteps: number; readonly correct: number; readonly lossSum: number }
  | { readonly kind: "finished"; readonly completedSteps: number }
  /** A neighbour broke the protocol: its connection is to be closed with this reason. */
  | { readonly kind: "violation"; readonly from: "predecessor" | "successor"; readonly reason: string };

/** What a frame's header says before its payload is read. */
export type AnnouncedTensor =
  | ({ readonly kind: "activation" | "gradient" } & MicroBatchKey)
  | { readonly kind: "evaluation"; readonly index: number };

export type Place =
  { readonly kind: "slot"; readonly slot: number } | { readonly kind: "refused"; readonly reason: string };

export const refusal = (reason: string): Place => ({ kind: "refused", reason });
