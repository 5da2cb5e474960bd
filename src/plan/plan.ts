/**
 * @file A plan: what each system would take for a step, which is fastest among those that fit, and what bounds each of them. Everything
 * is predicted; the assumptions are part of the result.
 */
import { checkSchedule, SCHEDULE_KINDS, type ScheduleKind } from "../../ring/core/schedule.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import { CAN_SPLIT } from "../../ring/index.ts";
import { UsageError } from "../types/errors.ts";
import { crossingFactor } from "./crossover.ts";
import { equalTrafficBatch } from "./formulas.ts";
import { fitsIn, type NodeMemory } from "./memory.ts";
import {
  nodeWork,
  ringFormula,
  ringLayout,
  ringMemory,
  ringOverheadMs,
  ringShape,
  ringStepMs,
  simulatedTasks,
  type RingLayout,
} from "./ring.ts";
import { computeMs, layerWork, sum, type Scenario } from "./scenario.ts";
import { systemsOf, type System, type SystemId } from "./systems.ts";

/** What would shorten a system's step most if it were ten times better. */
export const RESOURCES = ["compute", "link", "latency"] as const;
export type Resource = (typeof RESOURCES)[number];

export interface Prediction {
  readonly system: SystemId;
  readonly name: string;
  readonly isRunnable: boolean;
  readonly nodes: number;
  readonly stepMs: number;
  readonly samplesPerSecond: number;
  /** Of all nodes' time, servers included, in which they compute nothing. */
  readonly idlePercent: number;
  readonly bytesPerStep: number;
  /** Sent and received. */
  readonly busiestNodeBytesPerStep: number;
  /** One way, over one node's interface. */
  readonly busiestLinkBytesPerStep: number;
  readonly memory: NodeMemory;
  /** Null where it would and no limit is stated: the engine has one of its own. */
  readonly fits: boolean | null;
  readonly bound: Resource;
  /** Share of the step that goes where that resource is ten times better. */
  readonly boundShare: number;
}

/** One schedule of the ring. */
export interface SchedulePrediction {
  readonly schedule: ScheduleKind;
  readonly stepMs: number;
  /** Of the closed form; null where there is none. */
  readonly formulaStepMs: number | null;
  readonly formulaHasLatency: boolean;
  readonly idlePercent: number;
  readonly slots: number;
  readonly memoryBytes: number;
  readonly fits: boolean | null;
}

/** Null: not within a factor 1000 of what is planned. */
export interface Crossovers {
  /** Samples of a step, and bit rate, at which the ring and the better parameter server change places. */
  readonly batch: number | null;
  readonly rateBytesPerMs: number | null;
  /** Samples of a step below which the ring's nodes carry less than those of all-reduce: 0 where copies alone are as much; null for one node. */
  readonly equalTrafficBatch: number | null;
}

export interface Plan {
  /** In the order of SYSTEM_IDS; those that so few nodes cannot form are left out. */
  readonly systems: readonly Prediction[];
  /** Undefined where none fits. */
  readonly winner: Prediction | undefined;
  /** The next fastest that fits. */
  readonly second: Prediction | undefined;
  readonly schedules: readonly SchedulePrediction[];
  /** The ring's layers `[start, end)`, one range a stage. */
  readonly cut: readonly LayerRange[];
  /** CPU of the busiest node's messages and operations in a step of the ring, which no step time here has. */
  readonly ringOverheadMs: number;
  /** The heaviest node's share of the work times the nodes: 1 is a perfect cut. */
  readonly imbalance: number;
  readonly crossovers: Crossovers | "too large to search";
}

/** Operations of one simulation up to which crossovers are searched: each takes about fifty. */
const SEARCHED_TASKS_MAX = 100_000;
const BETTER = 10;

/** Throws UsageError where the ring cannot be: too few layers, a schedule that does not exist for these counts. */
export function makePlan(scenario: Scenario, schedule: ScheduleKind): Plan {
  checkSchedule(ringShape(scenario, schedule), CAN_SPLIT);
  const systems = systemsOf(schedule).filter((system) => system.nodes(scenario) > 0);
  const predictions = systems.map((system) => predict(system, scenario));
  const [winner, second] = predictions
    .filter(({ fits }) => fits !== false)
    .toSorted((one, other) => one.stepMs - other.stepMs);
  const layout = ringLayout(scenario, schedule);
  const { costs, cut } = layout;
  const work = costs.map(nodeWork).map(({ forward, backward }) => forward + backward);
  const { nodes, laps, microBatches } = ringShape(scenario, schedule);
  const isSearched = simulatedTasks({ nodes, laps, microBatches }) <= SEARCHED_TASKS_MAX;
  return {
    ...{ systems: predictions, winner, second },
    ...{ cut, schedules: schedulesOf(scenario) },
    ringOverheadMs: ringOverheadMs(scenario, layout),
    imbalance: (Math.max(...work) * work.length) / sum(work),
    crossovers: isSearched ? crossoversOf(scenario, systems, layout) : "too large to search",
  };
}

