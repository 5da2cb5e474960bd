/**
 * @file The optimizers of this version. momentum: Polyak 1964 without dampening (v = 0.9 v + g); adam: Kingma and Ba
 * 2015; adamw: Loshchilov and Hutter 2019; adagrad: Duchi et al. 2011. The arithmetic itself is in the kernels.
 */
import { UsageError } from "../types/errors.ts";
import type { Optimizer, OptimizerState } from "./optimizer.ts";

const MOMENTUM_BETA = 0.9;
const ADAM_BETA1 = 0.9;
const ADAM_BETA2 = 0.999;
const ADAM_EPSILON = 1e-8;
const ADAMW_DECAY = 0.01;
const ADAGRAD_EPSILON = 1e-10;

const counting = {
  init: (): OptimizerState => ({ steps: 0, powers: [] }),
  next: (state: OptimizerState): OptimizerState => ({ steps: state.steps + 1, powers: [] }),
};

const sgd: Optimizer = {
  name: "sgd",
  stateNames: [],
  ...counting,
  update: (kernels, { weights, gradient, count }, _state, rate) => kernels.sgd(weights, gradient, count, rate),
};

const momentum: Optimizer = {
  name: "momentum",
  stateNames: ["v"],
  ...counting,
  update: (kernels, { weights, gradient, states, count }, _state, rate) =>
    kernels.momentum(weights, gradient, states[0] as number, count, rate, MOMENTUM_BETA),
};

function adamWith(name: string, decay: number): Optimizer {
  return {
    name,
    stateNames: ["m", "v"],
    init: () => ({ steps: 0, powers: [1, 1] }),
    next: ({ steps, powers }) => ({
      steps: steps + 1,
      powers: [(powers[0] as number) * ADAM_BETA1, (powers[1] as number) * ADAM_BETA2],
    }),
    update: (kernels, { weights, gradient, states, count }, { powers }, rate) => {
      const [m, v] = states as readonly [number, number];
      const [power1, power2] = powers as readonly [number, number];
      const correction1 = 1 - power1;
      const correction2 = 1 - power2;
      kernels.adam(
        weights,
        gradient,
        m,
        v,
        count,
        rate,
        ADAM_BETA1,
        ADAM_BETA2,
        ADAM_EPSILON,
        correction1,
        correction2,
        decay,
      );
    },
  };
}

const adagrad: Optimizer = {
  name: "adagrad",
  stateNames: ["s"],
  ...counting,
  update: (kernels, { weights, gradient, states, count }, _state, rate) =>
    kernels.adagrad(weights, gradient, states[0] as number, count, rate, ADAGRAD_EPSILON),
};

const OPTIMIZERS = [sgd, momentum, adamWith("adam", 0), adamWith("adamw", ADAMW_DECAY), adagrad];
export const OPTIMIZER_NAMES: readonly string[] = OPTIMIZERS.map(({ name }) => name);

/** Throws `UsageError` for a name that is not in `OPTIMIZER_NAMES`. */
export function parseOptimizer(name: string): Optimizer {
  const optimizer = OPTIMIZERS.find((known) => known.name === name);
  if (optimizer === undefined) {
    throw new UsageError(`optimizer "${name}" is unknown`, `use ${OPTIMIZER_NAMES.join(", ")}`);
  }
  return optimizer;
}
