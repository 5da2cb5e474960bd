/**
 * @file Augmentation of training samples: noise on every feature, drawn from the job's seed, the step and the sample's place in the step's batch.
 * So every system, every cut into micro-batches and every replay trains on the same numbers. Test samples stay as they are.
 */
import { UsageError } from "../types/errors.ts";
import { RandomPurpose, RandomStream } from "../types/random.ts";

/** Returns how far a feature may change; 0 for `none`. Throws UsageError for what is neither `none` nor `noise:A` with 0 < A <= 1000. */
export function parseAugment(text: string): number {
  if (text === "none") return 0;
  const amplitude = /^noise:(\d+\.?\d*|\.\d+)$/.exec(text)?.[1];
  if (amplitude !== undefined && Number(amplitude) > 0 && Number(amplitude) <= 1000) return Number(amplitude);
  throw new UsageError(
    `--augment ${JSON.stringify(text)} is not known`,
    "use none, or noise:A with A above 0, at most 1000, such as noise:0.1",
  );
}

/**
 * Adds noise that is uniform in [-amplitude, amplitude) to the features of one sample, rounded once to float32.
 * @param features of the sample; changed in place
 * @param place of the sample in the step's batch
 */
export function addNoise(features: Float32Array, amplitude: number, seed: number, step: number, place: number): void {
  const stream = new RandomStream(seed, RandomPurpose.augmentation, step, place);
  for (const [index, feature] of features.entries()) {
    features[index] = feature + amplitude * (2 * stream.nextFloat() - 1);
  }
}
