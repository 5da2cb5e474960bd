/**
 * @file What the consistency models mean for servers, workers and the task scheduler. A worker at step t pulls parameters in which all updates of
 * steps before `t - tau` are; how far what it got lags behind is `lagOf`.
 *
 * | model | an update is | tau | who computes a share of a step | source |
 * | --- | --- | --- | --- | --- |
 * | bsp | a whole step, shares added in their order | 0 | each worker its own | Valiant 1990 |
 * | bounded | a whole step, shares added as they come | given | whoever is free | Li 2014, section 3.4: bounded delay |
 * | ssp | one share, at once | given: the clocks' slack | each worker its own | Ho 2013, section 2 |
 * | async | one share, at once | none | whoever is free | Dean 2012: Downpour SGD; Li 2014: eventual |
 */
export const CONSISTENCY_KINDS = ["bsp", "bounded", "ssp", "async"] as const;
export type ConsistencyKind = (typeof CONSISTENCY_KINDS)[number];

export interface Consistency {
  readonly kind: ConsistencyKind;
  /** Infinity for `async`, 0 for `bsp`. */
  readonly tau: number;
}

export interface Rules {
  /** What one update applies: a step's sum, or each push alone. */
  readonly application: "step" | "push";
  /** How the shares of a step are summed: in the order of their numbers, or as they come. */
  readonly order: "shares" | "arrival";
  /** Whether share k of each step is worker k's, or that of whoever asks next. */
  readonly assignment: "fixed" | "free";
}

export function rulesOf(kind: ConsistencyKind): Rules {
  switch (kind) {
    case "bsp":
      return { application: "step", order: "shares", assignment: "fixed" };
    case "bounded":
      return { application: "step", order: "arrival", assignment: "free" };
    case "ssp":
      return { application: "push", order: "arrival", assignment: "fixed" };
    case "async":
      return { application: "push", order: "arrival", assignment: "free" };
  }
}

/** The least version with which step `step` may be computed: steps whose updates are all in. */
export function leastVersion({ tau }: Consistency, step: number): number {
  return Math.max(0, step - tau);
}

/** Updates of whole steps that the parameters of this version lack. */
export function lagOf(step: number, version: number): number {
  return Math.max(0, step - version);
}
