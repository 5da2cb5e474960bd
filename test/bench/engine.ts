/**
 * @file Speed of the kernels on one thread: products in GFLOP/s beside a triple loop in JavaScript, passes over arrays in
 * GB/s of memory read and written, updates in 1e9 parameters a second. About fifteen seconds. Alone: `node test/bench/engine.ts`.
 */
import { pathToFileURL } from "node:url";
import { ENGINE_KINDS, type EngineKind, type Kernels } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { HeldState } from "../../src/nn/held-state.ts";
import { planSegment, segmentMemory } from "../../src/nn/layout.ts";
import type { BenchRow } from "./row.ts";

const PRODUCTS = ["matmul", "matmulTransposedB", "matmulTransposedAAdd"] as const;
/** A dense layer of 1024 x 1024: forward, backward for inputs, backward for weights, for micro-batches of 256 and 16. */
const PRODUCT_SIZES = [
  { product: "matmul", m: 256, n: 1024, k: 1024 },
  { product: "matmulTransposedB", m: 256, n: 1024, k: 1024 },
  { product: "matmulTransposedAAdd", m: 1024, n: 1024, k: 256 },
  { product: "matmul", m: 16, n: 1024, k: 1024 },
  { product: "matmulTransposedB", m: 16, n: 1024, k: 1024 },
  { product: "matmulTransposedAAdd", m: 1024, n: 1024, k: 16 },
] as const satisfies readonly { product: (typeof PRODUCTS)[number]; m: number; n: number; k: number }[];
const ARRAY_LENGTH = 1 << 20;
const MATRIX_LENGTH = 1 << 20;
const RUN_MS_MAX = 400;
const REPETITIONS_MAX = 60;

/** Runs `work` for at most RUN_MS_MAX after a warm-up, at least three times; `amount` per millisecond / 1e6 is the value. */
function measure(name: string, unit: string, amount: number, work: () => unknown): BenchRow {
  for (let round = 0; round < 3; round += 1) work();
  const speeds: number[] = [];
  const endMs = performance.now() + RUN_MS_MAX;
  while (speeds.length < 3 || (performance.now() < endMs && speeds.length < REPETITIONS_MAX)) {
    const startMs = performance.now();
    work();
    speeds.push(amount / (performance.now() - startMs) / 1e6);
  }
  speeds.sort((a, b) => a - b);
  const value = speeds[speeds.length >> 1]!;
  return { name, value, unit, spread: `${speeds[0]!.toFixed(1)}..${speeds.at(-1)!.toFixed(1)}` };
}

/** c[m,n] = a[m,k] · b[k,n] as three loops, in the order that runs along the rows of b and c. */
function plainMatmul(a: Float32Array, b: Float32Array, c: Float32Array, m: number, n: number, k: number): void {
  c.fill(0);
  for (let row = 0; row < m; row += 1) {
    for (let step = 0; step < k; step += 1) {
      const x = a[row * k + step]!;
      for (let column = 0; column < n; column += 1) c[row * n + column]! += x * b[step * n + column]!;
    }
  }
}

function fillWithSines(array: Float32Array): Float32Array {
  for (let index = 0; index < array.length; index += 1) array[index] = Math.sin(index);
  return array;
}

function benchPlain(): BenchRow {
  const [m, n, k] = [32, 1024, 1024];
  const [a, b, c] = [m * k, k * n, m * n].map((length) => fillWithSines(new Float32Array(length)));
  return measure(`JavaScript matmul ${m}x${n}x${k}`, "GFLOP/s", 2 * m * n * k, () => plainMatmul(a!, b!, c!, m, n, k));
}

function benchProducts(kind: EngineKind, plain: BenchRow): BenchRow[] {
  const memory = new EngineMemory(0);
  const kernels = loadKernels(kind, memory.memory);
  const [a, b, c] = [0, 1, 2].map(() => memory.allocate([MATRIX_LENGTH]));
  for (const view of [a!, b!]) fillWithSines(memory.f32(view));
  const scratch = memory.allocateBytes(
    Math.max(...PRODUCT_SIZES.map(({ m, n, k }) => kernels.matmulScratchBytes(m, n, k))),
  );
  return PRODUCT_SIZES.map(({ product, m, n, k }) => {
    const row = measure(`${kind} ${product} ${m}x${n}x${k}`, "GFLOP/s", 2 * m * n * k, () =>
      kernels[product](a!.offsetBytes, b!.offsetBytes, c!.offsetBytes, m, n, k, scratch),
    );
    return { ...row, beside: `${(row.value / plain.value).toFixed(0)} x JavaScript` };
  });
}

