/**
 * @file An engine's id: its kind and a digest of what it computes here. Two nodes with the same id get the same bits; relaxed
 * SIMD does not on every processor.
 */
import { createHash } from "node:crypto";
import type { EngineKind, Kernels, View } from "./contract.ts";
import { loadKernels } from "./load.ts";
import { EngineMemory } from "./memory.ts";

const PROBE_ROWS = 13;
const PROBE_COLUMNS = 19;
const PROBE_DEPTH = 67;
const PROBE_LENGTH = PROBE_DEPTH * PROBE_COLUMNS;

/** Floats in (-2, 2) from an integer recurrence (Numerical Recipes' quick generator): the same on every machine. */
function fill(array: Float32Array, seed: number): void {
  let state = seed;
  for (let index = 0; index < array.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    array[index] = state / 2 ** 30;
  }
}

/** `${kind}:${16 hex digits}`: the digest of a fixed probe's output bytes. Takes about a millisecond once compiled. */
export function engineId(kind: EngineKind): string {
  const memory = new EngineMemory(0);
  const kernels = loadKernels(kind, memory.memory);
  const hash = createHash("sha256");
  const keep = (view: View): void => void hash.update(memory.bytes(view));
  const input = (seed: number): View => {
    const view = memory.allocate([PROBE_LENGTH]);
    fill(memory.f32(view), seed);
    return view;
  };
  probeProducts(kernels, memory, input, keep);
  probeElementwise(kernels, memory, input, keep);
  probeLoss(kernels, memory, input, keep);
  probeOptimizers(kernels, input, keep);
  return `${kind}:${hash.digest("hex").slice(0, 16)}`;
}

type Input = (seed: number) => View;
type Keep = (view: View) => void;

function probeProducts(kernels: Kernels, memory: EngineMemory, input: Input, keep: Keep): void {
  const [m, n, k] = [PROBE_ROWS, PROBE_COLUMNS, PROBE_DEPTH];
  const scratch = memory.allocateBytes(kernels.matmulScratchBytes(m, n, k));
  const a = input(1).offsetBytes;
  const b = input(2).offsetBytes;
  for (const product of ["matmul", "matmulTransposedB", "matmulTransposedAAdd"] as const) {
    const c = memory.allocate([m, n]);
    kernels[product](a, b, c.offsetBytes, m, n, k, scratch);
    keep(c);
  }
}

function probeElementwise(kernels: Kernels, memory: EngineMemory, input: Input, keep: Keep): void {
  const x = input(3).offsetBytes;
  const dy = input(4).offsetBytes;
  for (const name of ["relu", "gelu", "tanh"] as const) {
    const y = memory.allocate([PROBE_LENGTH]);
    kernels[name](x, y.offsetBytes, y.length);
    keep(y);
  }
  for (const name of ["reluBackward", "geluBackward", "tanhBackward"] as const) {
    const dx = memory.allocate([PROBE_LENGTH]);
    kernels[name](x, dy, dx.offsetBytes, dx.length);
    keep(dx);
  }
  const sums = memory.allocate([PROBE_COLUMNS]);
  const scratch = memory.allocateBytes(PROBE_COLUMNS * 4);
  kernels.addBias(x, dy, PROBE_DEPTH, PROBE_COLUMNS);
  kernels.sumRowsAdd(x, sums.offsetBytes, PROBE_DEPTH, PROBE_COLUMNS, scratch);
  keep(sums);
}

function probeLoss(kernels: Kernels, memory: EngineMemory, input: Input, keep: Keep): void {
  const labels = memory.allocate([PROBE_DEPTH]);
  memory.i32(labels).forEach((_, row, array) => (array[row] = row % PROBE_COLUMNS));
  const logits = input(5).offsetBytes;
  const gradient = memory.allocate([PROBE_DEPTH, PROBE_COLUMNS]);
  const loss = memory.allocate([2]);
  const correct = memory.allocate([1]);
  kernels.softmaxCrossEntropy(
    logits,
    labels.offsetBytes,
    gradient.offsetBytes,
    PROBE_DEPTH,
    PROBE_COLUMNS,
    1 / PROBE_DEPTH,
    loss.offsetBytes,
    correct.offsetBytes,
  );
  for (const view of [gradient, loss, correct]) keep(view);
}

function probeOptimizers(kernels: Kernels, input: Input, keep: Keep): void {
  const w = input(6);
  const gradient = (seed: number): number => input(seed).offsetBytes;
  const state = input(7);
  const positive = input(8);
  kernels.relu(positive.offsetBytes, positive.offsetBytes, positive.length);
  const [weights, velocity, squares, count] = [w.offsetBytes, state.offsetBytes, positive.offsetBytes, w.length];
  kernels.sgd(weights, gradient(9), count, 0.1);
  kernels.momentum(weights, gradient(10), velocity, count, 0.1, 0.9);
  kernels.adam(weights, gradient(11), velocity, squares, count, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.01);
  kernels.adagrad(weights, gradient(12), squares, count, 0.1, 1e-8);
  for (const view of [w, state, positive]) keep(view);
}
