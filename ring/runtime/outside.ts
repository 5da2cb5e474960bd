/** @file What a node outside the ring may still hope for: while one member listens it waits to be taken in; when nothing has listened any more for a while, the run is over. */
import { NetworkError } from "../../src/types/errors.ts";
import type { RingView } from "../core/view.ts";
import type { DialOutcome } from "./control.ts";

/** Members that are restarted listen again by then. */
export const FORSAKEN_MS = 10_000;

export class Outside {
  /** Since when dials to a peer have been refused. */
  readonly #refusedMs = new Map<string, number>();

  dialled(peerId: string, outcome: DialOutcome, nowMs: number): void {
    if (outcome === "answered") this.#refusedMs.delete(peerId);
    else if (outcome === "refused" && !this.#refusedMs.has(peerId)) this.#refusedMs.set(peerId, nowMs);
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
