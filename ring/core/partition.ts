/**
 * @file Cuts the layers into one contiguous segment a stage, for nodes of different speeds and memory. Every node computes
 * the same cut from the same integers: all arithmetic is exact. Limit: stage times stay below 2^53.
 */
import { UsageError } from "../../src/types/errors.ts";
import { assert, defined } from "../../src/types/assert.ts";

/** Layers `[start, end)`. */
export type LayerRange = readonly [start: number, end: number];

export interface PartitionProblem {
  /** One positive integer a layer, any unit. */
  readonly layerCosts: readonly number[];
  /** One positive integer a node (thousandths, say): a layer takes `cost · slowness` there. */
  readonly slowness: readonly number[];
  /** Stage `s` of `laps · nodes` is on node `s mod nodes`. */
  readonly laps: number;
  /** None: memory is no limit. */
  readonly memory?: MemoryLimits;
}

export interface MemoryLimits {
  readonly layerBytes: readonly number[];
  /** Bytes that all layers of a node may take; null is no limit. With laps each stage may take `floor(cap / laps)`. */
  readonly capBytes: readonly (number | null)[];
}

export interface Partition {
  /** One a stage. */
  readonly ranges: readonly LayerRange[];
  /** The largest `cost · slowness` of a stage. */
  readonly largestTime: number;
}

/** The partition whose heaviest segment is lightest, on equal nodes. Costs and errors as for `bestPartition`, ties too. */
export function cutLayers(costs: readonly number[], stages: number): readonly LayerRange[] {
  assert(stages >= 1, "at least one stage");
  return bestPartition({ layerCosts: costs, slowness: Array<number>(stages).fill(1), laps: 1 }).ranges;
}

/**
 * The partition whose largest stage time is smallest; each stage has a layer. Ties: the last segment starts at the lowest
 * layer that is as good while the layers before it, cut by this same rule, are in themselves cut as well as can be.
 * Throws UsageError where there are fewer layers than stages, or no partition fits the memory.
 */
export function bestPartition(problem: PartitionProblem): Partition {
  checkProblem(problem);
  const best = solve(problem);
  if (best === undefined) throw memoryError(problem);
  return best;
}

/** Undefined where no partition fits the memory. O(stages · layers · log layers). */
function solve(problem: PartitionProblem): Partition | undefined {
  const { layerCosts, slowness, laps } = problem;
  const nodes = slowness.length;
  const costSums = prefixSums(layerCosts);
  const firstFits = firstFittingStarts(problem);
  // rows[s][l]: the smallest largest time of the first l layers on the first s stages.
  const rows: (readonly number[])[] = [[0, ...layerCosts.map(() => Infinity)]];
  for (let stage = 0; stage < laps * nodes; stage += 1) {
    rows.push(nextRow(rows[stage]!, costSums, slowness[stage % nodes]!, firstFits[stage % nodes]!));
  }
  const largestTime = rows.at(-1)!.at(-1)!;
  if (largestTime === Infinity) return undefined;

  const ranges: LayerRange[] = [];
  for (let stage = laps * nodes - 1, end = layerCosts.length; stage >= 0; stage -= 1) {
    const node = stage % nodes;
    const allowed = rows[stage + 1]![end]!;
    const isAsGood = (start: number): boolean =>
      rows[stage]![start]! <= allowed && (costSums[end]! - costSums[start]!) * slowness[node]! <= allowed;
    let start = firstFits[node]![end]!;
    for (; !isAsGood(start); start += 1) assert(start < end, "the best time has a start");
    ranges.unshift([start, end]);
    end = start;
  }
  return { ranges, largestTime };
}