/** Name, arrays read or written per call, call. All arrays have ARRAY_LENGTH elements. */
type Pass = readonly [name: string, arrays: number, run: (kernels: Kernels, arrays: readonly number[]) => void];
const PASSES: readonly Pass[] = [
  ["relu", 2, (kernels, [x, y]) => kernels.relu(x!, y!, ARRAY_LENGTH)],
  ["gelu", 2, (kernels, [x, y]) => kernels.gelu(x!, y!, ARRAY_LENGTH)],
  ["tanh", 2, (kernels, [x, y]) => kernels.tanh(x!, y!, ARRAY_LENGTH)],
  ["geluBackward", 3, (kernels, [x, y, z]) => kernels.geluBackward(x!, y!, z!, ARRAY_LENGTH)],
  ["addBias", 2, (kernels, [x, y]) => kernels.addBias(x!, y!, ARRAY_LENGTH / 1024, 1024)],
  ["sgd", 4, (kernels, [x, y]) => kernels.sgd(x!, y!, ARRAY_LENGTH, 1e-3)],
  [
    "adam",
    8,
    (kernels, [x, y, z, v]) => kernels.adam(x!, y!, z!, v!, ARRAY_LENGTH, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0.001, 0),
  ],
];

function benchPasses(kind: EngineKind): BenchRow[] {
  const memory = new EngineMemory(0);
  const kernels = loadKernels(kind, memory.memory);
  return PASSES.map(([name, arrays, run]) => {
    const views = [0, 1, 2, 3].map(() => memory.allocate([ARRAY_LENGTH]));
    for (const view of views) fillWithSines(memory.f32(view));
    // The last one is Adam's mean square.
    memory.f32(views[3]!).fill(1);
    const addresses = views.map((view) => view.offsetBytes);
    return measure(`${kind} ${name}`, "GB/s", arrays * ARRAY_LENGTH * 4, () => run(kernels, addresses));
  });
}

/** Adam's updates of ARRAY_LENGTH parameters as an owner does them, and the digest that belongs to one, by itself. */
function benchUpdates(kind: EngineKind): BenchRow[] {
  const kernels = loadKernels(kind, new EngineMemory(0).memory);
  const layers = [0, 1] as const;
  const sizes = { model: `mlp:${ARRAY_LENGTH / 1024 - 1}-1024`, layers, rows: 1, slots: 1, batch: 1 };
  const [plain, replicated] = [false, true].map((isReplicated) => {
    const layout = planSegment({ ...sizes, optimizer: "adam", rate: 1e-3, seed: 1 }, kernels, isReplicated);
    const memory = segmentMemory([layout]);
    const state = new HeldState(layout, memory, loadKernels(kind, memory.memory));
    state.initialize();
    fillWithSines(memory.f32(layout.layers[0]!.gradient!.all));
    return state;
  });
  const run = (name: string, work: () => unknown): BenchRow =>
    measure(`${kind} ${name}`, "Gparam/s", ARRAY_LENGTH, work);
  const inPlace = run("adam, in place", () => plain!.update(plain!.step));
  const others = [
    run("adam, copies and digest", () => replicated!.update(replicated!.step)),
    run("digest after adam, alone", () => replicated!.digests()),
  ];
  const beside = (row: BenchRow) => `${((100 * inPlace.value) / row.value).toFixed(0)} % of its time`;
  return [inPlace, ...others.map((row) => ({ ...row, beside: beside(row) }))];
}

/** Both engines; every row is a median with its smallest and largest repetition. */
export async function benchEngine(): Promise<BenchRow[]> {
  const plain = benchPlain();
  return [
    plain,
    ...ENGINE_KINDS.flatMap((kind) => [...benchProducts(kind, plain), ...benchPasses(kind), ...benchUpdates(kind)]),
  ];
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const { name, value, unit, spread, beside } of await benchEngine()) {
    console.log(
      `${name.padEnd(46)} ${value.toFixed(1).padStart(7)} ${unit.padEnd(8)} ${spread.padEnd(14)} ${beside ?? ""}`,
    );
  }
}
