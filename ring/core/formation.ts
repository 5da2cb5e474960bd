/**
 * @file Ring formation at the founder: candidates come one by one, and when the stated number is there the view is proposed;
 * it is decided when every member accepted the same proposal. Nobody schedules afterwards: formation ends with the decision.
 */
import { assert, unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";

/** What a node says of itself when it asks to join. */
export interface Candidate {
  readonly peerId: string;
  readonly addresses: readonly string[];
  /** Nodes with the same value share a disk, and one of them writes the results. */
  readonly machine: string;
  /** Of its state folder, 32 hexadecimal digits: a wiped disk is another one. */
  readonly incarnation: string;
  /** Starts of a process on that folder: a restarted one has lost its memory. */
  readonly boot: number;
  /** Ids of the engines that it can run: kind and the digest of a probe's bits. */
  readonly engines: readonly string[];
  /** The number that its launcher gave it, so that names on one machine agree; others follow in order of arrival. */
  readonly wish: number | null;
}

export interface Member extends Candidate {
  readonly node: number;
}

/** A decided membership: node `i` holds stage `i`, and its successor is node `(i+1) mod members`. */
export interface FormedRing {
  readonly view: number;
  readonly members: readonly Member[];
  /** One integer a layer, from which every member computes the same cut. */
  readonly layerCosts: readonly number[];
  /** The engine that all members share. */
  readonly engine: string;
}

export interface FormationInit {
  readonly size: number;
  readonly founder: Candidate;
  readonly layerCosts: readonly number[];
  /** Engine kinds that the job accepts, the preferred first. */
  readonly engines: readonly string[];
}

export type FormationInput =
  | { readonly kind: "begin" }
  | { readonly kind: "request"; readonly candidate: Candidate }
  | { readonly kind: "accepted"; readonly peerId: string; readonly digest: string }
  | { readonly kind: "gone"; readonly peerId: string };

export type FormationOutput =
  | { readonly kind: "admit"; readonly peerId: string; readonly present: number; readonly size: number }
  | { readonly kind: "refuse"; readonly peerId: string; readonly reason: string }
  /** To every member but the founder, which accepts its own proposal. */
  | { readonly kind: "propose"; readonly view: FormedRing }
  | { readonly kind: "decided"; readonly view: FormedRing }
  | { readonly kind: "failed"; readonly reason: string };

type Phase =
  | { readonly kind: "gathering" }
  | { readonly kind: "proposed"; readonly view: FormedRing; readonly digest: string; readonly waiting: Set<string> }
  | { readonly kind: "decided" }
  | { readonly kind: "failed" };

export class FormationMachine implements Machine<FormationInput, FormationOutput> {
  readonly #init: FormationInit;
  readonly #candidates: Candidate[];
  /** Proposals that a member was sent and has not answered: all but the newest are withdrawn. */
  readonly #unanswered = new Map<string, number>();
  #phase: Phase = { kind: "gathering" };

  constructor(init: FormationInit) {
    this.#init = init;
    this.#candidates = [init.founder];
  }

  get present(): number {
    return this.#candidates.length;
  }

  handle(input: FormationInput): readonly FormationOutput[] {
    switch (input.kind) {
      case "begin":
        return this.#proposeIfWhole();
      case "request":
        return this.#request(input.candidate);
      case "accepted":
        return this.#accepted(input.peerId, input.digest);
      case "gone":
        return this.#gone(input.peerId);
    }
    return unreachable(input);
  }

  #request(candidate: Candidate): readonly FormationOutput[] {
    const { size } = this.#init;
    const { peerId } = candidate;
    if (this.#phase.kind !== "gathering" || this.#candidates.length >= size) {
      return [{ kind: "refuse", peerId, reason: `the ring is whole (${size} of ${size} nodes)` }];
    }
    if (this.#candidates.some((member) => member.peerId === peerId)) {
      return [{ kind: "refuse", peerId, reason: "this peer id is already a member" }];
    }
    if (commonEngine(this.#init.engines, [...this.#candidates, candidate]) === undefined) {
      const theirs = candidate.engines.join(", ");
      return [
        {
          kind: "refuse",
          peerId,
          reason: `field engine: the ring has ${this.#init.founder.engines.join(", ")}, not ${theirs}`,
        },
      ];
    }
    this.#candidates.push(candidate);
    const admitted: FormationOutput = { kind: "admit", peerId, present: this.#candidates.length, size };
    return [admitted, ...this.#proposeIfWhole()];
  }

  #proposeIfWhole(): readonly FormationOutput[] {
    if (this.#candidates.length < this.#init.size) return [];
    const members = numberMembers(this.#candidates);
    const engine = commonEngine(this.#init.engines, members);
    assert(engine !== undefined, "candidates without a common engine were refused");
    const view: FormedRing = { view: 0, members, layerCosts: this.#init.layerCosts, engine };
    const waiting = new Set(members.map((member) => member.peerId));
    waiting.delete(this.#init.founder.peerId);
    for (const peerId of waiting) this.#unanswered.set(peerId, (this.#unanswered.get(peerId) ?? 0) + 1);
    this.#phase = { kind: "proposed", view, digest: viewDigest(view), waiting };
    const proposal: FormationOutput = { kind: "propose", view };
    return [proposal, ...this.#decideIfUnanimous()];
  }

  /** Answers come in the order of the proposals: one to a proposal that a departure has withdrawn counts for nothing. */
  #accepted(peerId: string, digest: string): readonly FormationOutput[] {
    const phase = this.#phase;
    const unanswered = Math.max(0, (this.#unanswered.get(peerId) ?? 0) - 1);
    this.#unanswered.set(peerId, unanswered);
    if (phase.kind !== "proposed" || unanswered > 0) return [];
    if (digest !== phase.digest) {
      this.#phase = { kind: "failed" };
      return [{ kind: "failed", reason: `peer ${peerId} read another proposal than the one that was sent` }];
    }
    phase.waiting.delete(peerId);
    return this.#decideIfUnanimous();
  }

  #decideIfUnanimous(): readonly FormationOutput[] {
    const phase = this.#phase;
    if (phase.kind !== "proposed" || phase.waiting.size > 0) return [];
    this.#phase = { kind: "decided" };
    return [{ kind: "decided", view: phase.view }];
  }

  /** A candidate that leaves before the decision makes its place free again. */
  #gone(peerId: string): readonly FormationOutput[] {
    const place = this.#candidates.findIndex((candidate) => candidate.peerId === peerId);
    if (place < 1 || this.#phase.kind === "decided" || this.#phase.kind === "failed") return [];
    this.#candidates.splice(place, 1);
    this.#unanswered.delete(peerId);
    this.#phase = { kind: "gathering" };
    return [];
  }
}

/** Wished numbers first, in their order, then the others in order of arrival. The founder is node 0. */
function numberMembers(candidates: readonly Candidate[]): readonly Member[] {
  const rank = (candidate: Candidate): number => candidate.wish ?? Number.MAX_SAFE_INTEGER;
  const [founder, ...others] = candidates;
  const ordered = [...(founder === undefined ? [] : [founder]), ...others.toSorted((a, b) => rank(a) - rank(b))];
  return ordered.map((candidate, node) => ({ ...candidate, node }));
}

/** The first accepted kind whose id (kind and probe digest) every member has. */
function commonEngine(kinds: readonly string[], members: readonly Candidate[]): string | undefined {
  const isShared = (id: string): boolean => members.every((member) => member.engines.includes(id));
  for (const kind of kinds) {
    const id = members[0]?.engines.find((engine) => engine.startsWith(`${kind}:`));
    if (id !== undefined && isShared(id)) return id;
  }
  return undefined;
}

/** What a member compares: two equal digests are the same proposal, written the same way. */
export function viewDigest(view: FormedRing): string {
  return JSON.stringify([
    view.view,
    view.engine,
    view.layerCosts,
    view.members.map((member) => [member.node, member.peerId]),
  ]);
}
