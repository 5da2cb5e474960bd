/**
 * @file Every closed formula of a plan, each with its source. `W` bytes of the parameters, `N` workers, `S` servers, `p` nodes of the
 * ring, `v` laps, `r` copies of each segment, `m` micro-batches, `B` samples of a step, `d` numbers between two stages for a sample, `O` numbers that the
 * optimizer keeps for a parameter. Bytes are payload: an 80-byte header goes before each message and is not counted.
 *
 * | system | sent in all, a step | by the busiest node | source |
 * | --- | --- | --- | --- |
 * | server, dedicated | 2NW | NW/S, or W of a worker | Li 2014, algorithm 1: each worker pushes W and pulls W |
 * | server, co-located | 2(N-1)W | (N+S-2)W/S | the same; a worker's share on its own node is no message |
 * | all-reduce | 2(N-1)W | 2(N-1)W/N | Patarasu and Yuan 2009, section 3: the least that is possible |
 * | FSDP | 3(N-1)W | 3(N-1)W/N | Rajbhandari 2020 (ZeRO), section 7.2.2: two gathers and a scatter |
 * | ring | (2d(pv-1)+1)·4B + rW | up to 2·4Bdv + rW/p | an activation and its gradient over each boundary; labels, one hop; copies |
 *
 * | system | parameters | gradients | optimizer | source |
 * | --- | --- | --- | --- | --- |
 * | worker | W | W | 0 | Li 2014: the optimizer is on the server |
 * | server | W/S | W/S | OW/S | the same; the sum of the workers' gradients is held until the last came |
 * | all-reduce, one process | W | W | OW | |
 * | FSDP | W/N + two neighbouring layers | W/N + one layer | OW/N | ZeRO, section 5.3; Zhao 2023, section 3.3: one layer ahead |
 * | ring, r = 0 | W/p | W/p | OW/p | its own layers only |
 * | ring, r > 0 | 2W/p + 2rW/p | 2W/p + rW/p | 2OW/p + 2rOW/p | `ringStateMemory` |
 *
 * Copies (`ring/README.md`, Versions): an owner sends its accumulated gradient, as large as its parameters, to `r` successors once a
 * step: W/p to each, rW from all. It waits for all of them to have a version before it makes the next but one, so it holds two versions of
 * parameters and optimizer state, and the gradient on its way beside the one that sums up. A copy is two versions and the gradient that arrived.
 *
 * Times: of a pipeline, `pipelineStep`; of the data-parallel systems, the critical path in `overlap.ts`.
 */
import { copiedBy, copyTraffic, type NodeTraffic } from "../../ring/core/copies.ts";
import { idleFormula, type ScheduleShape } from "../../ring/core/schedule.ts";
import { NUMBER_BYTES, sum, type UpdateSpeed } from "./scenario.ts";

/** Payload bytes of a step. */
export interface Traffic {
  /** Sent by all nodes together. */
  readonly totalBytes: number;
  /** Sent and received by the node for which that is most. */
  readonly busiestNodeBytes: number;
  /** The most that one node's interface carries one way: it bounds the step. */
  readonly busiestLinkBytes: number;
}

/** Every node here receives as much as it sends. */
function balanced(totalBytes: number, sentBytes: number): Traffic {
  return { totalBytes, busiestNodeBytes: 2 * sentBytes, busiestLinkBytes: sentBytes };
}

export function dedicatedTraffic(bytes: number, workers: number, servers: number): Traffic {
  return balanced(2 * workers * bytes, bytes * Math.max(1, workers / servers));
}

/** At most as many servers as workers. */
export function coLocatedTraffic(bytes: number, workers: number, servers: number): Traffic {
  return balanced(2 * (workers - 1) * bytes, ((workers + servers - 2) * bytes) / servers);
}

export function allReduceTraffic(bytes: number, workers: number): Traffic {
  return balanced(2 * (workers - 1) * bytes, (2 * (workers - 1) * bytes) / workers);
}

export function shardedTraffic(bytes: number, workers: number): Traffic {
  return balanced(3 * (workers - 1) * bytes, (3 * (workers - 1) * bytes) / workers);
}

/**
 * What each node carries for one sample: activations, their gradients, a label.
 * @param widths numbers that one sample has between two stages, in order: one fewer than there are stages
 */
