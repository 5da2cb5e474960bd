/**
 * @file The token that carries a balance plan twice round the ring. Lap one collects every node's measurement; lap two
 * spreads them, with the step before which the decision they imply takes effect. Node 0 alone starts steps, so it alone can say
 * a step that nobody has begun; it decides no more than any other node.
 *
 * Why everybody knows in time: node 0 turns the token round before it begins that step, tokens and activations share one
 * FIFO link, and each node passes the token on at once. So it arrives before the step's first activation, everywhere.
 */
import { assert, defined, unreachable } from "../../src/types/assert.ts";
import { stepIndex, type StepIndex } from "../../src/types/ids.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { NodeMeasurement } from "./balance.ts";

/** The first plan starts with the third step of a run, and so takes effect after three: what warms up is over by then. */
const STEPS_BEFORE_FIRST = 2;
/** Steps to the next plan; doubled with each plan that keeps the cut. */
const INTERVAL_STEPS = 4;
const INTERVAL_STEPS_MAX = 64;
/** After a move the new cut is looked at as soon as it has been measured. */
const STEPS_AFTER_MOVE = 3;

interface Numbered {
  readonly view: number;
  /** From 0 in each view. */
  readonly plan: number;
  /** By node, from node 0 on: at most one a node. */
  readonly measurements: readonly NodeMeasurement[];
}

export type BalanceToken =
  | ({ readonly kind: "collect" } & Numbered)
  /** Takes effect before `step`: the first that node 0 had not begun. */
  | ({ readonly kind: "decide"; readonly step: StepIndex } & Numbered);

export interface BalanceTokenInit {
  readonly view: number;
  readonly node: number;
  readonly nodes: number;
  /** The run's first step in this view. */
  readonly firstStep: number;
  /** Moves of layers before this view; default none. */
  readonly earlierMoves?: number;
  /** False (`--balance off`): node 0 never launches a plan. */
  readonly isEnabled: boolean;
}

export type BalanceTokenInput =
  /** This node begins a step; at node 0 before the step's first activation is sent. */
  | { readonly kind: "begins"; readonly step: StepIndex }
  /** From the predecessor. */
  | { readonly kind: "token"; readonly token: BalanceToken }
  /** The answer to `measure`. */
  | { readonly kind: "measured"; readonly measurement: NodeMeasurement }
  /** What the last `decide` came to is a move of layers. */
  | { readonly kind: "moved" };

export type BalanceTokenOutput =
  | { readonly kind: "measure" }
  /** To the successor, on the link of the activations. */
  | { readonly kind: "send"; readonly token: BalanceToken }
  /** For `decideBalance`; a move is made when the step before `step` is over at this node. */
  | {
      readonly kind: "decide";
      readonly plan: number;
      readonly earlierMoves: number;
      readonly step: StepIndex;
      readonly measurements: readonly NodeMeasurement[];
    }
  /** The predecessor sent what is not due; nothing has changed. */
  | { readonly kind: "violation"; readonly reason: string };

type Phase =
  | { readonly kind: "idle" }
  | { readonly kind: "measuring"; readonly token: BalanceToken }
  /** Lap one has passed here. */
  | { readonly kind: "collecting" }
  /** Node 0: lap two is on its way. */
  | { readonly kind: "spreading" };

/** One node's part in the plans of one view. One plan at a time is in flight. */
export class BalanceTokenMachine implements Machine<BalanceTokenInput, BalanceTokenOutput> {
  readonly #init: BalanceTokenInit;
  #phase: Phase = { kind: "idle" };
  /** The newest plan seen, -1 for none. */
  #plan = -1;
  #begunStep: number;
  #decidedStep: number | undefined;
  #moves: number;
  #launchStep: number;
  #intervalSteps = INTERVAL_STEPS;

  constructor(init: BalanceTokenInit) {
    this.#init = init;
    this.#moves = init.earlierMoves ?? 0;
    this.#begunStep = init.firstStep - 1;
    this.#launchStep = init.isEnabled && init.nodes > 1 ? init.firstStep + STEPS_BEFORE_FIRST : Infinity;
  }

