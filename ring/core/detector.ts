/**
 * @file Failure detection at one node in one view: whom it suspects, and on what evidence. Suspicion is a hint for the view
 * change and is withdrawn when the peer is heard again. Memory is bounded by the members. After Hayashibara et al. 2004
 * (phi-accrual), Das et al. 2002 (SWIM: the indirect probe) and Dadgar et al. 2017 (Lifeguard: own lag). Invariants, checked after every
 * event in test/property/detector.test.ts:
 *
 * - D1 Only other members are suspected, probed or redialed; nobody is suspected for the same cause twice without `trust` between.
 * - D2 Hard: "closed" needs a stream that ended and a refused redial, which was ordered since this node last overslept.
 * - D3 Soft: "silent" needs a gap above max(600 ms, phi at 8) and own lag, and more of the asked that say dead than alive; where
 *   none answers, twice that gap.
 * - D4 A node that overslept suspects nobody as "silent" before it has heard fresh frames for a full suspicion time.
 * - D5 An accusation makes no suspicion: it asks for a probe of this node's own.
 * - D6 A suspected peer that is heard is trusted at once.
 * - D7 A peer has at most one redial and one round of `HELPERS_MAX` questions out, and no more than one round in `ANSWER_WAIT_MS`.
 * - D8 "severed" needs silence here as in D3, while `SEVERED_ROUNDS` rounds in a row found it alive elsewhere.
 */