export function sampleTraffic(widths: readonly number[], nodes: number): readonly NodeTraffic[] {
  const sent = Array<number>(nodes).fill(0);
  const received = Array<number>(nodes).fill(0);
  const carry = (from: number, to: number, width: number): void => {
    // What goes to the node itself is no message.
    if (nodes === 1) return;
    sent[from % nodes]! += NUMBER_BYTES * width;
    received[to % nodes]! += NUMBER_BYTES * width;
  };
  for (const [stage, width] of widths.entries()) {
    carry(stage, stage + 1, width);
    carry(stage + 1, stage, width);
  }
  carry(0, nodes - 1, 1);
  return sent.map((bytes, node) => ({ sent: bytes, received: received[node]! }));
}

/**
 * Of a step: that of its samples, and what copies take whatever the batch.
 * @param copies `copyTraffic`
 */
export function ringTraffic(sample: readonly NodeTraffic[], batch: number, copies: readonly NodeTraffic[]): Traffic {
  const sent = sample.map((each, node) => batch * each.sent + copies[node]!.sent);
  const received = sample.map((each, node) => batch * each.received + copies[node]!.received);
  return {
    totalBytes: sum(sent),
    busiestNodeBytes: Math.max(...sent.map((bytes, node) => bytes + received[node]!)),
    busiestLinkBytes: Math.max(...sent, ...received),
  };
}

/**
 * Samples of a step below which no node of a ring sends or receives more than one of all-reduce: for equal nodes 2·4Bdv + rW/N <
 * 2W(N-1)/N. Zero where the copies of one node alone are that much.
 */
export function equalTrafficBatch(
  bytes: number,
  sample: readonly NodeTraffic[],
  copies: readonly NodeTraffic[],
): number {
  const limitBytes = allReduceTraffic(bytes, sample.length).busiestLinkBytes;
  const batches = sample.flatMap(({ sent, received }, node) => [
    (limitBytes - copies[node]!.sent) / sent,
    (limitBytes - copies[node]!.received) / received,
  ]);
  return Math.max(0, Math.min(...batches));
}

/** What is shaped like the parameters, in bytes of one node. */
export interface StateMemory {
  readonly parametersBytes: number;
  readonly gradientsBytes: number;
  readonly statesBytes: number;
}

/** One that holds all of `bytes` of parameters with gradient and optimizer state. */
export function wholeMemory(bytes: number, states: number): StateMemory {
  return { parametersBytes: bytes, gradientsBytes: bytes, statesBytes: states * bytes };
}

export function workerMemory(bytes: number): StateMemory {
  return wholeMemory(bytes, 0);
}

export function serverMemory(bytes: number, servers: number, states: number): StateMemory {
  return wholeMemory(bytes / servers, states);
}

/**
 * Of one node of a ring: without copies its own layers' once. With them its own twice (two versions; the gradient that sums up, the one on
 * its way) and of each copy two versions and the gradient that arrived.
 * @param nodeBytes of each node's parameters
 */
export function ringStateMemory(
  nodeBytes: readonly number[],
  node: number,
  replicas: number,
  states: number,
): StateMemory {
  const copied = copiedBy(node, nodeBytes.length, replicas);
  const own = wholeMemory(nodeBytes[node]!, states);
  if (copied.length === 0) return own;
  const copiedBytes = sum(copied.map((owner) => nodeBytes[owner]!));
  return {
    parametersBytes: 2 * (own.parametersBytes + copiedBytes),
    gradientsBytes: 2 * own.gradientsBytes + copiedBytes,
    statesBytes: 2 * (own.statesBytes + states * copiedBytes),
  };
}

/** @param layers bytes of each layer's parameters */
export function shardedMemory(layers: readonly number[], workers: number, states: number): StateMemory {
  const own = wholeMemory(sum(layers) / workers, states);
  if (workers === 1) return own;
  const gathered = Math.max(...layers.map((bytes, index) => bytes + (layers[index + 1] ?? 0)));
  return {
    parametersBytes: own.parametersBytes + gathered,
    gradientsBytes: own.gradientsBytes + Math.max(...layers),
    statesBytes: own.statesBytes,
  };
}