  handle(input: BalanceTokenInput): readonly BalanceTokenOutput[] {
    switch (input.kind) {
      case "begins":
        return this.#begins(input.step);
      case "token":
        return this.#token(input.token);
      case "measured":
        return this.#measured(input.measurement);
      case "moved":
        return this.#moved();
    }
    return unreachable(input);
  }

  #begins(step: StepIndex): readonly BalanceTokenOutput[] {
    assert(step > this.#begunStep, "steps begin in order");
    this.#begunStep = step;
    if (this.#init.node !== 0 || this.#phase.kind !== "idle" || step < this.#launchStep) return [];
    this.#plan += 1;
    this.#launchStep = step + this.#intervalSteps;
    this.#intervalSteps = Math.min(2 * this.#intervalSteps, INTERVAL_STEPS_MAX);
    const { view } = this.#init;
    this.#phase = { kind: "measuring", token: { kind: "collect", view, plan: this.#plan, measurements: [] } };
    return [{ kind: "measure" }];
  }

  #measured(measurement: NodeMeasurement): readonly BalanceTokenOutput[] {
    const phase = this.#phase;
    assert(phase.kind === "measuring", "a measurement was asked for");
    assert(measurement.node === this.#init.node, "a node measures itself");
    this.#phase = { kind: "collecting" };
    const measurements = [...phase.token.measurements, measurement];
    return [{ kind: "send", token: { ...phase.token, measurements } }];
  }

  #token(token: BalanceToken): readonly BalanceTokenOutput[] {
    const fault = this.#faultOf(token);
    if (fault !== undefined) {
      const name = `${token.kind} token of plan ${token.view}/${token.plan}`;
      return [{ kind: "violation", reason: `${name}: ${fault}` }];
    }
    return this.#init.node === 0 ? this.#returned(token) : this.#passed(token);
  }

  /** Node 0: lap one becomes lap two, lap two ends. */
  #returned(token: BalanceToken): readonly BalanceTokenOutput[] {
    if (token.kind === "decide") {
      this.#phase = { kind: "idle" };
      return [];
    }
    this.#phase = { kind: "spreading" };
    const spread = { ...token, kind: "decide", step: stepIndex(this.#begunStep + 1) } as const;
    return [{ kind: "send", token: spread }, this.#decide(spread)];
  }

  #passed(token: BalanceToken): readonly BalanceTokenOutput[] {
    if (token.kind === "collect") {
      this.#plan = token.plan;
      this.#phase = { kind: "measuring", token };
      return [{ kind: "measure" }];
    }
    this.#phase = { kind: "idle" };
    return [{ kind: "send", token }, this.#decide(token)];
  }

  #decide({ plan, step, measurements }: Extract<BalanceToken, { kind: "decide" }>): BalanceTokenOutput {
    this.#decidedStep = step;
    return { kind: "decide", plan, earlierMoves: this.#moves, step, measurements };
  }

  #moved(): readonly BalanceTokenOutput[] {
    this.#launchStep = defined(this.#decidedStep, "a decision came before") + STEPS_AFTER_MOVE;
    this.#decidedStep = undefined;
    this.#intervalSteps = INTERVAL_STEPS;
    this.#moves += 1;
    return [];
  }

  /** Why a token is not the one that is due here. */
  #faultOf(token: BalanceToken): string | undefined {
    const { view, node, nodes } = this.#init;
    if (token.view !== view) return `this ring is at view ${view}`;
    const isFirst = node === 0;
    const isLapOne = token.kind === "collect";
    const due = isFirst ? (isLapOne ? "collecting" : "spreading") : isLapOne ? "idle" : "collecting";
    if (this.#phase.kind !== due) return `this node is ${this.#phase.kind}`;
    const isNewPlan = isLapOne && !isFirst;
    if (isNewPlan ? token.plan <= this.#plan : token.plan !== this.#plan) return `the newest plan is ${this.#plan}`;
    const expected = isNewPlan ? node : nodes;
    const isInOrder = token.measurements.every((measurement, index) => measurement.node === index);
    if (token.measurements.length !== expected || !isInOrder) return `measurements of ${expected} nodes are due`;
    if (!isLapOne && !isFirst && token.step <= this.#begunStep) return `step ${token.step} has begun here`;
    return undefined;
  }
}
