/** @file Memberships by hand: messages arrive at once, disks never fail, and installs end at once. */
import type { Candidate } from "../../ring/core/formation.ts";
import { Membership } from "../../ring/core/membership.ts";
import type {
  MembershipInit,
  MembershipInput,
  MembershipMessage,
  MembershipOutput,
} from "../../ring/core/membership-messages.ts";
import type { Claims } from "../../ring/core/restore.ts";
import { ownedBy, replicasAt, type RingView } from "../../ring/core/view.ts";
import { digestOf, madeCandidate, madeView } from "./view-explorer-views.ts";

export const TICK_MS = 50;

/** Everything that a view gives a node, at version 2 in view 1 and at the restored one later. */
export function holdingsOf(view: RingView, node: number): Claims {
  const version = view.view === 1 ? 2 : view.restoreStep;
  const ranges = [...ownedBy(view, node), ...replicasAt(view, node).map(({ layers }) => layers)];
  const isHeld = (layer: number): boolean => ranges.some(([start, end]) => layer >= start && layer < end);
  const held = Array.from({ length: view.cut.at(-1)![1] }, (_, layer) =>
    isHeld(layer) ? [{ version, digest: digestOf(layer, version) }] : [],
  );
  return { bound: version, committed: 0, losses: [], held };
}

/** Of a process that came back without its memory, in the view in which it went. */
export const afterRestart = (view: RingView): Claims =>
  view.view === 1 ? { bound: null, committed: 0, losses: [], held: [[], [], []] } : holdingsOf(view, 2);

export class Ring {
  readonly nodes = new Map<number, Membership>();
  readonly cut = new Set<number>();
  /** Pairs of nodes between which nothing passes. */
  readonly cutLines: (readonly [number, number])[] = [];
  readonly out = new Map<number, MembershipOutput[]>();
  #queue: { readonly from: number; readonly to: number; readonly view: number; readonly message: MembershipMessage }[] =
    [];
  #nowMs = 0;

  constructor(size: number) {
    for (let node = 0; node < size; node += 1) this.add(node, madeCandidate(node), {});
    for (let node = 0; node < size; node += 1) this.give(node, { kind: "installed", view: 1 });
  }

  add(node: number, self: Candidate, changes: Partial<MembershipInit>): Membership {
    const view = changes.view ?? madeView(3);
    const holdings = (of: RingView): Claims => holdingsOf(of, node);
    const made = new Membership({ self, node, view, vote: null, isMember: true, replicas: 1, holdings, ...changes });
    this.nodes.set(node, made);
    this.out.set(node, []);
    return made;
  }

  give(node: number, input: MembershipInput): void {
    this.#apply(node, input);
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      const { from, to, view, message } = next;
      if (this.cut.has(from) || this.cut.has(to) || !this.nodes.has(to)) continue;
      if (from !== to && this.cutLines.some((line) => line.includes(from) && line.includes(to))) continue;
      this.#apply(to, { kind: "message", from, view, message, nowMs: this.#nowMs });
    }
  }

  #apply(node: number, input: MembershipInput): void {
    for (const output of this.nodes.get(node)!.handle(input)) {
      this.out.get(node)!.push(output);
      if (output.kind === "send") this.#queue.push({ from: node, ...output });
      else if (output.kind === "persist")
        this.#apply(node, { kind: "persisted", view: output.view.view, id: output.id });
      else if (output.kind === "install") this.#apply(node, { kind: "installed", view: output.view.view });
    }
  }

  pass(timeMs: number): void {
    for (const endMs = this.#nowMs + timeMs; this.#nowMs < endMs;) {
      this.#nowMs += TICK_MS;
      for (const node of this.nodes.keys())
        if (!this.cut.has(node)) this.give(node, { kind: "tick", nowMs: this.#nowMs });
    }
  }

  suspect(suspected: readonly number[], dead: readonly number[] = []): void {
    for (const node of this.nodes.keys())
      if (!this.cut.has(node)) this.give(node, { kind: "suspicions", suspected, dead, severed: [] });
  }

  settle(): void {
    for (const [node, { view }] of this.nodes) this.give(node, { kind: "settled", view: view.view });
  }

  members(node: number): readonly number[] {
    return this.nodes.get(node)!.view.members.map((member) => member.node);
  }

  kinds(node: number): readonly string[] {
    return this.out.get(node)!.map(({ kind }) => kind);
  }
}
