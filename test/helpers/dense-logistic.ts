/**
 * @file Sparse logistic regression in one process, as plainly as it can be written: every weight in one array of doubles, every gradient as long as
 * the model. And what its messages take by their form.
 */
import { drawSample, keyCount, type SparseTask } from "../../baseline-ps/applications/sparse-samples.ts";
import { HEADER_BYTES } from "../../src/wire/header.ts";

export interface DenseLasso {
  /** Mean loss and penalty after each number of updates, from none on. */
  readonly objectives: readonly number[];
  readonly weights: Float64Array;
}

export function denseLasso(task: SparseTask, rate: number, lambda: number, steps: number): DenseLasso {
  const samples = Array.from({ length: task.samples }, (_, index) => drawSample(task, index));
  const weights = new Float64Array(keyCount(task));
  const objectives: number[] = [];
  for (let step = 0; step <= steps; step += 1) {
    const gradient = new Float64Array(weights.length);
    let loss = 0;
    for (const { keys, label } of samples) {
      const score = keys.reduce((sum, key) => sum + weights[key]!, 0);
      loss += Math.log(1 + Math.exp(-label * score));
      for (const key of keys) gradient[key]! -= label / (1 + Math.exp(label * score));
    }
    let penalty = 0;
    for (const weight of weights) penalty += Math.abs(weight);
    objectives.push(loss / task.samples + lambda * penalty);
    if (step === steps) break;
    for (let key = 0; key < weights.length; key += 1) {
      const moved = weights[key]! - (rate * gradient[key]!) / task.samples;
      weights[key] = Math.max(0, moved - rate * lambda) + Math.min(0, moved + rate * lambda);
    }
  }
  return { objectives, weights };
}

export interface StepBytes {
  readonly sent: number;
  readonly received: number;
}

const KEY = 4;
const VALUE = 4;

/** A worker pulls and pushes so many single keys, that lie on `touched` of the servers: keys travel with values one way, alone the other. */
export function sparseBytes(keys: number, touched: number, servers: number): StepBytes {
  return {
    sent: touched * HEADER_BYTES + keys * KEY + servers * HEADER_BYTES + keys * (KEY + VALUE),
    received: touched * HEADER_BYTES + keys * VALUE + servers * HEADER_BYTES,
  };
}

/** A worker pulls and pushes all keys as one range. */
export function denseBytes(keys: number, servers: number): StepBytes {
  const bytes = 2 * servers * HEADER_BYTES + keys * VALUE;
  return { sent: bytes, received: bytes };
}
