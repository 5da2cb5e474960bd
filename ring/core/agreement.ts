/**
 * @file The decision on one view: single-decree Paxos (Lamport, "Paxos Made Simple", 2001) among the voters of the view before. A node that
 * promises seals the old view at that moment and for good, and makes its promise durable before it answers; so does it with what it accepts.
 * All of its state is plain data, so that a search can visit every state.
 */
import { assert, unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { majorityOf } from "./view.ts";

/** Ballots of different nodes differ, and a node's own grow. */
export type Ballot = number;
export const NODES_MAX = 1024;
export const ballotOf = (round: number, node: number): Ballot => round * NODES_MAX + node;
export const roundOf = (ballot: Ballot): number => Math.floor(ballot / NODES_MAX);
export const proposerOf = (ballot: Ballot): number => ballot % NODES_MAX;

export interface Accepted<Value> {
  readonly ballot: Ballot;
  readonly value: Value;
}

/** What a voter must not forget. */
export interface Vote<Value> {
  readonly promised: Ballot;
  readonly accepted: Accepted<Value> | null;
}

export interface Promised<Value, Evidence> {
  readonly node: number;
  readonly accepted: Accepted<Value> | null;
  readonly evidence: Evidence;
}

export type AgreementMessage<Value, Evidence> =
  | { readonly kind: "prepare"; readonly ballot: Ballot }
  | ({ readonly kind: "promise"; readonly ballot: Ballot } & Omit<Promised<Value, Evidence>, "node">)
  /** The ballot is too low: `promised` is what the next one must exceed. */
  | { readonly kind: "refused"; readonly ballot: Ballot; readonly promised: Ballot }
  | { readonly kind: "accept"; readonly ballot: Ballot; readonly value: Value }
  | { readonly kind: "accepted"; readonly ballot: Ballot };

export type AgreementInput<Value, Evidence> =
  /** Begin a round with a ballot above every one seen. */
  | { readonly kind: "propose" }
  /** What this round shall decide, where nothing was accepted before; the answer to `mayChoose`. */
  | { readonly kind: "choose"; readonly value: Value }
  /** Say again what was not answered. */
  | { readonly kind: "repeat" }
  | {
      readonly kind: "message";
      readonly from: number;
      readonly message: AgreementMessage<Value, Evidence>;
      /** This node's, at this moment: asked for where it promises. */
      readonly evidence: Evidence;
    }
  /** The vote with this number, and all before it, is durable. */
  | { readonly kind: "persisted"; readonly id: number }
  /** It could not be made durable: this node abstains. */
  | { readonly kind: "notPersisted"; readonly id: number };

export type AgreementOutput<Value, Evidence> =
  | { readonly kind: "send"; readonly to: number; readonly message: AgreementMessage<Value, Evidence> }
  /** Before anything is said of it: the answer is `persisted` or `notPersisted`. */
  | { readonly kind: "persist"; readonly id: number; readonly vote: Vote<Value> }
  /** From now on this node sends and handles no data frame of the old view. */
  | { readonly kind: "seal" }
  | { readonly kind: "decided"; readonly value: Value };

export type Round<Value, Evidence> =
  | { readonly kind: "none" }
  | { readonly kind: "preparing"; readonly ballot: Ballot; readonly promises: readonly Promised<Value, Evidence>[] }
  | {
      readonly kind: "accepting";
      readonly ballot: Ballot;
      readonly value: Value;
      readonly accepted: readonly number[];
    }
  | { readonly kind: "decided"; readonly value: Value };

/** An answer that waits for the disk. */
interface Pending<Value, Evidence> {
  readonly id: number;
  readonly to: number;
  readonly message: AgreementMessage<Value, Evidence>;
}

export interface AgreementState<Value, Evidence> {
  promised: Ballot;
  accepted: Accepted<Value> | null;
  /** The highest ballot heard of. */
  highest: Ballot;
  round: Round<Value, Evidence>;
  pending: readonly Pending<Value, Evidence>[];
  persisted: number;
  written: number;
}

export interface AgreementInit<Value> {
  readonly self: number;
  readonly voters: readonly number[];
  /** All who are asked for evidence: voters, members, and who else may hold state. */
  readonly peers: readonly number[];
  /** As persisted; null where this node has not voted on this view. */
  readonly vote: Vote<Value> | null;
}

export class Agreement<Value, Evidence> implements Machine<
  AgreementInput<Value, Evidence>,
  AgreementOutput<Value, Evidence>
> {
  readonly #init: AgreementInit<Value>;
  readonly #state: AgreementState<Value, Evidence>;
  #out: AgreementOutput<Value, Evidence>[] = [];

  constructor(init: AgreementInit<Value>, state?: AgreementState<Value, Evidence>) {
    this.#init = init;
    const promised = init.vote?.promised ?? 0;
    this.#state = state ?? {
      ...{ promised, accepted: init.vote?.accepted ?? null, highest: promised },
      ...{ round: { kind: "none" }, pending: [], persisted: 0, written: 0 },
    };
  }

  get state(): Readonly<AgreementState<Value, Evidence>> {
    return this.#state;
  }

  /** It has promised: the old view is over here. */
  get isSealed(): boolean {
    return this.#state.promised > 0;
  }

  /** A majority has promised: what may be decided is free, unless a promise names an accepted value. */
  get hasQuorum(): boolean {
    const { round } = this.#state;
    return round.kind === "preparing" && this.#isMajority(round.promises.map(({ node }) => node));
  }

  /** For people: what a decision waits for. */
  get lackText(): string {
    const { round } = this.#state;
    const { self, voters } = this.#init;
    if (round.kind !== "preparing") return "a decision on the next view";
    // This node is here, also while its own vote is on the way to the disk.
    const here = new Set([self, ...round.promises.map(({ node }) => node)]);
    return `no quorum (${voters.filter((voter) => here.has(voter)).length} of ${voters.length})`;
  }

  handle(input: AgreementInput<Value, Evidence>): readonly AgreementOutput<Value, Evidence>[] {
    this.#out = [];
    this.#take(input);
    return this.#out;
  }

  #take(input: AgreementInput<Value, Evidence>): void {
    switch (input.kind) {
      case "propose":
        return this.#propose();
      case "choose":
        return this.#choose(input.value);
      case "repeat":
        return this.#repeat();
      case "message":
        return this.#message(input.from, input.message, input.evidence);
      case "persisted":
        return this.#persisted(input.id);
      case "notPersisted":
        this.#state.pending = this.#state.pending.filter(({ id }) => id !== input.id);
        return;
    }
    unreachable(input);
  }

  #propose(): void {
    const { self } = this.#init;
    const ballot = ballotOf(roundOf(this.#state.highest) + 1, self);
    this.#state.highest = ballot;
    this.#state.round = { kind: "preparing", ballot, promises: [] };
    this.#ask();
  }

  /**
   * Everybody who has not answered yet, this node included: it votes as the others do. Its own promise comes first, since a ballot must be durable
   * before anybody hears of it: (1) a proposer asks, and crashes; (2) it comes back and takes the same ballot for another value; (3) answers
   * to the first value count for the second, and two values are decided.
   */
  #ask(): void {
    const { round } = this.#state;
    const { self, peers, voters } = this.#init;
    if (round.kind === "preparing") {
      const answered = new Set(round.promises.map(({ node }) => node));
      const asked = answered.has(self) ? peers.filter((node) => !answered.has(node)) : [self];
      this.#send(asked, { kind: "prepare", ballot: round.ballot });
    } else if (round.kind === "accepting") {
      const { ballot, value, accepted } = round;
      this.#send(
        voters.filter((node) => !accepted.includes(node)),
        { kind: "accept", ballot, value },
      );
    }
  }

  #repeat(): void {
    this.#ask();
  }

  #choose(value: Value): void {
    const { round } = this.#state;
    assert(round.kind === "preparing" && this.hasQuorum, "a majority has promised");
    const bound = boundValue(round.promises);
    this.#state.round = { kind: "accepting", ballot: round.ballot, value: bound ?? value, accepted: [] };
    this.#ask();
  }

  #message(from: number, message: AgreementMessage<Value, Evidence>, evidence: Evidence): void {
    this.#state.highest = Math.max(this.#state.highest, message.ballot);
    switch (message.kind) {
      case "prepare":
        return this.#prepare(from, message.ballot, evidence);
      case "promise":
        return this.#promise(from, message);
      case "refused":
        this.#state.highest = Math.max(this.#state.highest, message.promised);
        return;
      case "accept":
        return this.#accept(from, message.ballot, message.value);
      case "accepted":
        return this.#countAccepted(from, message.ballot);
    }
    unreachable(message);
  }

  #prepare(from: number, ballot: Ballot, evidence: Evidence): void {
    const { promised, accepted } = this.#state;
    if (ballot < promised) return this.#send([from], { kind: "refused", ballot, promised });
    if (promised === 0) this.#out.push({ kind: "seal" });
    const isNew = ballot > promised;
    this.#state.promised = ballot;
    this.#answer(isNew, from, { kind: "promise", ballot, accepted, evidence });
  }

  #accept(from: number, ballot: Ballot, value: Value): void {
    const { promised, accepted } = this.#state;
    if (ballot < promised) return this.#send([from], { kind: "refused", ballot, promised });
    if (promised === 0) this.#out.push({ kind: "seal" });
    const isNew = accepted?.ballot !== ballot;
    this.#state.promised = ballot;
    if (isNew) this.#state.accepted = { ballot, value };
    this.#answer(isNew, from, { kind: "accepted", ballot });
  }

  /** Once it is durable; what was said before is durable already, or on its way there. */
  #answer(isNew: boolean, to: number, message: AgreementMessage<Value, Evidence>): void {
    if (!isNew && this.#state.persisted === this.#state.written) return this.#send([to], message);
    if (isNew || this.#hasFailed) {
      this.#state.written += 1;
      const { promised, accepted } = this.#state;
      this.#out.push({ kind: "persist", id: this.#state.written, vote: { promised, accepted } });
    }
    const { pending, written } = this.#state;
    // Questions are repeated while a disk is slow: one answer to each is enough.
    const isWaiting = pending.some((each) => each.to === to && isAlike(each.message, message));
    if (!isWaiting) this.#state.pending = [...pending, { id: written, to, message }];
  }

  /** The last write failed: while one is under way its answer waits. The disk may be sound again when the question is repeated. */
  get #hasFailed(): boolean {
    const { pending, persisted, written } = this.#state;
    return persisted < written && pending.every(({ id }) => id !== written);
  }

  #persisted(id: number): void {
    this.#state.persisted = Math.max(this.#state.persisted, id);
    const { pending } = this.#state;
    this.#state.pending = pending.filter((answer) => answer.id > id);
    for (const answer of pending) if (answer.id <= id) this.#send([answer.to], answer.message);
  }

  #promise(
    from: number,
    { ballot, accepted, evidence }: Extract<AgreementMessage<Value, Evidence>, { kind: "promise" }>,
  ): void {
    const { round } = this.#state;
    if (round.kind !== "preparing" || round.ballot !== ballot) return;
    if (round.promises.some(({ node }) => node === from)) return;
    this.#state.round = { ...round, promises: [...round.promises, { node: from, accepted, evidence }] };
    if (from === this.#init.self) this.#ask();
  }

  #countAccepted(from: number, ballot: Ballot): void {
    const { round } = this.#state;
    if (round.kind !== "accepting" || round.ballot !== ballot || round.accepted.includes(from)) return;
    const accepted = [...round.accepted, from];
    if (!this.#isMajority(accepted)) {
      this.#state.round = { ...round, accepted };
      return;
    }
    this.#state.round = { kind: "decided", value: round.value };
    this.#out.push({ kind: "decided", value: round.value });
  }

  #isMajority(nodes: readonly number[]): boolean {
    const { voters } = this.#init;
    return voters.filter((voter) => nodes.includes(voter)).length >= majorityOf(voters);
  }

  #send(to: readonly number[], message: AgreementMessage<Value, Evidence>): void {
    for (const node of to) this.#out.push({ kind: "send", to: node, message });
  }
}

type Told = Pick<AgreementMessage<never, never>, "kind" | "ballot">;
const isAlike = (a: Told, b: Told): boolean => a.kind === b.kind && a.ballot === b.ballot;

/** The value that may have been decided already: that of the highest accepted ballot. */
export function boundValue<Value, Evidence>(promises: readonly Promised<Value, Evidence>[]): Value | undefined {
  const accepted = promises.flatMap((promise) => promise.accepted ?? []);
  return accepted.toSorted((a, b) => b.ballot - a.ballot)[0]?.value;
}