import { assert, defined, unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { ArrivalIntervals } from "./phi.ts";

/** How often a node sends heartbeats to its neighbours and its r successors. */
export const HEARTBEAT_INTERVAL_MS = 100;
/** Ticks come at least this often; what takes longer is the lag of the node's own loop. */
export const TICK_INTERVAL_MS = 100;
export const SUSPICION_MS = 600;
export const OVERSLEPT_MS = 500;
/** A probing node waits so long for its target, and then lets its loop turn once: the answer may already be here. */
export const PROBE_WAIT_MS = 150;
/** Who asked others to probe waits so long for their answers. */
export const ANSWER_WAIT_MS = 250;
/** Between probes of a peer that others hear, that somebody accuses, or that is suspected and sends no heartbeats here. */
export const PROBE_REPEAT_MS = 500;
export const HELPERS_MAX = 3;
/** So often others must hear a peer that is silent here before the line to it counts as cut: once may be chance on a busy machine. */
export const SEVERED_ROUNDS = 2;
/**
 * Lag is remembered for fifty times as long as it lasted, and counts six times: whoever shares a busy machine stalls at other
 * moments, and the longest stall is rare. Less of either suspects live nodes on one machine at four times its load (simulated).
 */
export const LAG_FADE = 1 / 50;
export const LAG_WEIGHT = 6;
export const LAG_MS_MAX = 2_000;
/** For the first view of a node, which has measured nothing. */
export const LAG_MS_START = 100;

/** "closed" is hard evidence, "silent" is soft. "severed": it lives, and frames between it and this node get nowhere. */
export type SuspicionCause = "closed" | "silent" | "severed";

export interface DetectorInit {
  readonly node: number;
  /** Node numbers of the view, own one included, in ring order. */
  readonly members: readonly number[];
  /** Whose heartbeats this node gets: both neighbours and its r predecessors. */
  readonly watched: readonly number[];
  /** What the machine of the view before remembers, or `LAG_MS_START`. */
  readonly lagMs: number;
  readonly nowMs: number;
}

/** `nowMs` is a clock that never goes back. */
export type DetectorInput = { readonly nowMs: number } & (
  | { readonly kind: "tick" }
  /** Any control frame of the view counts, and only a frame. */
  | { readonly kind: "heard"; readonly node: number }
  /** A stream of its ended without GOODBYE. */
  | { readonly kind: "closed"; readonly node: number }
  /** Exactly one for each `redial`. "answered": the runtime goes on with the new connection. */
  | { readonly kind: "redialed"; readonly node: number; readonly outcome: "answered" | "refused" | "silent" }
  /** What a `probe` found. */
  | { readonly kind: "probed"; readonly node: number; readonly by: number; readonly alive: boolean }
  | { readonly kind: "accused"; readonly node: number; readonly by: number }
);

export type DetectorOutput =
  | { readonly kind: "redial"; readonly node: number }
  /** `by` probes `target` and says what it found; where `by` is this node, it probes itself. */
  | { readonly kind: "probe"; readonly target: number; readonly by: number }
  | {
      readonly kind: "suspect";
      readonly node: number;
      readonly cause: SuspicionCause;
      /** The last sign of life; the beginning of the view where there was none. */
      readonly lastHeardMs: number;
    }
  | { readonly kind: "trust"; readonly node: number }
  /** The node must validate its view with a majority before it sends data. */
  | { readonly kind: "overslept"; readonly sleptMs: number };

type Standing =
  | { readonly kind: "trusted"; readonly askAgainMs: number }
  /** What each of the asked said; undefined before it answers. */
  | { readonly kind: "asking"; readonly sinceMs: number; readonly answers: Map<number, boolean | undefined> }
  | { readonly kind: "suspected"; readonly cause: SuspicionCause };

interface Peer {
  readonly node: number;
  readonly isWatched: boolean;
  readonly intervals: ArrivalIntervals;
  /** Whether silence means anything: frames are expected of watched peers, and of one that was probed. */
  isExpected: boolean;
  standing: Standing;
  /** In which others heard it, since it was last heard here. */
  heardElsewhereRounds: number;
  lastHeardMs: number;
  /** As `lastHeardMs`, without the time in which this node slept. */
  silentSinceMs: number;
  /** Undefined where the next interval would say nothing. */
  lastArrivalMs: number | undefined;
  redialSinceMs: number | undefined;
  probeAgainMs: number;
}

const TRUSTED: Standing = { kind: "trusted", askAgainMs: -Infinity };

export class DetectorMachine implements Machine<DetectorInput, DetectorOutput> {
  readonly #node: number;
  readonly #peers: ReadonlyMap<number, Peer>;
  #lastInputMs: number;
  #lastTickMs: number;
  /** The longest stall of late: of the own loop, or between two frames of a live peer. */
  #lagMs: number;
  #wokeMs = -Infinity;
  /** The first frame since this node woke; undefined before it. */
  #freshSinceMs: number | undefined = -Infinity;

  constructor({ node, members, watched, lagMs, nowMs }: DetectorInit) {
    assert(members.includes(node), "the node is a member");
    assert(
      watched.every((other) => other !== node && members.includes(other)),
      "watched nodes are other members",
    );
    this.#node = node;
    this.#lagMs = lagMs;
    this.#lastInputMs = this.#lastTickMs = nowMs;
    const others = members.filter((member) => member !== node);
    this.#peers = new Map(others.map((other) => [other, newPeer(other, watched.includes(other), nowMs)]));
  }

  /** For the machine of the next view: a busy machine is still busy then. */
  get lagMs(): number {
    return this.#lagMs;
  }

  handle(input: DetectorInput): readonly DetectorOutput[] {
    return [...this.#advance(input.nowMs), ...this.#dispatch(input)];
  }

  #dispatch(input: DetectorInput): readonly DetectorOutput[] {
    switch (input.kind) {
      case "tick":
        return this.#tick(input.nowMs);
      case "heard":
        return this.#heard(this.#peer(input.node), input.nowMs);
      case "closed":
        return this.#closed(this.#peer(input.node), input.nowMs);
      case "redialed":
        return this.#redialed(this.#peer(input.node), input.outcome, input.nowMs);
      case "probed":
        return this.#probed(input.node, input.by, input.alive, input.nowMs);
      case "accused":
        return this.#accused(input.node, input.nowMs);
    }
    return unreachable(input);
  }

  #peer(node: number): Peer {
    return defined(this.#peers.get(node), `node ${node} is another member`);
  }

  /** A node that slept knows nothing of that time: nobody was silent in it, and it says nothing of the machine's load. */
  #advance(nowMs: number): readonly DetectorOutput[] {
    const sleptMs = nowMs - this.#lastInputMs;
    assert(sleptMs >= 0, "the clock does not go back");
    this.#lastInputMs = nowMs;
    if (sleptMs <= OVERSLEPT_MS) return [];
    this.#wokeMs = this.#lastTickMs = nowMs;
    this.#freshSinceMs = undefined;
    for (const peer of this.#peers.values()) {
      peer.silentSinceMs = nowMs;
      peer.lastArrivalMs = undefined;
      if (peer.standing.kind === "asking") peer.standing = TRUSTED;
    }
    return [{ kind: "overslept", sleptMs }];
  }

  #tick(nowMs: number): readonly DetectorOutput[] {
    this.#lagged(this.#ownLagMs(nowMs));
    this.#lagMs = Math.max(0, this.#lagMs - (nowMs - this.#lastTickMs) * LAG_FADE);
    this.#lastTickMs = nowMs;
    return [...this.#peers.values()].flatMap((peer) => this.#judge(peer, nowMs));
  }

  #ownLagMs(nowMs: number): number {
    return nowMs - this.#lastTickMs - TICK_INTERVAL_MS;
  }

  #lagged(lagMs: number): void {
    this.#lagMs = Math.min(LAG_MS_MAX, Math.max(this.#lagMs, lagMs));
  }

  #heard(peer: Peer, nowMs: number): readonly DetectorOutput[] {
    if (peer.lastArrivalMs !== undefined) {
      const intervalMs = nowMs - peer.lastArrivalMs;
      peer.intervals.add(intervalMs);
      if (peer.isWatched) this.#lagged(intervalMs - 2 * HEARTBEAT_INTERVAL_MS);
    }
    peer.lastArrivalMs = nowMs;
    return this.#lives(peer, nowMs);
  }

  #lives(peer: Peer, nowMs: number): readonly DetectorOutput[] {
    const { standing } = peer;
    peer.lastHeardMs = peer.silentSinceMs = nowMs;
    peer.isExpected = peer.isWatched;
    peer.standing = TRUSTED;
    peer.heardElsewhereRounds = 0;
    this.#freshSinceMs ??= nowMs;
    if (standing.kind !== "suspected") return [];
    const trust: DetectorOutput = { kind: "trust", node: peer.node };
    // 1. A peer dies. 2. Its stream is closed, the redial refused. 3. A frame that waited in a buffer is read: it proves nothing.
    return standing.cause === "closed" ? [trust, ...this.#closed(peer, nowMs)] : [trust];
  }

  #closed(peer: Peer, nowMs: number): readonly DetectorOutput[] {
    if (peer.redialSinceMs !== undefined) return [];
    if (peer.standing.kind === "suspected" && peer.standing.cause === "closed") return [];
    peer.redialSinceMs = nowMs;
    return [{ kind: "redial", node: peer.node }];
  }

  #redialed(peer: Peer, outcome: "answered" | "refused" | "silent", nowMs: number): readonly DetectorOutput[] {
    const sinceMs = peer.redialSinceMs;
    assert(sinceMs !== undefined, `a redial of node ${peer.node} is out`);
    peer.redialSinceMs = undefined;
    if (outcome === "answered") return [];
    if (outcome === "silent") {
      this.#expect(peer, nowMs);
      return [];
    }
    return sinceMs < this.#wokeMs ? this.#closed(peer, nowMs) : this.#suspect(peer, "closed");
  }

  /** Silence of a peer that sends no heartbeats here counts from the moment in which an answer is expected. */
  #expect(peer: Peer, nowMs: number): void {
    if (!peer.isExpected) peer.silentSinceMs = nowMs;
    peer.isExpected = true;
  }

  #accused(node: number, nowMs: number): readonly DetectorOutput[] {
    const peer = this.#peers.get(node);
    if (peer === undefined || peer.standing.kind === "suspected") return [];
    this.#expect(peer, nowMs);
    return this.#probe(peer, nowMs);
  }

  #probe(peer: Peer, nowMs: number): readonly DetectorOutput[] {
    if (nowMs < peer.probeAgainMs) return [];
    peer.probeAgainMs = nowMs + PROBE_REPEAT_MS;
    return [{ kind: "probe", target: peer.node, by: this.#node }];
  }

  #probed(node: number, by: number, alive: boolean, nowMs: number): readonly DetectorOutput[] {
    const peer = this.#peers.get(node);
    if (peer === undefined) return [];
    if (by === this.#node) return alive ? this.#lives(peer, nowMs) : [];
    const { standing } = peer;
    if (standing.kind !== "asking" || !standing.answers.has(by)) return [];
    standing.answers.set(by, alive);
    return this.#judge(peer, nowMs);
  }

  /** What the silence of one peer means now. A suspected one that sends no heartbeats here is heard only if it is probed. */
  #judge(peer: Peer, nowMs: number): readonly DetectorOutput[] {
    if (peer.standing.kind === "suspected") return peer.isWatched ? [] : this.#probe(peer, nowMs);
    if (!peer.isExpected) return [];
    const slackMs = LAG_WEIGHT * Math.max(this.#lagMs, this.#ownLagMs(nowMs));
    const limitMs = Math.max(SUSPICION_MS, peer.intervals.limitMs) + slackMs;
    const gapMs = nowMs - peer.silentSinceMs;
    if (gapMs <= limitMs || this.#isBlind(nowMs)) return [];
    if (peer.standing.kind === "trusted") {
      return nowMs < peer.standing.askAgainMs ? [] : this.#ask(peer, gapMs > 2 * limitMs, nowMs);
    }
    const { sinceMs, answers } = peer.standing;
    const said = [...answers.values()];
    const dead = said.filter((alive) => alive === false).length;
    const isOpen = said.includes(undefined) && dead <= said.length / 2;
    if (isOpen && nowMs - sinceMs <= ANSWER_WAIT_MS + slackMs) return [];
    if (said.every((alive) => alive === undefined)) return this.#ask(peer, gapMs > 2 * limitMs, nowMs);
    if (dead > said.filter((alive) => alive === true).length) return this.#suspect(peer, "silent");
    peer.standing = { kind: "trusted", askAgainMs: nowMs + PROBE_REPEAT_MS };
    peer.isExpected = peer.isWatched;
    peer.heardElsewhereRounds += 1;
    // Nothing that this node needs comes from a peer whose heartbeats do not come here.
    const isSevered = peer.isWatched && peer.heardElsewhereRounds >= SEVERED_ROUNDS;
    return isSevered ? this.#suspect(peer, "severed") : [];
  }

  /** Whether it overslept and has not seen enough since. */
  #isBlind(nowMs: number): boolean {
    return this.#freshSinceMs === undefined || nowMs - this.#freshSinceMs < SUSPICION_MS;
  }

  /** Those heard last are asked, since they will most probably answer. */
  #ask(peer: Peer, isLongSilent: boolean, nowMs: number): readonly DetectorOutput[] {
    const others = [...this.#peers.values()].filter((other) => other !== peer && other.standing.kind !== "suspected");
    const helpers = others.toSorted((a, b) => b.lastHeardMs - a.lastHeardMs).slice(0, HELPERS_MAX);
    const wasAsked = peer.standing.kind === "asking" || helpers.length === 0;
    if (wasAsked && isLongSilent) return this.#suspect(peer, "silent");
    if (helpers.length === 0) return [];
    peer.standing = { kind: "asking", sinceMs: nowMs, answers: new Map(helpers.map(({ node }) => [node, undefined])) };
    return helpers.map(({ node }) => ({ kind: "probe", target: peer.node, by: node }));
  }

  #suspect(peer: Peer, cause: SuspicionCause): readonly DetectorOutput[] {
    peer.standing = { kind: "suspected", cause };
    return [{ kind: "suspect", node: peer.node, cause, lastHeardMs: peer.lastHeardMs }];
  }
}

function newPeer(node: number, isWatched: boolean, nowMs: number): Peer {
  return {
    ...{ node, isWatched, intervals: new ArrivalIntervals(), isExpected: isWatched, standing: TRUSTED },
    ...{ heardElsewhereRounds: 0, lastHeardMs: nowMs, silentSinceMs: nowMs, lastArrivalMs: undefined },
    ...{ redialSinceMs: undefined, probeAgainMs: -Infinity },
  };
}
