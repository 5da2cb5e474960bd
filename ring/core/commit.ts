/**
 * @file When a step is committed: its new version is with every owner and every replica. An owner's replicas tell it what they hold; the owners
 * tell each other by a token that goes round the ring twice for each version: on its first lap it waits at each owner until that one and its
 * replicas hold the version, on the second it says that all do. The owner of the model's begin starts it; it decides nothing.
 */
import { unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { replicaHolders, type RingView } from "./view.ts";

export type CommitInput =
  /** This node's own segments stand at `version`. Digests of all its layers. */
  | { readonly kind: "own"; readonly version: number; readonly digests: readonly string[] }
  /** A replica says what it holds of this node's layers. */
  | { readonly kind: "applied"; readonly from: number; readonly version: number; readonly digests: readonly string[] }
  /** From the predecessor among the owners. */
  | { readonly kind: "token"; readonly version: number; readonly count: number };

export type CommitOutput =
  | { readonly kind: "sendToken"; readonly version: number; readonly count: number }
  /** Every owner and every replica holds `version`. */
  | { readonly kind: "frontier"; readonly version: number }
  /** Two copies of one version differ: one of them is damaged. */
  | { readonly kind: "mismatch"; readonly with: number; readonly version: number }
  | { readonly kind: "violation"; readonly reason: string };

/** One owner's, in one view. */
export class CommitMachine implements Machine<CommitInput, CommitOutput> {
  readonly #owners: number;
  readonly #place: number;
  readonly #applied: Map<number, number>;
  /** Of the versions that not every replica has told yet: at most two. */
  readonly #digests = new Map<number, string>();
  readonly #told = new Map<number, readonly { readonly from: number; readonly digest: string }[]>();
  #own: number;
  #frontier: number;
  /** The newest version whose token was sent on its first lap. */
  #sent: number;
  /** A token of the first lap that waits for this owner. */
  #waiting: { readonly version: number; readonly count: number } | undefined;
  #out: CommitOutput[] = [];

  constructor(view: RingView, node: number) {
    this.#owners = view.owners.length;
    this.#place = view.owners.indexOf(node);
    this.#applied = new Map(replicaHolders(view, node).map((holder) => [holder, -1]));
    // A replica may have filled its copy before this owner has loaded its own layers.
    this.#own = this.#frontier = this.#sent = view.restoreStep - 1;
  }

  get frontier(): number {
    return this.#frontier;
  }

  /**
   * The highest version that anybody can have committed: the token of it has passed this owner on its first lap; where the second lap begins,
   * it has come back.
   */
  get bound(): number {
    return this.#place === 0 ? this.#frontier : this.#sent;
  }

  /** Of whom this owner waits for: itself and its replicas, and the token. For people. */
  describe() {
    const next = this.#frontier + 1;
    const replicas = [...this.#applied].filter(([, version]) => version < next).map(([node]) => node);
    return { frontier: this.#frontier, replicas };
  }

  handle(input: CommitInput): readonly CommitOutput[] {
    this.#out = [];
    switch (input.kind) {
      case "own":
        this.#own = input.version;
        this.#digests.set(input.version, input.digests.join());
        for (const { from, digest } of this.#told.get(input.version) ?? []) this.#compare(from, input.version, digest);
        this.#told.delete(input.version);
        break;
      case "applied":
        this.#hearApplied(input.from, input.version, input.digests.join());
        break;
      case "token":
        this.#hearToken(input.version, input.count);
        break;
      default:
        unreachable(input);
    }
    this.#advance();
    return this.#out;
  }

  #hearApplied(from: number, version: number, digest: string): void {
    const before = this.#applied.get(from);
    if (before === undefined || version > this.#own + 1) {
      this.#out.push({ kind: "violation", reason: `node ${from} cannot hold version ${version} of these layers` });
      return;
    }
    if (version <= before) return;
    if (version > this.#own) this.#told.set(version, [...(this.#told.get(version) ?? []), { from, digest }]);
    else this.#compare(from, version, digest);
  }

  /** A copy that differs is none. */
  #compare(from: number, version: number, digest: string): void {
    if (this.#digests.get(version) === digest) this.#applied.set(from, version);
    else this.#out.push({ kind: "mismatch", with: from, version });
  }

  /** This owner and all its replicas. */
  #holds(version: number): boolean {
    return this.#own >= version && [...this.#applied.values()].every((applied) => applied >= version);
  }

  #hearToken(version: number, count: number): void {
    const isSecondLap = count >= this.#owners;
    const due = this.#place === 0 ? this.#owners : isSecondLap ? this.#owners + this.#place : this.#place;
    if (count !== due || version !== this.#frontier + 1 || (isSecondLap && version > this.#sent)) {
      this.#out.push({ kind: "violation", reason: `a token of version ${version}, count ${count} is not due` });
      return;
    }
    if (isSecondLap) this.#reach(version, count);
    else this.#waiting = { version, count };
  }

  #reach(version: number, count: number): void {
    this.#frontier = version;
    this.#out.push({ kind: "frontier", version });
    if (count < 2 * this.#owners - 1) this.#out.push({ kind: "sendToken", version, count: count + 1 });
    for (const known of this.#digests.keys()) if (known < version) this.#digests.delete(known);
  }

  #advance(): void {
    const next = this.#frontier + 1;
    if (this.#place === 0 && this.#sent < next && this.#holds(next)) {
      this.#sent = next;
      if (this.#owners === 1) this.#reach(next, 1);
      else this.#out.push({ kind: "sendToken", version: next, count: 1 });
    }
    const waiting = this.#waiting;
    if (waiting !== undefined && this.#holds(waiting.version)) {
      this.#waiting = undefined;
      this.#sent = waiting.version;
      this.#out.push({ kind: "sendToken", version: waiting.version, count: waiting.count + 1 });
    }
  }
}
