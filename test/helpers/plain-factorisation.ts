/** @file Matrix factorisation in one process, as plainly as it can be written: two arrays of factors, and the entries in the order of blocks and workers. */
import { blockInStep, entriesByBlock } from "../../baseline-ps/applications/matrix-factorisation.ts";
import {
  columnKey,
  factorKeys,
  initialFactor,
  type MatrixTask,
} from "../../baseline-ps/applications/matrix-entries.ts";

export interface PlainFactorisation {
  /** By epoch and worker. */
  readonly squaredErrors: readonly (readonly number[])[];
  /** `[keys, rank]` */
  readonly factors: Float32Array;
  readonly entries: number;
}

export function plainFactorisation(
  task: MatrixTask,
  {
    workers,
    epochs,
    rate,
    decay,
  }: { readonly workers: number; readonly epochs: number; readonly rate: number; readonly decay: number },
): PlainFactorisation {
  const factors = Array.from({ length: factorKeys(task) }, (_, key) => initialFactor(task, key));
  const blocks = Array.from({ length: workers }, (_, worker) => entriesByBlock({ task, worker, workers }));
  const squaredErrors = Array.from({ length: epochs }, () => {
    const sums = Array<number>(workers).fill(0);
    for (let step = 0; step < 2 * workers; step += 1) {
      for (let worker = 0; worker < workers; worker += 1) {
        for (const { row, column, value } of blocks[worker]![blockInStep({ worker, workers }, step)]!) {
          const [ofRow, ofColumn] = [factors[row]!, factors[columnKey(task, column)]!];
          const error = ofRow.reduce((left, factor, index) => left - factor * ofColumn[index]!, value);
          const old = Float32Array.from(ofRow);
          // What is pushed is rounded once, and the sum once more.
          ofRow.forEach((factor, index) => {
            ofRow[index] = factor + Math.fround(rate * (error * ofColumn[index]! - decay * factor));
          });
          ofColumn.forEach((factor, index) => {
            ofColumn[index] = factor + Math.fround(rate * (error * old[index]! - decay * factor));
          });
          sums[worker]! += error * error;
        }
      }
    }
    return sums;
  });
  const entries = blocks.flat(2).length;
  return { squaredErrors, factors: Float32Array.from(factors.flatMap((factor) => [...factor])), entries };
}
