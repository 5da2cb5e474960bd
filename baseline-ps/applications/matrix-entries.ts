/**
 * @file A generated matrix of low rank, of which a few entries of each row are known, as in recommendation. A row is drawn from the seed and its number
 * alone, so that a worker draws its own rows and nothing else. Integers, + - * / alone: the same entries on every machine.
 */
import { RandomPurpose, RandomStream } from "../../src/types/random.ts";

export interface MatrixTask {
  readonly seed: number;
  readonly rows: number;
  readonly columns: number;
  /** Of the matrix, and of the factors that are sought. */
  readonly rank: number;
  /** Columns drawn for each row; it has fewer entries where one is drawn twice. */
  readonly draws: number;
}

export interface Entry {
  readonly row: number;
  readonly column: number;
  readonly value: number;
}

/** Row i has key i; column j has key rows + j. */
export const factorKeys = ({ rows, columns }: MatrixTask): number => rows + columns;
export const columnKey = ({ rows }: MatrixTask, column: number): number => rows + column;

/** In ascending order of columns: products of true factors, and a little noise. */
export function drawRow(task: MatrixTask, row: number): readonly Entry[] {
  const { seed, columns, draws } = task;
  const random = new RandomStream(seed, RandomPurpose.matrixColumn, row);
  const drawn = new Set(Array.from({ length: draws }, () => random.nextBelow(columns)));
  const ofRow = trueFactor(task, row);
  return [...drawn]
    .toSorted((a, b) => a - b)
    .map((column) => {
      const ofColumn = trueFactor(task, columnKey(task, column));
      const noise = 0.1 * (random.nextFloat() - 0.5);
      return { row, column, value: ofRow.reduce((sum, factor, place) => sum + factor * ofColumn[place]!, noise) };
    });
}

/** Uniform in (-1, 1). */
function trueFactor({ seed, rank }: MatrixTask, key: number): readonly number[] {
  const random = new RandomStream(seed, RandomPurpose.matrixFactor, key);
  return Array.from({ length: rank }, () => 2 * random.nextFloat() - 1);
}

/** What a key's factor is before any update: uniform in (-0.5, 0.5). */
export function initialFactor({ seed, rank }: MatrixTask, key: number): Float32Array {
  const random = new RandomStream(seed, RandomPurpose.initialFactor, key);
  return Float32Array.from({ length: rank }, () => random.nextFloat() - 0.5);
}
