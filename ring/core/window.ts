/**
 * @file How far a node works ahead: the windows of the local rule from what the node itself measured. Costs are of one
 * micro-batch in one lap, in any unit, the same as that of the round trips.
 */
import { isFused, type ScheduleShape } from "./schedule.ts";
import { startWindow, type Window } from "./pipeline.ts";

/** Median times of one segment's F, B and W on one micro-batch. */
export interface OperationCosts {
  readonly forward: number;
  readonly backward: number;
  readonly weight: number;
}

/** Samples over which the least round trip counts: a link may become slower. */
const SAMPLES = 64;
/** Micro-batches that unequal costs make a node hold beyond the drain that they must fill. Found by simulation. */
const UNEQUAL_SLACK = 6;

/**
 * The latency from here to the end of the model and back: own F's end to the gradient's arrival, less the time that the
 * nodes on the way report as theirs. The least of the newest samples, since queueing only ever adds.
 */
export class RoundTrip {
  #least = Infinity;
  #leastBefore = Infinity;
  #count = 0;

  /** 0 before the first sample. */
  get value(): number {
    const least = Math.min(this.#least, this.#leastBefore);
    return least === Infinity ? 0 : least;
  }

  add(sample: number): void {
    if (this.#count === SAMPLES) {
      this.#leastBefore = this.#least;
      this.#least = Infinity;
      this.#count = 0;
    }
    this.#least = Math.min(this.#least, Math.max(0, sample));
    this.#count += 1;
  }
}

/**
 * The windows of `node`. Latency lengthens both (Little's law: what is on the way must be in flight too); unequal costs
 * lengthen them where the step is long enough to use it: to stay busy while a step fills and drains, a node needs
 * (p-1)(tF+tB) of W at hand.
 * @param roundTrip from `node` to the end of the model and back
 * @param ringRoundTrip the same from node 0
 */
export function windowFor(
  shape: ScheduleShape,
  node: number,
  splits: boolean,
  costs: OperationCosts,
  roundTrip: number,
  ringRoundTrip: number,
): Window {
  const { nodes, laps, microBatches } = shape;
  const { forward, backward, weight } = costs;
  const start = startWindow(shape, node, splits);
  const work = forward + backward + weight;
  if (work <= 0) return start;
  if (!splits) return { inFlight: start.inFlight + ceil(roundTrip / work), held: Infinity };
  let { inFlight, held } = start;
  if (laps === 1 && forward > 0 && weight > 0) {
    const longHeld = ceil(((nodes - 1) * (forward + backward)) / weight) + UNEQUAL_SLACK;
    const isUnequal = forward + backward > 2 * weight;
    if (isUnequal && longHeld <= microBatches) {
      held = Math.max(held, longHeld);
      const perHop = (forward + backward) / Math.min(forward, weight);
      inFlight = Math.max(inFlight, 1 + ceil((nodes - 1 - node) * perHop));
    }
  }
  return { inFlight: inFlight + forLatency(roundTrip / work), held: held + forLatency(ringRoundTrip / work) };
}

/**
 * Micro-batches more, for a round trip of so many of them. Rounded up; but one that is hardly needed costs more than it
 * brings (in simulation, 8 nodes, 16 micro-batches, a hop of 0.1 tF: 2.4 % idle with it, 1.2 % without).
 */
function forLatency(roundTrips: number): number {
  return 2 * roundTrips < 1 ? Math.round(2 * roundTrips) : ceil(2 * roundTrips);
}

/** Rounded up, but for what rounding errors add. */
function ceil(value: number): number {
  return Math.ceil(value - 1e-9);
}

/** Whether a schedule's W is an operation of its own on a model whose layers can split it. */
export function splitsWeight(shape: ScheduleShape, canSplit: boolean): boolean {
  return canSplit && !isFused(shape.kind);
}
