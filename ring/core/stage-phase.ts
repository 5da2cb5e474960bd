/** @file What a stage machine is in the middle of. */

export type Phase =
  | { readonly kind: "created" }
  | { readonly kind: "training" }
  | { readonly kind: "updating"; readonly step: number }
  | { readonly kind: "saving"; readonly completedSteps: number; readonly isLast: boolean }
  | { readonly kind: "evaluating"; readonly completedSteps: number; readonly isLast: boolean }
  /** Layers are on their way to other nodes, before `step`. */
  | { readonly kind: "moving"; readonly step: number }
  | { readonly kind: "finished"; readonly completedSteps: number };
