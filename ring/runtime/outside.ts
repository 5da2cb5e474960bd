/** @file What a node outside the ring may still hope for: while one member listens it waits to be taken in; when nothing has listened any more for a while, the run is over. */
import { NetworkError } from "../../src/types/errors.ts";
import type { RingView } from "../core/view.ts";
import type { DialOutcome } from "./control.ts";

/** A member that has not answered for so long is asked over another connection. */
const UNHEARD_MS = 2_000;
/** Members that are restarted listen again by then. */
export const FORSAKEN_MS = 10_000;

export class Outside {
  /** Since when dials to a peer have been refused. */
  readonly #refusedMs = new Map<string, number>();
  readonly #heardMs = new Map<string, number>();

  dialled(peerId: string, outcome: DialOutcome, nowMs: number): void {
    if (outcome === "answered") this.#refusedMs.delete(peerId);
    else if (outcome === "refused" && !this.#refusedMs.has(peerId)) this.#refusedMs.set(peerId, nowMs);
  }

  heard(peerId: string, nowMs: number): void {
    this.#heardMs.set(peerId, nowMs);
  }

  /** Members that are asked for a place again and again, and say nothing; each once in a while. */
  unheard({ members }: RingView, self: string, nowMs: number): readonly string[] {
    const silent = members
      .map(({ peerId }) => peerId)
      .filter((peerId) => peerId !== self && this.#isDue(peerId, nowMs));
    for (const peerId of silent) this.heard(peerId, nowMs);
    return silent;
  }

  #isDue(peerId: string, nowMs: number): boolean {
    const sinceMs = this.#heardMs.get(peerId);
    if (sinceMs === undefined) this.heard(peerId, nowMs);
    return sinceMs !== undefined && nowMs - sinceMs >= UNHEARD_MS;
  }

  /** Why there is nothing to wait for; undefined while there is. */
  forsaken({ members }: RingView, self: string, nowMs: number): NetworkError | undefined {
    const others = members.filter(({ peerId }) => peerId !== self);
    const isOver = others.every(({ peerId }) => nowMs - (this.#refusedMs.get(peerId) ?? nowMs) >= FORSAKEN_MS);
    return isOver ? forsakenError() : undefined;
  }
}

export function forsakenError(): NetworkError {
  return new NetworkError(
    "no member of the ring listens any more: the run has ended without this node",
    "its results are with the others; a run that was broken off goes on with ringtmp up --resume",
  );
}
