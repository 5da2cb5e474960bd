/**
 * @file The slots of one segment: which micro-batch is in which, when one is free again, and what the predecessor must be told
 * of it. A slot is taken when an activation is announced (or data is read in) and free when its W is done and its gradient has
 * left the node: the queue may still hold it. Free slots are used again newest first, so that those never needed are never touched.
 */
import { assert, defined } from "../../src/types/assert.ts";

export class Places {
  readonly capacity: number;
  /** Backward passes for inputs that are done. */
  backwarded = 0;
  readonly #free: number[];
  /** By sequence modulo capacity: those held are fewer, and consecutive. */
  readonly #slots: number[];
  readonly #arrivedMs: number[];
  readonly #forwardedMs: number[];
  /** Sequence numbers: micro-batches of the lap counted from the job's first step. */
  #taken = 0;
  #released = 0;
  #weightsDone = 0;
  #gradientsLeft = 0;
  #isReserved = false;
  #owed = 0;

  constructor(capacity: number) {
    assert(capacity >= 1, "a segment has a slot");
    this.capacity = capacity;
    this.#free = Array.from({ length: capacity }, (_, index) => capacity - 1 - index);
    const perSlot = (): number[] => Array<number>(capacity).fill(0);
    [this.#slots, this.#arrivedMs, this.#forwardedMs] = [perSlot(), perSlot(), perSlot()];
  }

  /** All slots are free, and the next micro-batch is `sequence`. */
  startAt(sequence: number): void {
    assert(this.#taken === this.#released, "no slot is held");
    this.#taken = this.#released = this.#weightsDone = this.#gradientsLeft = this.backwarded = sequence;
  }

  get free(): number {
    return this.capacity - (this.#taken - this.#released);
  }

  /** The slot of the next micro-batch; the same until `take`. Undefined where none is free. */
  reserve(): number | undefined {
    const index = this.#taken % this.capacity;
    if (this.#isReserved) return this.#slots[index];
    const slot = this.#free.pop();
    if (slot === undefined) return undefined;
    this.#isReserved = true;
    return (this.#slots[index] = slot);
  }

  /** The next micro-batch is there. */
  take(nowMs: number): void {
    assert(this.reserve() !== undefined, "a slot is free");
    this.#arrivedMs[this.#taken % this.capacity] = nowMs;
    this.#isReserved = false;
    this.#taken += 1;
  }

  slotOf(sequence: number): number {
    assert(sequence >= this.#released && sequence < this.#taken, `micro-batch ${sequence} is held`);
    return this.#slots[sequence % this.capacity]!;
  }

  forwarded(sequence: number, nowMs: number): void {
    this.#forwardedMs[sequence % this.capacity] = nowMs;
  }

  /** When its F ended, or its activation came. */
  forwardedMs(sequence: number): number {
    return this.#forwardedMs[sequence % this.capacity]!;
  }

  arrivedMs(sequence: number): number {
    return this.#arrivedMs[sequence % this.capacity]!;
  }

  weightDone(): void {
    this.#weightsDone += 1;
    this.#release();
  }

  gradientLeft(): void {
    this.#gradientsLeft += 1;
    this.#release();
  }

  /** Gradients leave in order, as W are done in order. */
  #release(): void {
    while (this.#released < Math.min(this.#weightsDone, this.#gradientsLeft)) {
      this.#free.push(defined(this.#slots[this.#released % this.capacity], "a slot"));
      this.#released += 1;
      this.#owed += 1;
    }
  }

  /** Freed slots that the predecessor has not been told of. */
  get owed(): number {
    return this.#owed;
  }

  takeOwed(): number {
    const owed = this.#owed;
    this.#owed = 0;
    return owed;
  }
}
