/** @file Where two predictions change places as one quantity of the scenario grows or shrinks. */

/** How far to look, up and down. */
export const FACTOR_MAX = 1000;
const STEPS_PER_DECADE = 4;
/** Of the factor found. */
const PRECISION = 0.01;

/**
 * The factor nearest to 1, from 1/1000 to 1000, at which `difference` changes its sign; null where it does not. A sign that changes twice
 * between two of the four factors looked at in each decade is not seen.
 */
export function crossingFactor(difference: (factor: number) => number): number | null {
  const isAbove = difference(1) > 0;
  const changes = (factor: number): boolean => difference(factor) > 0 !== isAbove;
  const step = 10 ** (1 / STEPS_PER_DECADE);
  for (let index = 1; index <= Math.log10(FACTOR_MAX) * STEPS_PER_DECADE; index += 1) {
    const found = [1, -1].find((direction) => changes(step ** (direction * index)));
    if (found !== undefined) return bisect(changes, step ** (found * (index - 1)), step ** (found * index));
  }
  return null;
}

function bisect(changes: (factor: number) => boolean, same: number, other: number): number {
  while (Math.abs(Math.log(other / same)) > PRECISION) {
    const middle = Math.sqrt(same * other);
    if (changes(middle)) other = middle;
    else same = middle;
  }
  return Math.sqrt(same * other);
}
