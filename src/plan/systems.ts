/** @file The systems that a plan compares, each as the same four questions about a scenario. Pure but for the engine's layouts. */
import type { ScheduleKind } from "../../ring/core/schedule.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import {
  allReduceTraffic, coLocatedTraffic, dedicatedTraffic, serverMemory, shardedMemory, shardedTraffic, wholeMemory,
  workerMemory, type Traffic,
} from "./formulas.ts"; // prettier-ignore
import { activationBytes, fullest, nodeMemory, together, type NodeMemory } from "./memory.ts";
import { allReduceStepMs, serverStepMs, shardedStepMs } from "./overlap.ts";
import { ringLayout, ringMemory, ringStepMs } from "./ring.ts";
import { computeMs, layerWork, sum, type Scenario } from "./scenario.ts";

export const SYSTEM_IDS = ["ring", "ps-dedicated", "ps-co-located", "allreduce", "fsdp", "serial"] as const;
export type SystemId = (typeof SYSTEM_IDS)[number];

export interface System {
  readonly id: SystemId;
  readonly name: string;
  /** Whether this version trains on it. */
  readonly isRunnable: boolean;
  /** Nodes that it would use, servers included; 0 where it cannot be built from so few. */
  nodes(scenario: Scenario): number;
  stepMs(scenario: Scenario): number;
  traffic(scenario: Scenario): Traffic;
  /** Of the node that takes most. */
  memory(scenario: Scenario): NodeMemory;
}

const bytesOf = ({ model }: Scenario): number => sum(layerWork(model).map(({ bytes }) => bytes));
const statesOf = ({ optimizer }: Scenario): number => parseOptimizer(optimizer).stateNames.length;

/** Of a worker that takes its share in one pass through the whole model. */
const passBytes = (scenario: Scenario, workers: number): number =>
  activationBytes(scenario, [0, scenario.model.layers.length], scenario.batch / workers, 1);

function ring(schedule: ScheduleKind): System {
  return {
    ...{ id: "ring", name: `ring, ${schedule}`, isRunnable: true },
    nodes: ({ nodes }) => nodes,
    stepMs: (scenario) => ringStepMs(scenario, ringLayout(scenario, schedule)),
    traffic: (scenario) => ringLayout(scenario, schedule).traffic,
    memory: (scenario) => ringMemory(scenario, ringLayout(scenario, schedule)),
  };
}

const dedicated: System = {
  ...{ id: "ps-dedicated", name: "parameter server", isRunnable: true },
  nodes: ({ nodes, servers }) => (nodes > servers ? nodes : 0),
  stepMs: (scenario) => serverStepMs(scenario, { ...workersOf(scenario), isCoLocated: false }),
  traffic: (scenario) => {
    const { workers, servers } = workersOf(scenario);
    return dedicatedTraffic(bytesOf(scenario), workers, servers);
  },
  memory: (scenario) => {
    const { workers, servers } = workersOf(scenario);
    const server = nodeMemory(serverMemory(bytesOf(scenario), servers, statesOf(scenario)), 0);
    return fullest([nodeMemory(workerMemory(bytesOf(scenario)), passBytes(scenario, workers)), server]);
  },
};

const workersOf = ({ nodes, servers }: Scenario) => ({ workers: nodes - servers, servers });

const coLocated: System = {
  ...{ id: "ps-co-located", name: "co-located server", isRunnable: false },
  nodes: ({ nodes, servers }) => (nodes >= servers ? nodes : 0),
  stepMs: (scenario) =>
    serverStepMs(scenario, { workers: scenario.nodes, servers: scenario.servers, isCoLocated: true }),
  traffic: (scenario) => coLocatedTraffic(bytesOf(scenario), scenario.nodes, scenario.servers),
  memory: (scenario) => {
    const worker = nodeMemory(workerMemory(bytesOf(scenario)), passBytes(scenario, scenario.nodes));
    return together(worker, nodeMemory(serverMemory(bytesOf(scenario), scenario.servers, statesOf(scenario)), 0));
  },
};

const allReduce: System = {
  ...{ id: "allreduce", name: "all-reduce", isRunnable: false },
  nodes: ({ nodes }) => nodes,
  stepMs: allReduceStepMs,
  traffic: (scenario) => allReduceTraffic(bytesOf(scenario), scenario.nodes),
  memory: (scenario) =>
    nodeMemory(wholeMemory(bytesOf(scenario), statesOf(scenario)), passBytes(scenario, scenario.nodes)),
};

const sharded: System = {
  ...{ id: "fsdp", name: "fully sharded (FSDP)", isRunnable: false },
  nodes: ({ nodes }) => nodes,
  stepMs: shardedStepMs,
  traffic: (scenario) => shardedTraffic(bytesOf(scenario), scenario.nodes),
  memory: (scenario) => {
    const layers = layerWork(scenario.model).map(({ bytes }) => bytes);
    const state = shardedMemory(layers, scenario.nodes, statesOf(scenario));
    return nodeMemory(state, passBytes(scenario, scenario.nodes));
  },
};

const serial: System = {
  ...{ id: "serial", name: "one process", isRunnable: true },
  nodes: () => 1,
  stepMs: computeMs,
  traffic: () => ({ totalBytes: 0, busiestNodeBytes: 0, busiestLinkBytes: 0 }),
  // It takes micro-batches one at a time, as the ring does.
  memory: (scenario) =>
    nodeMemory(wholeMemory(bytesOf(scenario), statesOf(scenario)), passBytes(scenario, scenario.microBatches)),
};

export function systemsOf(schedule: ScheduleKind): readonly System[] {
  return [ring(schedule), dedicated, coLocated, allReduce, sharded, serial];
}