function predict(system: System, scenario: Scenario): Prediction {
  const nodes = system.nodes(scenario);
  const stepMs = system.stepMs(scenario);
  const { totalBytes, busiestNodeBytes, busiestLinkBytes } = system.traffic(scenario);
  const memory = system.memory(scenario);
  return {
    ...{ system: system.id, name: system.name, isRunnable: system.isRunnable, nodes, stepMs, memory },
    samplesPerSecond: (1000 * scenario.batch) / stepMs,
    idlePercent: idleOf(scenario, nodes, stepMs),
    bytesPerStep: totalBytes,
    busiestNodeBytesPerStep: busiestNodeBytes,
    busiestLinkBytesPerStep: busiestLinkBytes,
    fits: fitsIn(scenario, memory),
    ...boundOf(system, scenario, stepMs),
  };
}

/** Every system does the same work, whatever nodes it has. */
function idleOf(scenario: Scenario, nodes: number, stepMs: number): number {
  return Math.max(0, 100 * (1 - computeMs(scenario) / (nodes * stepMs)));
}

export function withBetter(scenario: Scenario, resource: Resource, factor: number): Scenario {
  const { link, flopsPerMs, updates } = scenario;
  switch (resource) {
    case "compute":
      return {
        ...{ ...scenario, flopsPerMs: flopsPerMs * factor },
        updates: { plainMs: updates.plainMs / factor, keptMs: updates.keptMs / factor },
      };
    case "link":
      return { ...scenario, link: { ...link, rateBytesPerMs: link.rateBytesPerMs * factor } };
    case "latency":
      return { ...scenario, link: { ...link, latencyMs: link.latencyMs / factor } };
  }
}

function boundOf(system: System, scenario: Scenario, stepMs: number): Pick<Prediction, "bound" | "boundShare"> {
  const shares = RESOURCES.map((bound) => ({
    bound,
    boundShare: 1 - system.stepMs(withBetter(scenario, bound, BETTER)) / stepMs,
  }));
  return shares.reduce((most, share) => (share.boundShare > most.boundShare ? share : most));
}

/** Each that exists for these counts. */
function schedulesOf(scenario: Scenario): readonly SchedulePrediction[] {
  return SCHEDULE_KINDS.filter((kind) => exists(scenario, kind)).map((schedule) => {
    const layout = ringLayout(scenario, schedule);
    const stepMs = ringStepMs(scenario, layout);
    const memory = ringMemory(scenario, layout);
    const formula = ringFormula(scenario, layout);
    return {
      ...{ schedule, stepMs, formulaStepMs: formula?.step ?? null, formulaHasLatency: formula?.hasLatency ?? false },
      idlePercent: idleOf(scenario, scenario.nodes, stepMs),
      slots: Math.max(...layout.slots),
      memoryBytes: memory.totalBytes,
      fits: fitsIn(scenario, memory),
    };
  });
}

function exists(scenario: Scenario, kind: ScheduleKind): boolean {
  try {
    checkSchedule(ringShape(scenario, kind), CAN_SPLIT);
    return true;
  } catch (error) {
    if (error instanceof UsageError) return false;
    throw error;
  }
}

function crossoversOf(scenario: Scenario, systems: readonly System[], { sample, copies }: RingLayout): Crossovers {
  const { batch, link, nodes, model } = scenario;
  const ring = systems.find(({ id }) => id === "ring")!;
  const servers = systems.filter(({ id }) => id === "ps-dedicated" || id === "ps-co-located");
  const crossing = (varied: (factor: number) => Scenario): number | null =>
    servers.length === 0
      ? null
      : crossingFactor((factor) => {
          const at = varied(factor);
          return ring.stepMs(at) - Math.min(...servers.map((server) => server.stepMs(at)));
        });
  const byBatch = crossing((factor) => ({ ...scenario, batch: batch * factor }));
  const isRated = Number.isFinite(link.rateBytesPerMs);
  const byRate = isRated ? crossing((factor) => withBetter(scenario, "link", factor)) : null;
  const modelBytes = sum(layerWork(model).map(({ bytes }) => bytes));
  return {
    batch: byBatch === null ? null : batch * byBatch,
    rateBytesPerMs: byRate === null ? null : link.rateBytesPerMs * byRate,
    equalTrafficBatch: nodes === 1 ? null : equalTrafficBatch(modelBytes, sample, copies),
  };
}
