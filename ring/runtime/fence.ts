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
  readonly ask: (voter: number) => void;
  readonly shut: (sleptMs: number) => void;
}

export class Fence {
  readonly #init: FenceInit;
  #tickMs = nowMs();
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

  overslept(sleptMs: number): void {
    this.#tickMs = nowMs();
    if (this.isShut) return;
    this.#init.shut(sleptMs);
    this.#opened = Promise.withResolvers();
    this.#confirmed = new Set();
    this.confirmed(this.#init.node());
    this.#ask();
  }

  confirmed(node: number): void {
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
    for (const voter of this.#init.voters()) if (voter !== this.#init.node()) this.#init.ask(voter);
  }
}
