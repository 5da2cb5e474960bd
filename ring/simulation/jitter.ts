/** @file Chance in the time of an operation: lognormal, so that it is never negative and now and then long. */
import { RandomStream } from "../../src/types/random.ts";

/** Key of the first of three uses; the purposes of training count from 1. */
const PURPOSE = 1_000;

/**
 * Draws factors of an operation's time with mean 1. Each node has a stream of its own, so its factors do not depend on what
 * others do.
 * @param variation coefficient of variation: standard deviation over mean
 */
export function jitterOf(variation: number, nodes: number, seed: number): (node: number) => number {
  const sigma = Math.sqrt(Math.log1p(variation * variation));
  const normal = normals(nodes, seed, 0);
  return (node) => Math.exp(sigma * normal(node) - (sigma * sigma) / 2);
}

/** What handing over operations and messages takes: their median times a factor, lognormal. */
export interface Tails {
  /** Of the logarithm of the time between operations. */
  readonly overheadSigma: number;
  /** Of the logarithm of a message's time beside an emulated link's. */
  readonly messageSigma: number;
  /** Median of that time. */
  readonly messageMs: number;
}

export function overheadFactor({ overheadSigma }: Tails, nodes: number, seed: number): (node: number) => number {
  const normal = normals(nodes, seed, 1);
  return (node) => Math.exp(overheadSigma * normal(node));
}

/** What a message takes beyond the median; one that is faster gains nothing. */
export function messageExtra(
  { messageSigma, messageMs }: Tails,
  nodes: number,
  seed: number,
): (node: number) => number {
  const normal = normals(nodes, seed, 2);
  return (node) => messageMs * Math.max(0, Math.expm1(messageSigma * normal(node)));
}

/** Standard normal numbers, a stream for each node. */
function normals(nodes: number, seed: number, use: number): (node: number) => number {
  const streams = Array.from({ length: nodes }, (_, node) => new Normal(new RandomStream(seed, PURPOSE + use, node)));
  return (node) => streams[node]!.next();
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
