/**
 * @file Who asks to be taken into the ring, and whether every member hears it: a line between a joiner and a member that is cut would put
 * one of them out again, at once and for as long as it is cut. So a joiner asks every member, tells each who has answered, and is admitted
 * when all have. What was answered in one view says nothing of the next one's members.
 */
import type { Candidate } from "./formation.ts";
import type { RingView } from "./view.ts";

/** Who has not repeated its wish for so long is gone. */
const WISH_MS = 1_000;

export interface JoinWish {
  readonly candidate: Candidate;
  /** Members of the present view that it hears, and that hear it. */
  readonly heardBy: readonly number[];
}

export class Admission {
  /** By peer id, with the time at which it was last said. */
  readonly #wishes = new Map<string, JoinWish & { readonly askedMs: number; readonly from: number }>();
  /** Of this node's own wish. */
  readonly #heardBy = new Set<number>();

  /**
   * @param of the view whose members the wish speaks of
   * @param from the number under which its sender is spoken to
   */
  wished(view: RingView, of: number, { candidate, heardBy }: JoinWish, from: number, nowMs: number): void {
    const known = view.members.find(({ peerId }) => peerId === candidate.peerId);
    // A member whose process was restarted has lost its memory: it joins anew, and nobody waits for it before that.
    if (known !== undefined && candidate.boot <= known.boot) return;
    this.#wishes.set(candidate.peerId, { candidate, heardBy: of === view.view ? heardBy : [], from, askedMs: nowMs });
  }

  /** Members whose process has come back without its memory. */
  restarted({ members }: RingView): readonly number[] {
    return members.filter(({ peerId }) => this.#wishes.has(peerId)).map(({ node }) => node);
  }

  /** Who still asks, and is heard by every member that is not gone: one that died meanwhile would be a voter on whom no majority can count. */
  admissible({ members }: RingView, gone: readonly number[], nowMs: number): readonly Candidate[] {
    const present = members.map(({ node }) => node).filter((node) => !gone.includes(node));
    const wishes = [...this.#wishes.values()].filter(({ askedMs }) => nowMs - askedMs < WISH_MS);
    const heard = wishes.filter(({ heardBy }) => present.every((node) => heardBy.includes(node)));
    return heard.map(({ candidate }) => candidate);
  }

  /** Who still waits: those whom it knows may be gone before it hears of a newer view by itself. */
  get askers(): readonly number[] {
    return [...this.#wishes.values()].map(({ from }) => from);
  }

  adopt({ members }: RingView): void {
    for (const { peerId } of members) this.#wishes.delete(peerId);
    for (const [peerId, wish] of this.#wishes) this.#wishes.set(peerId, { ...wish, heardBy: [] });
    this.#heardBy.clear();
  }

  /** A member has answered this node's wish. Returns whether that was new. */
  answered(by: number): boolean {
    const isNew = !this.#heardBy.has(by);
    this.#heardBy.add(by);
    return isNew;
  }

  get heardBy(): readonly number[] {
    return [...this.#heardBy];
  }

  /** Of these members, who has not answered. */
  deaf(members: readonly number[]): readonly number[] {
    return members.filter((node) => !this.#heardBy.has(node));
  }

  /** For people. Null where nobody has answered at all: whether there is a ring is not known then. */
  lackText(members: readonly number[]): string | null {
    const deaf = this.deaf(members);
    return deaf.length === 0 || deaf.length === members.length ? null : `no line to node ${deaf.join(", ")}`;
  }
}
