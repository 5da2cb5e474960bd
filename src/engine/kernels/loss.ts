/** @file Softmax and cross-entropy in one pass per row, so that the loss and its gradient see the same probabilities. */
import { load, store } from "./lanes";
import { exponential, logarithm } from "./transcendental";

/** The largest of `count` floats; -inf for none. */
function largest(x: usize, count: usize): f32 {
  let lanes = f32x4.splat(-Infinity);
  for (; count >= 4; count -= 4) {
    lanes = f32x4.max(lanes, v128.load(x));
    x += 16;
  }
  let value = max(
    max(f32x4.extract_lane(lanes, 0), f32x4.extract_lane(lanes, 1)),
    max(f32x4.extract_lane(lanes, 2), f32x4.extract_lane(lanes, 3)),
  );
  for (; count > 0; count--) {
    value = max(value, f32.load(x));
    x += 4;
  }
  return value;
}

/** y = exp(x - shift); returns the sum of y in float64, four partial sums added in lane order. */
function exponentialsAndSum(x: usize, y: usize, count: usize, shift: f32): f64 {
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  const shifts = f32x4.splat(shift);
  for (let left = count; left > 0; ) {
    const lanes = min<usize>(left, 4);
    store(y, exponential(f32x4.sub(load(x, lanes), shifts)), lanes);
    // Read back: the lanes beyond the end are zero then.
    const e = load(y, lanes);
    low = f64x2.add(low, f64x2.promote_low_f32x4(e));
    high = f64x2.add(high, f64x2.promote_low_f32x4(v128.shuffle<f64>(e, e, 1, 1)));
    x += 16;
    y += 16;
    left -= lanes;
  }
  return f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1) + f64x2.extract_lane(high, 0) + f64x2.extract_lane(high, 1);
}

function scaleArray(x: usize, count: usize, factor: f32): void {
  const factors = f32x4.splat(factor);
  for (; count >= 4; count -= 4) {
    v128.store(x, f32x4.mul(v128.load(x), factors));
    x += 16;
  }
  for (; count > 0; count--) {
    f32.store(x, f32.load(x) * factor);
    x += 4;
  }
}

/** True where the label's logit is the largest, and no lower class has the same one. */
function isCorrect(logits: usize, label: usize, top: f32): bool {
  if (f32.load(logits + (label << 2)) != top) return false;
  for (let lower: usize = 0; lower < label; lower++) {
    if (f32.load(logits + (lower << 2)) == top) return false;
  }
  return true;
}

export function softmaxCrossEntropy(
  logits: usize, labels: usize, gradient: usize, rows: usize, classes: usize, scale: f64, loss: usize, correct: usize,
): void {
  let total: f64 = 0;
  let hits: i32 = 0;
  const rowBytes = classes << 2;
  for (let row: usize = 0; row < rows; row++) {
    const label = i32.load(labels + (row << 2));
    if (label < 0 || <usize>label >= classes) {
      memory.fill(gradient, 0, rowBytes);
      if (label >= 0) total = NaN;
    } else {
      const top = largest(logits, classes);
      const sum = exponentialsAndSum(logits, gradient, classes, top);
      const at = gradient + (<usize>label << 2);
      const own = <f32>((<f64>f32.load(at) / sum - 1) * scale);
      scaleArray(gradient, classes, <f32>(scale / sum));
      f32.store(at, own);
      total += logarithm(sum) - (<f64>f32.load(logits + (<usize>label << 2)) - <f64>top);
      if (isCorrect(logits, label, top)) hits += 1;
    }
    logits += rowBytes;
    gradient += rowBytes;
  }
  f64.store(loss, total);
  i32.store(correct, hits);
}
