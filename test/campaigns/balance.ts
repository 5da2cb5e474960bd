/**
 * @file Uneven nodes: does the ring find the best cut by itself, once, and does the clock agree? The stated speeds and ten
 * random draws. What is best is found again here by trying every cut at the measured costs.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { RandomStream } from "../../src/types/random.ts";
import { everyCut } from "../helpers/oracle-schedule.ts";
import { paceFor, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WIDTH = 32;
const ROWS = 4;
const LAYERS = 16;
const NODES = 4;
const MICRO_BATCHES = 16;
const STEPS = 9;
/** F, B and W of one layer on a node of speed 1. */
const LAYER_MS = 12;
const SEED = 11;

interface Result {
  readonly speeds: readonly number[];
  readonly moves: number;
  readonly movedBeforeStep: number | null;
  readonly cut: readonly (readonly [number, number])[];
  readonly best: readonly (readonly [number, number])[];
  /** Largest stage time of one micro-batch at the measured costs. */
  readonly bestMs: number;
  /** A step, on the clock, over `MICRO_BATCHES` largest stage times of the best cut: median of the steps after the third flush. */
  readonly onTheClock: number;
  /** The same of a dry run of the best cut: what the pipeline's fill and drain add. */
  readonly idleTheory: number;
  readonly weights: string;
}

interface BalanceEvent {
  readonly kind: string;
  readonly step: number;
  readonly measurements: readonly { readonly layers: readonly { readonly layer: number; readonly us: number }[] }[];
}

function cells(): readonly Cell[] {
  const random = new RandomStream(SEED, 1);
  const draw = (): number => Math.round(100 * (0.5 + 1.5 * random.nextFloat())) / 100;
  const draws = Array.from({ length: 10 }, () => Array.from({ length: NODES }, draw));
  return [[2, 1, 1, 0.5], ...draws].map((speeds) => ({
    id: speeds.join(","),
    flags: [
      ...["--system", "ring", "-n", String(NODES), ...uniformModel(LAYERS, WIDTH), "--optimizer", "adam"],
      ...["--batch", String(ROWS * MICRO_BATCHES), "--micro-batches", String(MICRO_BATCHES), "--steps", String(STEPS)],
      ...[
        "--pace",
        `${speeds.map((speed) => (speed * paceFor(1, WIDTH, ROWS, LAYER_MS / 3)).toFixed(9)).join(",")}GFLOP/s`,
      ],
    ],
  }));
}

function measure({ id }: Cell, summary: RunSummary, folder: string): Result {
  const lines = <Line>(name: string): Line[] =>
    readFileSync(join(folder, name), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Line);
  const events = lines<BalanceEvent & { cut?: [number, number][] }>("events.jsonl");
  const moved = events.filter(({ kind }) => kind === "migrated");
  const speeds = id.split(",").map(Number);
  // Of every layer, at speed 1: what its node measured, times that node's stated speed.
  const costs: number[] = [];
  const first = events.find(({ kind }) => kind === "balance")!;
  for (const [node, { layers }] of first.measurements.entries()) {
    for (const { layer, us } of layers) costs[layer] = us * speeds[node]!;
  }
  const { best, bestUs } = bestCut(costs, speeds);
  const elapsed = lines<{ elapsedMs: number }>("metrics.jsonl").map(({ elapsedMs }) => elapsedMs);
  const steps = elapsed.slice(1).map((at, index) => at - elapsed[index]!);
  // Steps 4 and on: the three flushes are those of steps 0, 1 and 2, and the move makes step 3 longer.
  const late = steps.slice(3).toSorted((a, b) => a - b);
  return {
    speeds,
    moves: moved.length,
    movedBeforeStep: moved[0]?.step ?? null,
    cut: summary.perNode.map(({ layers }) => layers[0]!),
    best,
    bestMs: bestUs / 1000,
    onTheClock: late[late.length >> 1]! / ((MICRO_BATCHES * bestUs) / 1000),
    idleTheory: summary.idlePercentTheory,
    weights: summary.weightsSha256,
  };
}

function bestCut(costs: readonly number[], speeds: readonly number[]) {
  let [best, bestUs] = [[] as [number, number][], Infinity];
  for (const cut of everyCut(LAYERS, NODES)) {
    const times = cut.map(
      ([start, end], node) => costs.slice(start, end).reduce((sum, us) => sum + us, 0) / speeds[node]!,
    );
    const largest = Math.max(...times);
    if (largest < bestUs) [best, bestUs] = [cut, largest];
  }
  return { best, bestUs };
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const rows = results.map((result) => [
    result.id,
    result.cut.map(([start, end]) => end - start).join(" "),
    result.best.map(([start, end]) => end - start).join(" "),
    result.moves,
    result.movedBeforeStep ?? "",
    result.bestMs.toFixed(1),
    result.onTheClock.toFixed(3),
  ]);
  const head = [
    "speeds",
    "layers, at the end",
    "best",
    "moves",
    "before step",
    "largest stage, best (ms)",
    "step / best",
  ];
  const weights = new Set(results.map((result) => result.weights));
  return [
    "# Balance on uneven nodes, paced\n\n",
    `${LAYERS} layers of width ${WIDTH}, ${NODES} nodes, ${MICRO_BATCHES} micro-batches, ${STEPS} steps, ${LAYER_MS} ms a layer and micro-batch at speed 1, seed ${SEED}. `,
    `"Best" is by trying every cut at the measured costs. "Step / best": the median step after the move over ${MICRO_BATCHES} times the best cut's largest stage; `,
    "the pipeline's fill and drain are in it.\n\n",
    table(head, rows),
    `\nWeights: ${weights.size === 1 ? "one hash in all runs" : `${weights.size} different hashes`}.\n\nRemake with \`npm run campaign -- balance\`.\n`,
  ].join("");
}

export const balance: Campaign<Result> = { name: "balance", cells, measure, report };
