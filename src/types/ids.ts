/** @file Nominal indices: the compiler rejects a stage where a micro-batch is meant. All are 0-based. */

declare const brand: unique symbol;
type Index<Name extends string> = number & { readonly [brand]: Name };

/** Position on the pipeline. */
export type StageIndex = Index<"stage">;
/** One optimizer update over one batch. */
export type StepIndex = Index<"step">;
/** A slice of a step's batch. */
export type MicroBatchIndex = Index<"microBatch">;

export const stageIndex = (value: number): StageIndex => value as StageIndex;
export const stepIndex = (value: number): StepIndex => value as StepIndex;
export const microBatchIndex = (value: number): MicroBatchIndex => value as MicroBatchIndex;

/** What a micro-batch's arrays are filed under. */
export interface MicroBatchKey {
  readonly step: StepIndex;
  readonly microBatch: MicroBatchIndex;
}
