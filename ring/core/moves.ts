/**
 * @file Layers that change their node: who sends, relays and receives what over the ring's edges, and the machine that does
 * it at one node between two steps. Everything follows from the old and the new ranges, so nobody directs it. A layer
 * moves with all its state; a node may hold both what it has not sent yet and what has come, bounded by the plan.
 */
import { assert, unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { LayerRange } from "./partition.ts";

export interface Move {
  readonly layer: number;
  /** Nodes, not equal. */
  readonly from: number;
  readonly to: number;
}

/** At two nodes both are the same peer over two edges: the edge counts. */
export type Neighbour = "predecessor" | "successor";

export interface Outgoing {
  readonly layer: number;
  readonly to: Neighbour;
  /** It comes from the other neighbour first. */
  readonly isRelay: boolean;
}

export interface Incoming {
  readonly layer: number;
  readonly from: Neighbour;
  readonly isRelay: boolean;
  /** It stays here: the opposite of `isRelay`. */
  readonly isMine: boolean;
}

export interface Transfers {
  /** The node's own layers first, then what it relays; each in ascending layer order. */
  readonly outgoing: readonly Outgoing[];
  /** In ascending layer order; they arrive in any. */
  readonly incoming: readonly Incoming[];
}

/** In ascending layer order. Ranges: one a stage, stage `s` on node `s mod nodes`; both cover the same layers. */
export function movesBetween(before: readonly LayerRange[], after: readonly LayerRange[], nodes: number): Move[] {
  const from = nodeOfLayers(before, nodes);
  const to = nodeOfLayers(after, nodes);
  assert(from.length === to.length, "both cuts are of the same layers");
  return from.flatMap((node, layer) => (node === to[layer] ? [] : [{ layer, from: node, to: to[layer]! }]));
}

function nodeOfLayers(ranges: readonly LayerRange[], nodes: number): readonly number[] {
  const holders: number[] = [];
  for (const [stage, [start, end]] of ranges.entries()) {
    assert(start === holders.length && end > start, "ranges follow each other and are not empty");
    while (holders.length < end) holders.push(stage % nodes);
  }
  return holders;
}

/**
 * Edges that a move crosses, and the way. Never over the closure edge: the plan itself travels from node 0 on, so a node that
 * receives a layer from either side has heard of the plan before.
 */
export function routeOf({ from, to }: Move): { readonly hops: number; readonly way: Neighbour } {
  return { hops: Math.abs(to - from), way: to > from ? "successor" : "predecessor" };
}

/** What the moves mean for one node. */
export function transfersAt(moves: readonly Move[], node: number): Transfers {
  const own: Outgoing[] = [];
  const relayed: Outgoing[] = [];
  const incoming: Incoming[] = [];
  for (const move of moves) {
    const { layer } = move;
    const { hops, way } = routeOf(move);
    const distance = way === "successor" ? node - move.from : move.from - node;
    if (distance < 0 || distance > hops) continue;
    const isMine = distance === hops;
    const isRelay = distance > 0 && !isMine;
    if (!isMine) (isRelay ? relayed : own).push({ layer, to: way, isRelay });
    if (distance > 0) incoming.push({ layer, from: opposite(way), isRelay, isMine });
  }
  return { outgoing: [...own, ...relayed], incoming };
}

const opposite = (neighbour: Neighbour): Neighbour => (neighbour === "successor" ? "predecessor" : "successor");

export type MigrationInput =
  /** This node's step is over: its layers may leave. Once. */
  | { readonly kind: "begin" }
  /** A layer with its state is here, whole. */
  | { readonly kind: "received"; readonly layer: number; readonly from: Neighbour };

export type MigrationOutput =
  | { readonly kind: "send"; readonly layer: number; readonly to: Neighbour }
  /** All that leaves has been given to `send`, all that comes is here: the next step may begin. Once. */
  | { readonly kind: "done" }
  /** A neighbour sent what the plan does not say; nothing has changed. */
  | { readonly kind: "violation"; readonly from: Neighbour; readonly reason: string };

/** One node's part of one plan. What comes before `begin` is kept: a neighbour may be a step's end ahead. */
export class MigrationMachine implements Machine<MigrationInput, MigrationOutput> {
  readonly #transfers: Transfers;
  readonly #awaited: Map<number, Incoming>;
  /** Relays that came before `begin`, in order of arrival. */
  readonly #kept: Incoming[] = [];
  #hasBegun = false;

  constructor(transfers: Transfers) {
    this.#transfers = transfers;
    this.#awaited = new Map(transfers.incoming.map((incoming) => [incoming.layer, incoming]));
  }

  handle(input: MigrationInput): readonly MigrationOutput[] {
    switch (input.kind) {
      case "begin":
        return this.#begin();
      case "received":
        return this.#received(input.layer, input.from);
    }
    return unreachable(input);
  }

  #begin(): readonly MigrationOutput[] {
    assert(!this.#hasBegun, "a migration begins once");
    this.#hasBegun = true;
    const own = this.#transfers.outgoing.filter(({ isRelay }) => !isRelay);
    const sends = own.map(({ layer, to }): MigrationOutput => ({ kind: "send", layer, to }));
    return [...sends, ...this.#kept.splice(0).map(relay), ...this.#doneIfWhole()];
  }

  #received(layer: number, from: Neighbour): readonly MigrationOutput[] {
    const expected = this.#awaited.get(layer);
    if (expected?.from !== from) {
      return [{ kind: "violation", from, reason: `layer ${layer} is not awaited from the ${from}` }];
    }
    this.#awaited.delete(layer);
    if (!this.#hasBegun) {
      if (expected.isRelay) this.#kept.push(expected);
      return [];
    }
    return [...(expected.isRelay ? [relay(expected)] : []), ...this.#doneIfWhole()];
  }

  #doneIfWhole(): readonly MigrationOutput[] {
    return this.#awaited.size === 0 ? [{ kind: "done" }] : [];
  }
}

const relay = ({ layer, from }: Incoming): MigrationOutput => ({ kind: "send", layer, to: opposite(from) });
