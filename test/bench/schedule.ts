/**
 * @file What scheduling costs: one event of one stage machine early and late in a run, which must not differ, and the
 * simulated ring in operations a second. About fifteen seconds.
 */
import { RingSimulator } from "../../ring/simulation/simulator.ts";
import { BusyStage } from "../helpers/busy-stage.ts";
import { heapBytes } from "../helpers/heap.ts";
import { uniformCosts } from "../helpers/steady-period.ts";
import type { BenchRow } from "./row.ts";

const STAGES = [
  { nodes: 8, microBatches: 16 },
  { nodes: 64, microBatches: 1024 },
] as const;
const STEPS_BEFORE = [1, 100, 1000] as const;
const EVENTS_MAX = 30_000;
/** Compiled code may still come; one number kept of each micro-batch of 64 x 1024 would be 7 MB. */
const GROWTH_BYTES_MAX = 1_000_000;
const RINGS = [
  { nodes: 8, microBatches: 64, steps: 400 },
  { nodes: 64, microBatches: 256, steps: 20 },
  { nodes: 1024, microBatches: 2048, steps: 1 },
] as const;
const KINDS = ["1f1b", "zero-bubble"] as const;
const REPETITIONS = 3;

const quantile = (sorted: Float64Array, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;

/** `handle` of every event of at most as many steps again, a clock reading included. Throws where the machine has grown. */
function benchDecisions({ nodes, microBatches }: (typeof STAGES)[number]): BenchRow[] {
  // Another machine first: the question is what a long run adds, not what compiling takes (some 200 µs, early in the process).
  new BusyStage(nodes, microBatches).run(Math.ceil(EVENTS_MAX / microBatches));
  const stage = new BusyStage(nodes, microBatches);
  const durations = new Float64Array(EVENTS_MAX);
  let leastBytes = Infinity;
  return STEPS_BEFORE.map((stepsBefore) => {
    stage.run(Math.max(0, stepsBefore - stage.completedSteps));
    const bytes = heapBytes();
    if (bytes - leastBytes > GROWTH_BYTES_MAX)
      throw new Error(`${bytes - leastBytes} bytes more by step ${stepsBefore}`);
    leastBytes = Math.min(leastBytes, bytes);
    let count = 0;
    for (let step = 0; step < stepsBefore && count < EVENTS_MAX; step += 1) {
      stage.run(1, (durationMs) => {
        if (count < EVENTS_MAX) durations[count] = 1000 * durationMs;
        count += 1;
      });
    }
    const sorted = durations.slice(0, count).toSorted();
    const [median, p99, max] = [0.5, 0.99, 1].map((share) => quantile(sorted, share).toFixed(2));
    return {
      name: `decision, ${nodes} nodes x ${microBatches}, after ${stepsBefore} steps`,
      value: Number(median),
      unit: "µs",
      spread: `p99 ${p99}, max ${max}`,
      beside: `heap ${(bytes / 2 ** 20).toFixed(1)} MiB`,
    };
  });
}

function benchSimulator(
  kind: (typeof KINDS)[number],
  { nodes, microBatches, steps }: (typeof RINGS)[number],
): BenchRow {
  const shape = { kind, nodes, laps: 1, microBatches };
  const speeds: number[] = [];
  for (let repetition = 0; repetition < REPETITIONS; repetition += 1) {
    const simulator = new RingSimulator({
      shape,
      steps,
      costs: uniformCosts(shape, [1, 1, 1]),
      link: { latency: 0.1 },
    });
    const startMs = performance.now();
    const { tasks } = simulator.run();
    speeds.push(tasks / (performance.now() - startMs) / 1000);
  }
  speeds.sort((a, b) => a - b);
  return {
    name: `simulated ${kind}, ${nodes} nodes x ${microBatches}`,
    value: speeds[speeds.length >> 1]!,
    unit: "M tasks/s",
    spread: `${speeds[0]!.toFixed(1)}..${speeds.at(-1)!.toFixed(1)}`,
    beside: `${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MiB resident`,
  };
}

export async function benchSchedule(): Promise<BenchRow[]> {
  return [
    ...STAGES.flatMap(benchDecisions),
    ...RINGS.flatMap((ring) => KINDS.map((kind) => benchSimulator(kind, ring))),
  ];
}
