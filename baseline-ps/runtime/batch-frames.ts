/**
 * @file Micro-batches between a data server and a worker. A worker asks by (step, micro-batch), or by the index of a piece of the test set; which
 * server has which follows from the number alone. A micro-batch travels as its features, float32 [rows, features], and behind them its labels,
 * int32 [rows].
 */
import type { BatchArrays } from "../../src/runtime/feeder.ts";

/** Like requests of keys held to a stated link. */
export const BATCHES_PROTOCOL = "/ringtmp/batches/ps/1";

/** A training micro-batch of a step, or a piece of the test set, whose step is 0. */
export interface BatchName {
  readonly isTraining: boolean;
  readonly step: number;
  readonly index: number;
}

/** Micro-batches follow each other over the servers, so that each has an equal part of every step. */
export function dataServerOf({ index }: BatchName, dataServers: number): number {
  return index % dataServers;
}

export function batchBytes(rows: number, features: number): number {
  return 4 * rows * (features + 1);
}

/** A micro-batch's features and labels in its bytes: no copies. @param bytes a whole buffer of `batchBytes` */
export function batchArrays(
  { buffer }: Uint8Array<ArrayBuffer>,
  rows: number,
  features: number,
): Required<BatchArrays> {
  const input = new Float32Array(buffer, 0, rows * features);
  return { input, labels: new Int32Array(buffer, input.byteLength, rows) };
}
