/** @file Activations and their derivatives, bias and its gradient, the test for finite numbers: one pass over arrays. */
import { load, store } from "./lanes";
import { exponential, hyperbolicTangent } from "./transcendental";

// Which function a loop applies: a constant at every call, so that the choice is made when the kernels are compiled.
// @ts-ignore: decorator
@inline
const RELU: i32 = 0;
// @ts-ignore: decorator
@inline
const GELU: i32 = 1;
// @ts-ignore: decorator
@inline
const TANH: i32 = 2;

/** 2·√(2/π) and the cubic coefficient of gelu. */
// @ts-ignore: decorator
@inline
const GELU_SLOPE: f32 = 1.5957691216057308;
// @ts-ignore: decorator
@inline
const GELU_CUBIC: f32 = 0.044715;

// @ts-ignore: decorator
@inline
function activation(kind: i32, x: v128): v128 {
  // pmax: a NaN in the first place stays.
  if (kind == RELU) return f32x4.pmax(x, f32x4.splat(0));
  if (kind == TANH) return hyperbolicTangent(x);
  return f32x4.div(x, f32x4.add(f32x4.splat(1), geluDecay(x)));
}

/** exp(-2u) with u = √(2/π)·(x + 0.044715·x³), as x/2·(1 + tanh u) = x / (1 + exp(-2u)), which cancels nowhere. */
// @ts-ignore: decorator
@inline
function geluDecay(x: v128): v128 {
  const cubic = f32x4.add(f32x4.splat(1), f32x4.mul(f32x4.splat(GELU_CUBIC), f32x4.mul(x, x)));
  return exponential(f32x4.mul(f32x4.mul(f32x4.splat(-GELU_SLOPE), x), cubic));
}

// @ts-ignore: decorator
@inline
function derivative(kind: i32, value: v128, dy: v128): v128 {
  const one = f32x4.splat(1);
  if (kind == RELU) return v128.and(dy, f32x4.gt(value, f32x4.splat(0)));
  if (kind == TANH) return f32x4.mul(dy, f32x4.sub(one, f32x4.mul(value, value)));
  // Beyond ±10 the derivative is 0 or 1 to the last bit but two, and nothing overflows within.
  const x = f32x4.pmin(f32x4.pmax(value, f32x4.splat(-10)), f32x4.splat(10));
  const decay = geluDecay(x);
  const s = f32x4.div(one, f32x4.add(one, decay));
  const inner = f32x4.add(one, f32x4.mul(f32x4.splat(3 * GELU_CUBIC), f32x4.mul(x, x)));
  const slope = f32x4.mul(f32x4.mul(f32x4.splat(GELU_SLOPE), x), inner);
  // s' = s·(1 - s)·(2u)', and 1 - s = decay·s.
  const bent = f32x4.mul(f32x4.mul(f32x4.mul(decay, s), s), slope);
  return f32x4.mul(dy, f32x4.add(s, bent));
}

// @ts-ignore: decorator
@inline
function forward(kind: i32, x: usize, y: usize, count: usize): void {
  for (; count >= 4; count -= 4) {
    store(y, activation(kind, load(x, 4)), 4);
    x += 16;
    y += 16;
  }
  if (count > 0) store(y, activation(kind, load(x, count)), count);
}

// @ts-ignore: decorator
@inline
function backward(kind: i32, value: usize, dy: usize, dx: usize, count: usize): void {
  for (; count >= 4; count -= 4) {
    store(dx, derivative(kind, load(value, 4), load(dy, 4)), 4);
    value += 16;
    dy += 16;
    dx += 16;
  }
  if (count > 0) store(dx, derivative(kind, load(value, count), load(dy, count)), count);
}

export function relu(x: usize, y: usize, count: usize): void {
  forward(RELU, x, y, count);
}

export function gelu(x: usize, y: usize, count: usize): void {
  forward(GELU, x, y, count);
}

export function tanh(x: usize, y: usize, count: usize): void {
  forward(TANH, x, y, count);
}

export function reluBackward(y: usize, dy: usize, dx: usize, count: usize): void {
  backward(RELU, y, dy, dx, count);
}

export function geluBackward(x: usize, dy: usize, dx: usize, count: usize): void {
  backward(GELU, x, dy, dx, count);
}

export function tanhBackward(y: usize, dy: usize, dx: usize, count: usize): void {
  backward(TANH, y, dy, dx, count);
}

/** target += source. */
function addArray(target: usize, source: usize, count: usize): void {
  for (; count >= 4; count -= 4) {
    v128.store(target, f32x4.add(v128.load(target), v128.load(source)));
    target += 16;
    source += 16;
  }
  for (; count > 0; count--) {
    f32.store(target, f32.load(target) + f32.load(source));
    target += 4;
    source += 4;
  }
}

export function addBias(y: usize, bias: usize, rows: usize, columns: usize): void {
  for (let row: usize = 0; row < rows; row++) addArray(y + ((row * columns) << 2), bias, columns);
}

export function sumRowsAdd(dy: usize, gradient: usize, rows: usize, columns: usize, scratch: usize): void {
  memory.fill(scratch, 0, columns << 2);
  for (let row: usize = 0; row < rows; row++) addArray(scratch, dy + ((row * columns) << 2), columns);
  addArray(gradient, scratch, columns);
}

export function copy(x: usize, y: usize, count: usize): void {
  memory.copy(y, x, count << 2);
}

export function firstNotFinite(x: usize, count: usize): i32 {
  const exponent = i32x4.splat(0x7f800000);
  let index: usize = 0;
  for (; index + 4 <= count; index += 4) {
    if (v128.any_true(i32x4.eq(v128.and(v128.load(x + (index << 2)), exponent), exponent))) break;
  }
  for (; index < count; index++) {
    if (!isFinite(f32.load(x + (index << 2)))) return <i32>index;
  }
  return -1;
}
