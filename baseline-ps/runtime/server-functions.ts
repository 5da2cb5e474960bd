/**
 * @file User-defined functions of a server (Li 2014, section 3.5): what an update does to the parameters of some keys, given what was pushed for
 * them. The optimizers are such functions; so is the proximal step of the Lasso. More may be defined by name.
 */
import type { Kernels } from "../../src/engine/contract.ts";
import { type OptimizerState, stateAfter } from "../../src/optim/optimizer.ts";
import { OPTIMIZER_NAMES, parseOptimizer } from "../../src/optim/optimizers.ts";
import { UsageError } from "../../src/types/errors.ts";

/** Of the same keys, in shared engine memory; the function changes `weights` and `states`, and leaves `gradient` zero. */
export interface KeyBlock {
  readonly weights: Float32Array;
  readonly gradient: Float32Array;
  /** One for each name of the function's states; zero before the first update. */
  readonly states: readonly Float32Array[];
}

export interface ServerFunction {
  readonly stateNames: readonly string[];
  /** @param update number of this update of these keys, from 0 */
  readonly update: (block: KeyBlock, update: number) => void;
}

/** Makes a function for one server. */
export type FunctionFactory = (kernels: Kernels, rate: number) => ServerFunction;

export class ServerFunctions {
  readonly #factories = new Map<string, FunctionFactory>(OPTIMIZER_NAMES.map((name) => [name, byOptimizer(name)]));

  /** @throws UsageError for a name that is taken */
  define(name: string, factory: FunctionFactory): void {
    if (this.#factories.has(name)) {
      throw new UsageError(`a server function named "${name}" is there already`, "choose another name");
    }
    this.#factories.set(name, factory);
  }

  /** @throws UsageError for an unknown name */
  make(name: string, kernels: Kernels, rate: number): ServerFunction {
    const factory = this.#factories.get(name);
    if (factory !== undefined) return factory(kernels, rate);
    throw new UsageError(
      `server function "${name}" is unknown`,
      `use ${[...this.#factories.keys()].join(", ")}, or define it`,
    );
  }
}

function byOptimizer(name: string): FunctionFactory {
  return (kernels, rate) => {
    const optimizer = parseOptimizer(name);
    // Keys are rarely more than one update apart, and each state follows from the one before.
    let newest: OptimizerState = optimizer.init();
    const stateOf = (update: number): OptimizerState => {
      if (newest.steps > update + 1) return stateAfter(optimizer, update + 1);
      while (newest.steps < update + 1) newest = optimizer.next(newest);
      return newest;
    };
    return {
      stateNames: optimizer.stateNames,
      update: ({ weights, gradient, states }, update) => {
        const tensors = {
          ...{ weights: weights.byteOffset, gradient: gradient.byteOffset, count: weights.length },
          states: states.map(({ byteOffset }) => byteOffset),
        };
        optimizer.update(kernels, tensors, stateOf(update), rate);
      },
    };
  };
}

/**
 * One step of proximal gradient descent for a loss plus `lambda` times the sum of absolute weights: w = soft(w - rate·g, rate·lambda), which
 * sets small weights to zero (Parikh and Boyd 2014, sections 4.2 and 6.5.2).
 */
export function proximalLasso(lambda: number): FunctionFactory {
  return (_, rate) => ({
    stateNames: [],
    update: ({ weights, gradient }) => {
      const threshold = rate * lambda;
      for (let key = 0; key < weights.length; key += 1) {
        const moved = weights[key]! - rate * gradient[key]!;
        weights[key] = Math.sign(moved) * Math.max(0, Math.abs(moved) - threshold);
      }
      gradient.fill(0);
    },
  });
}
