/**
 * @file One update of weights and optimizer state in place; the gradient is zero afterwards. Constants arrive as float64
 * and are combined there, then rounded once: 1 - 0.999 in float32 would be off by 1e-5 of itself.
 */
import { load, store } from "./lanes";

// @ts-ignore: decorator
@inline
function sgdLanes(w: usize, g: usize, lanes: usize, rate: v128): void {
  store(w, f32x4.sub(load(w, lanes), f32x4.mul(rate, load(g, lanes))), lanes);
  store(g, f32x4.splat(0), lanes);
}

export function sgd(w: usize, g: usize, count: usize, rate: f64): void {
  const rates = f32x4.splat(<f32>rate);
  for (; count >= 4; count -= 4) {
    sgdLanes(w, g, 4, rates);
    w += 16;
    g += 16;
  }
  if (count > 0) sgdLanes(w, g, count, rates);
}

// @ts-ignore: decorator
@inline
function momentumLanes(w: usize, g: usize, v: usize, lanes: usize, rate: v128, beta: v128): void {
  const velocity = f32x4.add(f32x4.mul(beta, load(v, lanes)), load(g, lanes));
  store(v, velocity, lanes);
  store(w, f32x4.sub(load(w, lanes), f32x4.mul(rate, velocity)), lanes);
  store(g, f32x4.splat(0), lanes);
}

export function momentum(w: usize, g: usize, v: usize, count: usize, rate: f64, beta: f64): void {
  const rates = f32x4.splat(<f32>rate);
  const betas = f32x4.splat(<f32>beta);
  for (; count >= 4; count -= 4) {
    momentumLanes(w, g, v, 4, rates, betas);
    w += 16;
    g += 16;
    v += 16;
  }
  if (count > 0) momentumLanes(w, g, v, count, rates, betas);
}

// @ts-ignore: decorator
@inline
function adamLanes(
  w: usize, g: usize, m: usize, v: usize, lanes: usize,
  b1: v128, rest1: v128, b2: v128, rest2: v128, rate: v128, root: v128, epsilon: v128, shrink: v128,
): void {
  const gradient = load(g, lanes);
  const mean = f32x4.add(f32x4.mul(b1, load(m, lanes)), f32x4.mul(rest1, gradient));
  const square = f32x4.add(f32x4.mul(b2, load(v, lanes)), f32x4.mul(rest2, f32x4.mul(gradient, gradient)));
  const weight = load(w, lanes);
  const kept = f32x4.sub(weight, f32x4.mul(shrink, weight));
  const divisor = f32x4.add(f32x4.mul(root, f32x4.sqrt(square)), epsilon);
  store(m, mean, lanes);
  store(v, square, lanes);
  store(w, f32x4.sub(kept, f32x4.div(f32x4.mul(rate, mean), divisor)), lanes);
  store(g, f32x4.splat(0), lanes);
}

export function adam(
  w: usize, g: usize, m: usize, v: usize, count: usize,
  rate: f64, b1: f64, b2: f64, epsilon: f64, c1: f64, c2: f64, decay: f64,
): void {
  const beta1 = f32x4.splat(<f32>b1);
  const rest1 = f32x4.splat(<f32>(1 - b1));
  const beta2 = f32x4.splat(<f32>b2);
  const rest2 = f32x4.splat(<f32>(1 - b2));
  // rate·(m/c1) / (√(v/c2) + epsilon), with the corrections moved into two constants.
  const rates = f32x4.splat(<f32>(rate / c1));
  const root = f32x4.splat(<f32>(1 / sqrt(c2)));
  const epsilons = f32x4.splat(<f32>epsilon);
  const shrink = f32x4.splat(<f32>(rate * decay));
  for (; count >= 4; count -= 4) {
    adamLanes(w, g, m, v, 4, beta1, rest1, beta2, rest2, rates, root, epsilons, shrink);
    w += 16;
    g += 16;
    m += 16;
    v += 16;
  }
  if (count > 0) adamLanes(w, g, m, v, count, beta1, rest1, beta2, rest2, rates, root, epsilons, shrink);
}

// @ts-ignore: decorator
@inline
function adagradLanes(w: usize, g: usize, s: usize, lanes: usize, rate: v128, epsilon: v128): void {
  const gradient = load(g, lanes);
  const sum = f32x4.add(load(s, lanes), f32x4.mul(gradient, gradient));
  store(s, sum, lanes);
  const change = f32x4.div(f32x4.mul(rate, gradient), f32x4.add(f32x4.sqrt(sum), epsilon));
  store(w, f32x4.sub(load(w, lanes), change), lanes);
  store(g, f32x4.splat(0), lanes);
}

export function adagrad(w: usize, g: usize, s: usize, count: usize, rate: f64, epsilon: f64): void {
  const rates = f32x4.splat(<f32>rate);
  const epsilons = f32x4.splat(<f32>epsilon);
  for (; count >= 4; count -= 4) {
    adagradLanes(w, g, s, 4, rates, epsilons);
    w += 16;
    g += 16;
    s += 16;
  }
  if (count > 0) adagradLanes(w, g, s, count, rates, epsilons);
}