/** What copies add to a node's updates of a step, in milliseconds. */
export interface CopyUpdates {
  /** Keeping the own version before, and digesting the new one. */
  readonly ownMs: number;
  /** Of the copies that the node holds. */
  readonly copiedMs: number;
}

/** @param nodeBytes of each node's parameters */
export function copyUpdates(
  nodeBytes: readonly number[],
  replicas: number,
  { plainMs, keptMs }: UpdateSpeed,
): readonly CopyUpdates[] {
  return copyTraffic(nodeBytes, replicas).map(({ received }, node) => ({
    ownMs: replicas === 0 ? 0 : ((keptMs - plainMs) * nodeBytes[node]!) / NUMBER_BYTES,
    // An update for each gradient that arrives, as large as its layers.
    copiedMs: (keptMs * received) / NUMBER_BYTES,
  }));
}

/** Messages that the busiest node of a ring sends and receives in a step: an activation and a gradient at each side of a stage. */
export function ringMessages({ nodes, laps, microBatches }: ScheduleShape): number {
  if (nodes === 1) return 0;
  const sides = Math.max(
    ...Array.from({ length: nodes }, (_, node) => 2 * laps - Number(node === 0) - Number(node === nodes - 1)),
  );
  return 2 * sides * microBatches + 1;
}

/** One node's time for one micro-batch in all its laps. */
export interface NodeWork {
  readonly forward: number;
  /** Of the gradients of inputs and of weights together. */
  readonly backward: number;
}

/** What lies between two nodes of a pipeline that are neighbours. */
export interface Hop {
  readonly latency: number;
  /** Time of one message on the wire. */
  readonly transfer: number;
}

export interface PipelineStep {
  readonly step: number;
  /** False: the form knows messages that take no time only. */
  readonly hasLatency: boolean;
}

/**
 * A settled step of a pipeline; null where no closed form is known.
 *
 * | schedule | step; L: the sum of latencies and transfers from the first node to the last | source |
 * | --- | --- | --- |
 * | naive | m·(Σ(F+B) + 2L) | one micro-batch after the other, by counting |
 * | gpipe | ΣF + (m-1)·max F + ΣB + (m-1)·max B + 2L | Huang 2019, section 2.3, for unequal stages |
 * | 1f1b | Σ(F+B) + (m-1)·max(F+B) + 2L·(m/p + 1) | Narayanan 2019; Little's law: p in flight a round trip |
 * | others | m·max(F+B) / (1 - idle) at tF = tB = tW; L = 0 | `idleFormula`: Narayanan 2021, 2.2; Qi 2024, 2.2 |
 *
 * In gpipe and 1f1b it is null where a message would wait for the one before it on the wire.
 * @param nodes in order
 * @param hops one fewer than nodes
 */
export function pipelineStep(
  shape: ScheduleShape,
  nodes: readonly NodeWork[],
  hops: readonly Hop[],
): PipelineStep | null {
  const { kind, microBatches } = shape;
  const roundTrip = 2 * sum(hops.map(({ latency, transfer }) => latency + transfer));
  const isWireFree = hops.every(({ transfer }) =>
    nodes.every((node) => transfer <= Math.min(node.forward, node.backward)),
  );
  const through = (work: (node: NodeWork) => number, count: number): number =>
    sum(nodes.map(work)) + (count - 1) * Math.max(...nodes.map(work));
  const forward = (node: NodeWork): number => node.forward;
  const backward = (node: NodeWork): number => node.backward;
  const all = (node: NodeWork): number => node.forward + node.backward;
  const withLatency = (step: number): PipelineStep => ({ step, hasLatency: true });
  switch (kind) {
    case "naive":
      return withLatency(microBatches * (through(all, 1) + roundTrip));
    case "gpipe":
      return isWireFree
        ? withLatency(through(forward, microBatches) + through(backward, microBatches) + roundTrip)
        : null;
    case "1f1b":
      return isWireFree
        ? withLatency(through(all, microBatches) + roundTrip * (microBatches / nodes.length + 1))
        : null;
    case "interleaved":
    case "zb-h1":
    case "zero-bubble": {
      const idle = idleFormula(shape);
      if (idle === null) return null;
      return { step: (microBatches * Math.max(...nodes.map(all))) / (1 - idle), hasLatency: roundTrip === 0 };
    }
  }
}
