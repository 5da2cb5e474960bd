/**
 * @file Credits: leave to send one more activation to the successor. The consumer grants them, each for a place that is
 * free again (after etcd-io/raft `tracker/inflights.go`).
 */
import { assert } from "../../src/types/assert.ts";

export class Credits {
  /** Places that the successor has in all. */
  readonly capacity: number;
  #available: number;

  constructor(capacity: number) {
    assert(Number.isSafeInteger(capacity) && capacity >= 0, "a capacity is a count");
    this.capacity = capacity;
    this.#available = capacity;
  }

  get available(): number {
    return this.#available;
  }

  /** Takes one credit; the caller has seen that one is available. */
  take(): void {
    assert(this.#available > 0, "no credit is left");
    this.#available -= 1;
  }

  /** False where the successor grants more than it has: a broken peer, not a broken program. */
  grant(count: number): boolean {
    if (this.#available + count > this.capacity) return false;
    this.#available += count;
    return true;
  }
}
