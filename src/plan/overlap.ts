/**
 * @file Step times of the data-parallel systems, layer by layer, with communication beside computation as far as the order of
 * layers allows: as strong as these systems get. A worker takes its share of the batch in one pass; a message takes no CPU. Source of
 * the overlap: Li 2020 (PyTorch Distributed), section 3.2.3; of the gathers one layer ahead: Zhao 2023 (FSDP), section 3.3.
 */
import { dedicatedTraffic, coLocatedTraffic } from "./formulas.ts";
import { layerWork, sum, type LayerWork, type Scenario } from "./scenario.ts";

/** What keeps one lane busy for a while. */
export interface LaneTask {
  readonly lane: "compute" | "in" | "out";
  readonly duration: number;
  /** From its end to when others may build on it. */
  readonly lag?: number;
  /** Indices of earlier tasks. */
  readonly after: readonly number[];
}

/** When each task is there for others: each lane does its tasks in their order, one at a time. */
export function laneEnds(tasks: readonly LaneTask[]): readonly number[] {
  const free = { compute: 0, in: 0, out: 0 };
  const ends: number[] = [];
  for (const { lane, duration, lag = 0, after } of tasks) {
    free[lane] = Math.max(free[lane], ...after.map((index) => ends[index]!)) + duration;
    ends.push(free[lane] + lag);
  }
  return ends;
}

/** Collects tasks; `add` gives the new one's index. */
class Tasks {
  readonly list: LaneTask[] = [];

  add(lane: LaneTask["lane"], duration: number, after: readonly number[], lag = 0): number {
    this.list.push({ lane, duration, after, lag });
    return this.list.length - 1;
  }

  get end(): number {
    return Math.max(...laneEnds(this.list));
  }
}

/** One pass of a worker's share; the gradients of the layers, in the order in which they are done: last layer first. */
function pass(tasks: Tasks, layers: readonly LayerWork[], msPerFlop: number): readonly number[] {
  tasks.add("compute", msPerFlop * sum(layers.map(({ forward }) => forward)), []);
  return layers.toReversed().map(({ backward, weight }) => tasks.add("compute", msPerFlop * (backward + weight), []));
}

export interface ServerGroup {
  readonly workers: number;
  readonly servers: number;
  readonly isCoLocated: boolean;
}

/**
 * A step from parameters to parameters (tau = 0): each layer is spread over all servers, is pushed when its gradient is done, and
 * is sent back when all workers' have come. Layers come back last first, so the next step waits for all.
 */
export function serverStepMs(scenario: Scenario, { workers, servers, isCoLocated }: ServerGroup): number {
  const { model, batch, flopsPerMs, link } = scenario;
  const layers = layerWork(model);
  const perLayer = isCoLocated ? (workers - 1) / servers : Math.max(1, workers / servers);
  const latencyMs = perLayer === 0 ? 0 : link.latencyMs;
  const tasks = new Tasks();
  const gradients = pass(tasks, layers, batch / workers / flopsPerMs);
  for (const [index, { bytes }] of layers.toReversed().entries()) {
    const transferMs = (perLayer * bytes) / link.rateBytesPerMs;
    const pushed = tasks.add("in", transferMs, [gradients[index]!], latencyMs);
    tasks.add("out", transferMs, [pushed], latencyMs);
  }
  // An interface that serves and works carries pushes and answers both.
  const traffic = isCoLocated ? coLocatedTraffic : dedicatedTraffic;
  const { busiestLinkBytes } = traffic(sum(layers.map(({ bytes }) => bytes)), workers, servers);
  const firstGradientMs = laneEnds(tasks.list)[gradients[0]!]!;
  return Math.max(tasks.end, firstGradientMs + busiestLinkBytes / link.rateBytesPerMs + latencyMs);
}

/** The better of one reduction a layer, which overlaps, and one for all, which has the fewest hops. */
export function allReduceStepMs(scenario: Scenario): number {
  const { model, batch, nodes, flopsPerMs, link } = scenario;
  const layers = layerWork(model);
  const reduceMs = (bytes: number): number => 2 * (nodes - 1) * (bytes / nodes / link.rateBytesPerMs + link.latencyMs);
  const tasks = new Tasks();
  const gradients = pass(tasks, layers, batch / nodes / flopsPerMs);
  const computedMs = tasks.end;
  for (const [index, { bytes }] of layers.toReversed().entries())
    tasks.add("out", reduceMs(bytes), [gradients[index]!]);
  return Math.min(tasks.end, computedMs + reduceMs(sum(layers.map(({ bytes }) => bytes))));
}

/** Two layers' parameters are there at once: the one that is used and the one that comes next. */
export function shardedStepMs(scenario: Scenario): number {
  const { model, batch, nodes, flopsPerMs, link } = scenario;
  const layers = layerWork(model);
  const msPerFlop = batch / nodes / flopsPerMs;
  const collectiveMs = (bytes: number): number => (nodes - 1) * (bytes / nodes / link.rateBytesPerMs + link.latencyMs);
  const visits = [
    ...layers.map(({ bytes, forward }) => ({ bytes, flops: forward, hasGradient: false })),
    ...layers
      .toReversed()
      .map(({ bytes, backward, weight }) => ({ bytes, flops: backward + weight, hasGradient: true })),
  ];
  const tasks = new Tasks();
  const computed: number[] = [];
  let scatter: (() => void) | undefined;
  for (const [index, { bytes, flops, hasGradient }] of visits.entries()) {
    const beforeLast = computed[index - 2];
    const gathered = tasks.add("out", collectiveMs(bytes), beforeLast === undefined ? [] : [beforeLast]);
    // The next layer is gathered before this one's gradient is scattered: it is needed sooner.
    scatter?.();
    const done = tasks.add("compute", msPerFlop * flops, [gathered]);
    computed.push(done);
    scatter = hasGradient ? () => tasks.add("out", collectiveMs(bytes), [done]) : undefined;
  }
  scatter?.();
  return tasks.end;
}
