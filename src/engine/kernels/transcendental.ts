/**
 * @file exp, tanh and log as our own polynomials, without fused operations, so that both builds agree and no version of
 * the runtime changes a bit. exp and tanh after Moshier's Cephes (expf, tanhf); log after fdlibm's e_log. NaN goes through.
 */

/** e^x on four float32 lanes, within 2 ulp; +inf above 88.73, gradual underflow, +0 below -103.98. */
// @ts-ignore: decorator
@inline
export function exponential(x: v128): v128 {
  // Beyond these bounds the result is +inf or +0 already. pmin and pmax hand a NaN in their first place on.
  x = f32x4.pmin(f32x4.pmax(x, f32x4.splat(-105)), f32x4.splat(89));
  const power = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.4426950408889634)));
  // ln 2 in two pieces, the first so short that power · piece is exact.
  let r = f32x4.sub(x, f32x4.mul(power, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(power, f32x4.splat(-2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  // 2^power in two factors, since one alone leaves the exponents at both ends.
  const whole = i32x4.trunc_sat_f32x4_s(power);
  const half = i32x4.shr_s(whole, 1);
  return f32x4.mul(f32x4.mul(p, powerOfTwo(half)), powerOfTwo(i32x4.sub(whole, half)));
}

// @ts-ignore: decorator
@inline
function powerOfTwo(power: v128): v128 {
  return i32x4.shl(i32x4.add(power, i32x4.splat(127)), 23);
}

/** tanh on four float32 lanes, within 2 ulp, near zero as well; odd to the bit. */
// @ts-ignore: decorator
@inline
export function hyperbolicTangent(x: v128): v128 {
  const size = f32x4.abs(x);
  const z = f32x4.mul(x, x);
  let p = f32x4.splat(-5.70498872745e-3);
  p = f32x4.add(f32x4.mul(p, z), f32x4.splat(2.06390887954e-2));
  p = f32x4.add(f32x4.mul(p, z), f32x4.splat(-5.37397155531e-2));
  p = f32x4.add(f32x4.mul(p, z), f32x4.splat(1.33314422036e-1));
  p = f32x4.add(f32x4.mul(p, z), f32x4.splat(-3.33332819422e-1));
  const small = f32x4.add(f32x4.mul(f32x4.mul(p, z), x), x);
  const one = f32x4.splat(1);
  const grown = exponential(f32x4.add(size, size));
  const large = f32x4.sub(one, f32x4.div(f32x4.splat(2), f32x4.add(grown, one)));
  const signed = v128.or(large, v128.and(x, f32x4.splat(-0.0)));
  return v128.bitselect(small, signed, f32x4.lt(size, f32x4.splat(0.625)));
}

/** Natural logarithm of a normal positive float64, within 1 ulp; +inf and NaN come back as they are. */
export function logarithm(x: f64): f64 {
  if (!isFinite(x)) return x;
  const bits = reinterpret<u64>(x);
  // The exponent that brings the mantissa into [√½, √2).
  const shifted = <u32>(bits >> 32) + (0x3ff00000 - 0x3fe6a09e);
  const power = <f64>(<i32>(shifted >> 20) - 0x3ff);
  const high = (shifted & 0x000fffff) + 0x3fe6a09e;
  const f = reinterpret<f64>((<u64>high << 32) | (bits & 0xffffffff)) - 1;
  const s = f / (2 + f);
  const z = s * s;
  const w = z * z;
  const odd = z * (0.6666666666666735 + w * (0.2857142874366239 + w * (0.1818357216161805 + w * 0.14798198605116586)));
  const even = w * (0.3999999999940942 + w * (0.22222198432149784 + w * 0.15313837699209373));
  const halfSquare = 0.5 * f * f;
  const tail = s * (halfSquare + odd + even) + power * 1.9082149292705877e-10;
  return power * 0.6931471803691238 - (halfSquare - tail - f);
}
