/**
 * @file What an optimizer is: an `{ init, next, update }` triple of pure parts (after jax-js). What it remembers per
 * parameter are named tensors of the parameter's shape, which start at zero; what it remembers per run is a small value.
 * Both can be sent, saved and compared.
 */
import type { Kernels } from "../engine/contract.ts";

/** The optimizer's memory of the run as a whole. */
export interface OptimizerState {
  /** Updates done: the step that comes next. */
  readonly steps: number;
  /** Powers of the betas, kept by repeated multiplication: `**` may differ between machines. */
  readonly powers: readonly number[];
}

/** Addresses in the engine's memory of one block of parameters; all arrays have `count` float32 elements. */
export interface UpdateTensors {
  readonly weights: number;
  readonly gradient: number;
  /** One address per state name, in order. */
  readonly states: readonly number[];
  readonly count: number;
}

export interface Optimizer {
  readonly name: string;
  /** Tensors kept per parameter, zero before the first step. */
  readonly stateNames: readonly string[];
  /** Before the first step. */
  init(): OptimizerState;
  /** The state with which the coming step updates, and after it. */
  next(state: OptimizerState): OptimizerState;
  /** Updates weights and state tensors in place; the gradient is zero afterwards. `state` is the one that `next` gave. */
  update(kernels: Kernels, tensors: UpdateTensors, state: OptimizerState, rate: number): void;
}

/** More steps than any run has: bounds the loop below, whose count comes from files. */
export const STEPS_MAX = 1_000_000_000;

/** The state after `steps` updates, with the bits of a run that did them all. */
export function stateAfter(optimizer: Optimizer, steps: number): OptimizerState {
  let state = optimizer.init();
  while (state.steps < steps) state = optimizer.next(state);
  return state;
}
