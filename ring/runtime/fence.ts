/**
 * @file A process that stood still must not act on what it believed before: others may have gone on without it. The fence is shut until a
 * majority of the view's voters has confirmed that the view is still theirs, or another view comes.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import { OVERSLEPT_MS } from "../core/detector.ts";
import { majorityOf } from "../core/view.ts";

export interface FenceInit {
  readonly node: () => number;
  readonly voters: () => readonly number[];
  /** `sleep`: which of this process's sleeps the answer must name. */
  readonly ask: (voter: number, sleep: number) => void;
  readonly shut: (sleptMs: number) => void;
}

export class Fence {
  readonly #init: FenceInit;
  #tickMs = nowMs();
  /** Sleeps so far. */
  #sleep = 0;
  #confirmed = new Set<number>();
  #opened: PromiseWithResolvers<void> | undefined;

  constructor(init: FenceInit) {
    this.#init = init;
  }

  get isShut(): boolean {
    return this.#opened !== undefined;
  }

  /** Undefined where this process may act; else resolves when it may. */
  gate(): Promise<void> | undefined {
    const sleptMs = nowMs() - this.#tickMs;
    if (sleptMs > OVERSLEPT_MS) this.overslept(sleptMs);
    return this.#opened?.promise;
  }

  /** More often than a process oversleeps. */
  tick(): void {
    void this.gate();
    this.#tickMs = nowMs();
    if (this.isShut) this.#ask();
  }

  /**
   * 1. A process stands still, wakes and asks. 2. It is stopped again before the answers come: they wait in its queues. 3. Meanwhile others go on
   * without it. 4. It wakes: those answers are of the time before. So each sleep asks anew, and only answers to its own questions count.
   */
  overslept(sleptMs: number): void {
    this.#tickMs = nowMs();
    this.#sleep += 1;
    this.#confirmed = new Set();
    if (!this.isShut) {
      this.#init.shut(sleptMs);
      this.#opened = Promise.withResolvers();
    }
    this.confirmed(this.#init.node(), this.#sleep);
    this.#ask();
  }

  /** @param sleep the one that this node named when it asked */
  confirmed(node: number, sleep: number): void {
    // What waited in the queues may be read before any clock has ticked.
    void this.gate();
    if (sleep !== this.#sleep) return;
    const voters = this.#init.voters();
    this.#confirmed.add(node);
    if (voters.filter((voter) => this.#confirmed.has(voter)).length >= majorityOf(voters)) this.open();
  }

  /** What was believed is confirmed, or is over. */
  open(): void {
    this.#opened?.resolve();
    this.#opened = undefined;
  }

  #ask(): void {
    for (const voter of this.#init.voters()) if (voter !== this.#init.node()) this.#init.ask(voter, this.#sleep);
  }
}
