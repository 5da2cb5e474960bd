/** @file What a stage machine is in the middle of. */
import type { EvaluationPass } from "./evaluation.ts";

export type Phase =
  | { readonly kind: "created" }
  | { readonly kind: "training"; readonly step: number; next: number }
  | { readonly kind: "updating"; readonly step: number }
  | { readonly kind: "saving"; readonly completedSteps: number; readonly isLast: boolean }
  | {
      readonly kind: "evaluating";
      readonly completedSteps: number;
      readonly isLast: boolean;
      readonly pass: EvaluationPass;
    }
  | { readonly kind: "finished" };
