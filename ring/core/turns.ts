/**
 * @file When a node begins a round of its own: voters take their turns by rank, so that rounds seldom meet, and whoever gets on puts the
 * others off. What stands still is tried again, each time with more patience, so that storms damp.
 */

/** Between one voter's turn and the next. */
const STAGGER_MS = 60;
/** How long a round, anybody's, may stand still; doubled with each of one's own. */
const PATIENCE_MS = 500;
const PATIENCE_MS_MAX = 8_000;

export class Turns {
  #dueMs: number | undefined;
  #patienceMs = PATIENCE_MS;

  /** There is something to decide. */
  ask(nowMs: number, rank: number): void {
    this.#dueMs ??= nowMs + rank * STAGGER_MS;
  }

  /** There is nothing to decide any more. */
  cancel(): void {
    this.#dueMs = undefined;
  }

  /** Somebody's round gets on. */
  putOff(nowMs: number, rank: number): void {
    this.#dueMs = nowMs + this.#patienceMs + rank * STAGGER_MS;
  }

  isDue(nowMs: number): boolean {
    return this.#dueMs !== undefined && nowMs >= this.#dueMs;
  }

  /** This node begins a round now. */
  begin(nowMs: number, rank: number): void {
    this.putOff(nowMs, rank);
    this.#patienceMs = Math.min(2 * this.#patienceMs, PATIENCE_MS_MAX);
  }
}
