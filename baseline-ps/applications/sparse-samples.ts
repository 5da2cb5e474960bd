/**
 * @file Generated samples for a linear model of very many features, of which each sample has a few, as in click prediction (Li 2014, section 5.1).
 * A sample is drawn from the seed and its number alone, so that a worker draws its own block and nothing else. Integers, + - * / alone: the same
 * samples on every machine.
 */
import { assert } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";
import { RandomPurpose, RandomStream } from "../../src/types/random.ts";

export interface SparseTask {
  readonly seed: number;
  readonly samples: number;
  /** There are 2^octaves keys, one for each feature. */
  readonly octaves: number;
  /** Features drawn for a sample; it has fewer where one is drawn twice. */
  readonly draws: number;
}

export interface Sample {
  /** Of its features, which all have the value 1: ascending, each once. Key 0, the intercept, is in every sample. */
  readonly keys: Uint32Array;
  readonly label: 1 | -1;
}

/** Numbers of samples: from `from` up to, without, `to`. */
export interface Block {
  readonly from: number;
  readonly to: number;
}

const INTERCEPT = 0;
/** Odd: multiplied with it, the ranks of features become keys in another order, each once. Frequent features then lie on all servers. */
const SCATTER = 0x9e3779b1;
/** One feature in so many says something about the label … */
const TELLING = 4;
/** … with a weight of up to this size. */
const WEIGHT_MAX = 2;

export const keyCount = ({ octaves }: SparseTask): number => 2 ** octaves;

/**
 * The samples of one worker: contiguous, as equal as whole samples can be; the blocks of all workers are disjoint and complete.
 * @throws UsageError for more workers than samples
 */
export function blockOf(samples: number, workers: number, worker: number): Block {
  assert(worker >= 0 && worker < workers, "the worker is one of them");
  if (workers > samples) {
    throw new UsageError(`${samples} samples for ${workers} workers`, "use more samples, or fewer workers");
  }
  const bound = (index: number): number => Math.floor((index * samples) / workers);
  return { from: bound(worker), to: bound(worker + 1) };
}

export function drawSample({ seed, octaves, draws }: SparseTask, index: number): Sample {
  const random = new RandomStream(seed, RandomPurpose.sparseSample, index);
  const features = new Set([INTERCEPT]);
  for (let draw = 0; draw < draws; draw += 1) features.add(drawKey(random, octaves));
  const keys = Uint32Array.from(features).toSorted();
  // The sum of two uniform numbers: a triangle over (-1, 1).
  const noise = random.nextFloat() + random.nextFloat() - 1;
  const score = keys.reduce((sum, key) => sum + drawWeight(seed, key), noise);
  return { keys, label: score > 0 ? 1 : -1 };
}

/** Each octave of ranks is as likely as any other: the frequency of rank r falls as 1 / r (Zipf), in steps. */
function drawKey(random: RandomStream, octaves: number): number {
  const first = 2 ** random.nextBelow(octaves);
  const rank = first + random.nextBelow(first);
  return Math.imul(rank, SCATTER) & (2 ** octaves - 1);
}

/** What the labels are drawn by. */
function drawWeight(seed: number, key: number): number {
  const random = new RandomStream(seed, RandomPurpose.sparseWeight, key);
  return random.nextBelow(TELLING) === 0 ? WEIGHT_MAX * (2 * random.nextFloat() - 1) : 0;
}
