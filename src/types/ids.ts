/** @file Nominal indices: the compiler rejects a stage where a micro-batch is meant. All are 0-based. */

declare const brand: unique symbol;
type Index<Name extends string> = number & { readonly [brand]: Name };

/** Join order of a node, stable over views and restarts. */
export type NodeIndex = Index<"node">;
/** Position on the pipeline. */
export type StageIndex = Index<"stage">;
/** Position of a layer in the model; a dense layer and its activation are one layer. */
export type LayerIndex = Index<"layer">;
/** One optimizer update over one batch. */
export type StepIndex = Index<"step">;
/** A slice of a step's batch. */
export type MicroBatchIndex = Index<"microBatch">;
/** A numbered membership of the ring. */
export type ViewNumber = Index<"view">;

export const nodeIndex = (value: number): NodeIndex => value as NodeIndex;
export const stageIndex = (value: number): StageIndex => value as StageIndex;
export const layerIndex = (value: number): LayerIndex => value as LayerIndex;
export const stepIndex = (value: number): StepIndex => value as StepIndex;
export const microBatchIndex = (value: number): MicroBatchIndex => value as MicroBatchIndex;
export const viewNumber = (value: number): ViewNumber => value as ViewNumber;

/** What a micro-batch's arrays are filed under. */
export interface MicroBatchKey {
  readonly step: StepIndex;
  readonly microBatch: MicroBatchIndex;
}
