/**
 * @file Whether layers of which nobody who answered has a copy are lost, or somebody may still come with one. An answer from before it was known
 * who is dead does not count: who gave it may have fetched since, in this view or in a newer one of which this node has not heard.
 */
import type { Ballot } from "./agreement.ts";
import type { RingMember, RingView } from "./view.ts";

/** After this time nobody counts any more on those who left earlier views. */
const DEPARTED_MS = 5_000;

/** Peers of the view that have not answered in a round. */
export interface Absent {
  readonly members: readonly number[];
  readonly departed: readonly number[];
}

export function absentFrom({ members, departed }: RingView, answers: readonly { readonly node: number }[]): Absent {
  const answered = new Set(answers.map(({ node }) => node));
  const absent = (peers: readonly RingMember[]): readonly number[] =>
    peers.map(({ node }) => node).filter((node) => !answered.has(node));
  return { members: absent(members), departed: absent(departed) };
}

/** Of one view. */
export class Lack {
  /** Since when what was answered has not been enough, and the newest round of which that is true. */
  #lacking: { readonly ballot: Ballot; readonly sinceMs: number } | undefined;
  /** The highest ballot when somebody's death became known last. */
  #mournedAt: Ballot = 0;

  /** @param highest ballot of which this node knows */
  died(highest: Ballot): void {
    this.#mournedAt = highest;
  }

  /** Whether what was answered in this round was not enough. */
  isOf(ballot: Ballot): boolean {
    return this.#lacking?.ballot === ballot;
  }

  /** Everybody who lives has answered, since the last death. */
  isAllAsked(ballot: Ballot, { members }: Absent, dead: readonly number[]): boolean {
    return ballot > this.#mournedAt && members.every((node) => dead.includes(node));
  }

  /**
   * What was answered in this round is not enough. Returns whether that is final. It never is the first time: 1. A node promises while it still
   * fetches layers. 2. Who sends them dies. 3. The node has them now, and its promise does not say so.
   */
  isFinal(ballot: Ballot, { members, departed }: Absent, dead: readonly number[], nowMs: number): boolean {
    const isAskedAnew = this.#lacking !== undefined && this.#lacking.ballot !== ballot;
    const sinceMs = this.#lacking?.sinceMs ?? nowMs;
    this.#lacking = { ballot, sinceMs };
    const mayReturn = departed.some((node) => !dead.includes(node)) && nowMs - sinceMs < DEPARTED_MS;
    return isAskedAnew && members.every((node) => dead.includes(node)) && !mayReturn;
  }
}
