/**
 * @file Logistic regression with an L1 penalty on servers of keys (Li 2014, section 5.1, in the small): every worker pulls the keys that its block
 * of samples touches, and pushes their gradients; the servers add the shares up and take a proximal step. A step is one pass over all samples.
 */
import { type Consistency, leastVersion } from "../core/consistency.ts";
import type { KeyClient } from "../runtime/key-client.ts";
import { type FunctionFactory, proximalLasso } from "../runtime/server-functions.ts";
import type { SparseBlock } from "./sparse-block.ts";

/** A server's, after one update: what of the objective no worker knows. */
export interface WeightsRecord {
  /** Sum of the absolute weights. */
  absoluteSum: number;
  nonZero: number;
}

/** A worker's, of one step. */
export interface StepRecord {
  readonly step: number;
  /** Of the parameters that it computed with: the least of its keys. */
  readonly version: number;
  /** Its block's part of the mean loss, with those parameters. */
  readonly loss: number;
  /** Since the connection, by the client's counters. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** @param records grows by an entry for each update, in their order; servers that share it add theirs up */
export function recordedLasso(lambda: number, records: WeightsRecord[]): FunctionFactory {
  const proximal = proximalLasso(lambda);
  return (kernels, rate) => {
    const { stateNames, update: step } = proximal(kernels, rate);
    return {
      stateNames,
      update: (block, update) => {
        step(block, update);
        const record = (records[update] ??= { absoluteSum: 0, nonZero: 0 });
        for (const weight of block.weights) {
          record.absoluteSum += Math.abs(weight);
          if (weight !== 0) record.nonZero += 1;
        }
      },
    };
  };
}

export interface SparseWorkerInit {
  readonly client: Pick<KeyClient, "pullSparse" | "pushSparse" | "wait" | "counters">;
  readonly block: SparseBlock;
  /** Its share of every step. */
  readonly share: number;
  readonly consistency: Consistency;
  readonly steps: number;
  readonly onStep: (record: StepRecord) => void;
}

/** `steps` updates, and what the loss is after the last. Rejects where a server is gone. */
export async function trainSparse(init: SparseWorkerInit): Promise<void> {
  const { client, block, share, consistency, steps, onStep } = init;
  const { keys } = block;
  const weights = new Float32Array(keys.length);
  const pushes: number[] = [];
  for (let step = 0; step <= steps; step += 1) {
    const isLast = step === steps;
    const least = isLast ? steps : leastVersion(consistency, step);
    const version = await client.wait(client.pullSparse(keys, weights, { leastVersion: least }));
    const { loss, gradient } = block.evaluate(weights);
    onStep({ step, version, loss, ...bytesOf(client) });
    if (isLast) return;
    // A server takes a step's push when it lacks no more than tau steps. One that has none of these keys is not asked for parameters, so that its
    // version is known by what it has acknowledged alone.
    const earlier = pushes[step - consistency.tau - 1];
    pushes.push(client.pushSparse(keys, gradient, { step, share, after: earlier === undefined ? [] : [earlier] }));
  }
}

function bytesOf({ counters: { bytesSent, bytesReceived } }: SparseWorkerInit["client"]): {
  readonly bytesSent: number;
  readonly bytesReceived: number;
} {
  return { bytesSent, bytesReceived };
}
