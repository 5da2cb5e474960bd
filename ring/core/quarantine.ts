/**
 * @file How long a peer that flaps stays out: from its third soft eviction within a minute its return is refused for 5 s, twice
 * as long each time, up to 5 min. A peer that then stays for a minute begins anew. A crash and restart (hard evidence) is no flap.
 */
import type { SuspicionCause } from "./detector.ts";

export const FLAPS_BEFORE_REFUSAL = 3;
export const FLAP_MEMORY_MS = 60_000;
export const REFUSAL_MS_MIN = 5_000;
export const REFUSAL_MS_MAX = 300_000;
/** Peers remembered; the one evicted longest ago is forgotten first. */
export const FLAPPERS_MAX = 256;

interface Flapper {
  /** Of the newest evictions, at most `FLAPS_BEFORE_REFUSAL`. */
  readonly evictedMs: readonly number[];
  /** Of the newest refusal; 0 before the first. */
  readonly refusalMs: number;
  readonly refusedUntilMs: number;
}

const UNKNOWN: Flapper = { evictedMs: [], refusalMs: 0, refusedUntilMs: -Infinity };

export class Quarantine {
  /** The newest eviction last. */
  readonly #flappers = new Map<string, Flapper>();

  evicted(peerId: string, cause: SuspicionCause, nowMs: number): void {
    if (cause === "closed") return;
    const before = this.#flappers.get(peerId) ?? UNKNOWN;
    const evictedMs = [...before.evictedMs, nowMs].slice(-FLAPS_BEFORE_REFUSAL);
    this.#flappers.delete(peerId);
    this.#flappers.set(peerId, { ...refusal(before, evictedMs, nowMs), evictedMs });
    if (this.#flappers.size > FLAPPERS_MAX) this.#flappers.delete(this.#flappers.keys().next().value!);
  }

  /** When the peer may come back; undefined where it may now. */
  refusedUntilMs(peerId: string, nowMs: number): number | undefined {
    const untilMs = this.#flappers.get(peerId)?.refusedUntilMs;
    return untilMs !== undefined && untilMs > nowMs ? untilMs : undefined;
  }
}

function refusal(before: Flapper, evictedMs: readonly number[], nowMs: number): Omit<Flapper, "evictedMs"> {
  const isRepeated = nowMs - before.refusedUntilMs <= FLAP_MEMORY_MS;
  const isFlapping = evictedMs.length === FLAPS_BEFORE_REFUSAL && nowMs - evictedMs[0]! <= FLAP_MEMORY_MS;
  if (!isRepeated && !isFlapping) return { refusalMs: 0, refusedUntilMs: -Infinity };
  const refusalMs = isRepeated ? Math.min(2 * before.refusalMs, REFUSAL_MS_MAX) : REFUSAL_MS_MIN;
  return { refusalMs, refusedUntilMs: nowMs + refusalMs };
}
