/**
 * @file What a plan is made for, and what follows from it for one sample and one layer. Nodes are equal; products are all of the
 * work that is counted (`src/nn/flops.ts`), and what copies add to updates: plain updates, message CPU and the data set's memory are not.
 */
import type { Kernels } from "../engine/contract.ts";
import { operationFlops } from "../nn/flops.ts";
import { parameterCount, type ModelSpec } from "../nn/spec.ts";

/** Of float32 and of the int32 labels. */
export const NUMBER_BYTES = 4;

export interface LinkSpeed {
  /** Of each node's interface, each direction at the same time; Infinity where no rate is stated. */
  readonly rateBytesPerMs: number;
  /** One way. */
  readonly latencyMs: number;
}

/** Milliseconds of the optimizer for one parameter. */
export interface UpdateSpeed {
  /** In place. */
  readonly plainMs: number;
  /** With the version before copied aside and the new one digested, as owners and copies do where there are copies. */
  readonly keptMs: number;
}

export interface Scenario {
  readonly model: ModelSpec;
  /** Samples of a step; may be a fraction where a search varies it. */
  readonly batch: number;
  readonly microBatches: number;
  readonly optimizer: string;
  /** Of the engine whose scratch memory counts. */
  readonly kernels: Pick<Kernels, "matmulScratchBytes">;
  /** Of every system, servers included. */
  readonly nodes: number;
  readonly servers: number;
  readonly laps: number;
  /** Copies of each of the ring's segments: fewer than there are nodes. */
  readonly replicas: number;
  readonly flopsPerMs: number;
  readonly updates: UpdateSpeed;
  readonly link: LinkSpeed;
  /** CPU of handing over one operation, and of one message at both ends together: in no prediction, but it is told. */
  readonly operationMs: number;
  readonly messageMs: number;
  /** What a node may take in all; null is no limit. */
  readonly memoryBytes: number | null;
}

/** One layer: bytes of its parameters, FLOP of its passes on one sample. */
export interface LayerWork {
  readonly bytes: number;
  readonly forward: number;
  /** Gradient of the inputs: none at the first layer. */
  readonly backward: number;
  readonly weight: number;
}

export function layerWork({ layers }: ModelSpec): readonly LayerWork[] {
  return layers.map((spec, index) => ({
    bytes: NUMBER_BYTES * parameterCount(spec),
    forward: operationFlops(spec, 1, "forward", index === 0),
    backward: operationFlops(spec, 1, "backwardInput", index === 0),
    weight: operationFlops(spec, 1, "backwardWeight", index === 0),
  }));
}

export const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
export const workOf = ({ forward, backward, weight }: LayerWork): number => forward + backward + weight;

/** Time that one node's speed would need for a whole step. */
export function computeMs({ model, batch, flopsPerMs }: Scenario): number {
  return (batch * sum(layerWork(model).map(workOf))) / flopsPerMs;
}