function checkProblem({ layerCosts, slowness, laps, memory }: PartitionProblem): void {
  const layers = layerCosts.length;
  const stages = laps * slowness.length;
  assert(Number.isSafeInteger(stages) && stages >= 1, "laps and nodes are counts");
  if (stages > layers) throw tooFewLayers(layers, slowness.length, laps);
  const isPositive = (value: number): boolean => Number.isSafeInteger(value) && value > 0;
  assert(layerCosts.every(isPositive) && slowness.every(isPositive), "costs and slownesses are positive integers");
  const slowest = Math.max(...slowness);
  const cost = layerCosts.reduce((sum, layer) => sum + layer, 0);
  assert(Number.isSafeInteger(cost * slowest), "stage times are safe integers");
  if (memory === undefined) return;
  assert(memory.layerBytes.length === layers && memory.capBytes.length === slowness.length, "bytes and caps for all");
  assert(
    memory.layerBytes.every((bytes) => Number.isSafeInteger(bytes) && bytes >= 0),
    "bytes are counts",
  );
}

function prefixSums(values: readonly number[]): readonly number[] {
  const sums = [0];
  for (const value of values) sums.push(defined(sums.at(-1), "a sum") + value);
  return sums;
}

/** By node and end: the lowest start with which a segment fits the node's memory (`end` itself where no layer does). */
function firstFittingStarts({ layerCosts, slowness, laps, memory }: PartitionProblem): readonly (readonly number[])[] {
  const byteSums = prefixSums(memory?.layerBytes ?? layerCosts);
  return slowness.map((_, node) => {
    const cap = Math.floor((memory?.capBytes[node] ?? Infinity) / laps);
    let start = 0;
    return byteSums.map((sum, end) => {
      while (start < end && sum - byteSums[start]! > cap) start += 1;
      return start;
    });
  });
}

/**
 * One more stage: `row[end]`, the smallest largest time of the first `end` layers with it, from `before`, the same
 * without it. `before` may fall (a slow node's only layer may be a heavy one), but a start with a later one below it is
 * never better. The others, kept in `starts`, rise in `before` while the segment's time falls: the best is where the two cross.
 */
function nextRow(
  before: readonly number[],
  costSums: readonly number[],
  slowness: number,
  firstFits: readonly number[],
): readonly number[] {
  const row = [Infinity];
  const starts: number[] = [];
  for (let end = 1; end < costSums.length; end += 1) {
    while (starts.length > 0 && before[starts.at(-1)!]! >= before[end - 1]!) starts.pop();
    starts.push(end - 1);
    const time = (place: number): number => (costSums[end]! - costSums[starts[place]!]!) * slowness;
    const fitting = lowestWhere(starts.length, (place) => starts[place]! >= firstFits[end]!);
    const crossing = lowestWhere(starts.length, (place) => before[starts[place]!]! >= time(place));
    const beyond = Math.max(fitting, crossing);
    const atBeyond = beyond < starts.length ? before[starts[beyond]!]! : Infinity;
    row.push(beyond > fitting ? Math.min(atBeyond, time(beyond - 1)) : atBeyond);
  }
  return row;
}

/** The lowest index below `count` for which a condition holds that holds for all higher ones too; `count` where none does. */
function lowestWhere(count: number, holds: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function tooFewLayers(layers: number, nodes: number, laps: number): UsageError {
  if (laps === 1) {
    return new UsageError(
      `nodes ${nodes} is more than the model's ${layers} layers: a node would have nothing to hold`,
      `use at most -n ${layers}, or a deeper model`,
    );
  }
  return new UsageError(
    `laps x nodes (${laps} x ${nodes} = ${laps * nodes}) is more than the model's ${layers} layers: a stage would be empty`,
    "use fewer laps or nodes, or a deeper model",
  );
}

function memoryError({ slowness, laps, memory }: PartitionProblem): UsageError {
  const { layerBytes } = defined(memory, "only memory rules partitions out");
  const stages = laps * slowness.length;
  const even = solve({ layerCosts: layerBytes, slowness: slowness.map(() => 1), laps });
  return new UsageError(
    `no cut of the model's ${layerBytes.length} layers into ${stages} stages fits the nodes' memory caps`,
    `a cap of ${laps * defined(even, "a cut without caps").largestTime} bytes on every node would do; or use more nodes`,
  );
}
