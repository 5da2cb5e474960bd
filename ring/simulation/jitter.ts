/** @file Chance in the time of an operation: lognormal, so that it is never negative and now and then long. */
import { RandomStream } from "../../src/types/random.ts";

/** Key of the streams; the purposes of training count from 1. */
const PURPOSE = 1_000;

/**
 * Draws factors of an operation's time with mean 1. Each node has a stream of its own, so its factors do not depend on what
 * others do.
 * @param variation coefficient of variation: standard deviation over mean
 */
export function jitterOf(variation: number, nodes: number, seed: number): (node: number) => number {
  const sigma = Math.sqrt(Math.log1p(variation * variation));
  const streams = Array.from({ length: nodes }, (_, node) => new Normal(new RandomStream(seed, PURPOSE, node)));
  return (node) => Math.exp(sigma * streams[node]!.next() - (sigma * sigma) / 2);
}

/** Standard normal numbers, two at a time (Box and Muller 1958). */
class Normal {
  readonly #random: RandomStream;
  #spare = Number.NaN;

  constructor(random: RandomStream) {
    this.#random = random;
  }

  next(): number {
    const spare = this.#spare;
    if (!Number.isNaN(spare)) {
      this.#spare = Number.NaN;
      return spare;
    }
    // In (0, 1]: its logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - this.#random.nextFloat()));
    const angle = 2 * Math.PI * this.#random.nextFloat();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}
