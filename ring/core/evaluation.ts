/**
 * @file One forward-only pass over the test set, at one stage: which micro-batch next, which places are free, when it is
 * over. A place is free when its result was computed and, but for the last stage, has left the node.
 */
import { Credits } from "./credits.ts";

export interface EvaluationInit {
  readonly count: number;
  readonly slots: number;
  readonly successorSlots: number;
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

export class EvaluationPass {
  readonly count: number;
  correct = 0;
  /** Sum over all samples; NaN but at the last stage. */
  lossSum = 0;
  readonly #init: EvaluationInit;
  readonly #credits: Credits;
  #started = 0;
  #computed = 0;
  #released = 0;
  #reported = 0;

  constructor(init: EvaluationInit) {
    this.count = init.count;
    this.#init = init;
    this.#credits = new Credits(init.successorSlots);
  }

  /** The micro-batch to compute now, if any, of `arrived` ones. It counts as started. */
  next(arrived: number, hasLabels: boolean): number | undefined {
    const { isLast, slots } = this.#init;
    if (this.#started >= arrived || !hasLabels || this.#started - this.#released >= slots) return undefined;
    if (!isLast) {
      if (this.#credits.available === 0) return undefined;
      this.#credits.take();
    }
    this.#started += 1;
    return this.#started - 1;
  }

  computed(loss: number, correct: number): void {
    this.#computed += 1;
    this.lossSum += loss;
    this.correct += correct;
    if (this.#init.isLast) this.#released += 1;
  }

  sent(): void {
    this.#released += 1;
  }

  /** False where the successor grants more than it has. */
  credit(): boolean {
    return this.#credits.grant(1);
  }

  get released(): number {
    return this.#released;
  }

  /** Places freed since the last call. */
  takeReleased(): number {
    const fresh = this.#released - this.#reported;
    this.#reported = this.#released;
    return fresh;
  }

  /** All is computed, and no place is in use here or at the successor. */
  get isDone(): boolean {
    const isIdle = this.#computed === this.count && this.#released === this.count;
    return isIdle && this.#credits.available === this.#credits.capacity;
  }
}
