/**
 * @file Four float32 lanes: multiply-add in the build's own arithmetic, and loads and stores of fewer than four lanes, so
 * that the end of an array goes through the same vector code, hence has the same bits, as its middle.
 */

/** a·b + c. Relaxed: rounded once where the processor can (fused). Exact: the product is rounded, then the sum. */
// @ts-ignore: decorator
@inline
export function multiplyAdd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, b));
}

function loadPart(address: usize, lanes: usize): v128 {
  let value = v128.load32_zero(address);
  if (lanes > 1) value = v128.load_lane<f32>(address, value, 1, 4);
  if (lanes > 2) value = v128.load_lane<f32>(address, value, 2, 8);
  return value;
}

function storePart(address: usize, value: v128, lanes: usize): void {
  v128.store_lane<f32>(address, value, 0);
  if (lanes > 1) v128.store_lane<f32>(address, value, 1, 4);
  if (lanes > 2) v128.store_lane<f32>(address, value, 2, 8);
}

/** The first `lanes` (1 to 4) floats at `address`; the other lanes are +0. With a constant 4 it is a plain load. */
// @ts-ignore: decorator
@inline
export function load(address: usize, lanes: usize): v128 {
  return lanes == 4 ? v128.load(address) : loadPart(address, lanes);
}

/** Writes the first `lanes` (1 to 4) lanes of `value`, and nothing beyond them. */
// @ts-ignore: decorator
@inline
export function store(address: usize, value: v128, lanes: usize): void {
  if (lanes == 4) v128.store(address, value);
  else storePart(address, value, lanes);
}
