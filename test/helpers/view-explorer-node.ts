/**
 * @file One voter for the explorer: the product's `Agreement` with what surrounds it in a process, as plain data. Every transition is a pure function
 * of (state, input), so that each is computed once however many global states it occurs in. A crash keeps what the disk has.
 */
import {
  Agreement,
  type AgreementMessage,
  type AgreementOutput,
  type AgreementState,
  type Vote,
} from "../../ring/core/agreement.ts";
import { nextView } from "../../ring/core/next-view.ts";
import type { Evidence } from "../../ring/core/restore.ts";
import { holdsLayers, isMember, ownedBy, peersOf, replicasAt, type RingView } from "../../ring/core/view.ts";
import { unreachable } from "../../src/types/assert.ts";
import { digestOf } from "./view-explorer-views.ts";

/** Numbers stand for views and evidence: see `Interner`. */
export type VoterMessage = AgreementMessage<number, number> | { readonly kind: "decided"; readonly value: number };

export interface Envelope {
  readonly from: number;
  readonly to: number;
  /** Number of the view that the message is about. */
  readonly view: number;
  readonly message: VoterMessage;
}

interface Write {
  readonly view: number;
  readonly id: number;
  readonly vote: Vote<number> | null;
}

/** Of each view that this node has been in; survives crashes, for the checks alone. */
export interface ViewHistory {
  /** Everything that it is to hold has been here. */
  readonly isInstalled: boolean;
  /** Unsealed, it told the others that it holds the version after the restored one. */
  readonly hasSaid: boolean;
  /** Its rounds. */
  readonly proposals: number;
  /** What it decided or was told; -1: nothing. */
  readonly decided: number;
}

export interface NodeState {
  readonly node: number;
  readonly view: number;
  readonly agreement: AgreementState<number, number>;
  readonly isSealed: boolean;
  readonly writes: readonly Write[];
  readonly durable: Omit<Write, "id">;
  readonly phase: "outside" | "installing" | "running";
  /** Of what it is to hold in its view. */
  readonly version: number;
  /** Versions by layer. */
  readonly held: readonly (readonly number[])[];
  readonly reported: number;
  readonly history: readonly ViewHistory[];
  readonly crashes: number;
  readonly failures: number;
}

export type NodeInput =
  | { readonly kind: "propose" | "choose" | "persisted" | "notPersisted" | "install" | "advance" | "say" | "report" }
  /** `isHeadDurable`: the disk had taken the oldest write, but nobody was told. */
  | { readonly kind: "restart"; readonly isHeadDurable: boolean }
  | { readonly kind: "deliver"; readonly envelope: Envelope };

export interface NodeStep {
  readonly state: NodeState;
  readonly sent: readonly Envelope[];
  readonly violation: string | undefined;
}

/** Equal values have one number. */
export class Interner<Value> {
  readonly values: Value[] = [];
  readonly #ids = new Map<string, number>();
  readonly #keyOf: (value: Value) => string;

  constructor(keyOf: (value: Value) => string = JSON.stringify) {
    this.#keyOf = keyOf;
  }

  idOf(value: Value): number {
    const key = this.#keyOf(value);
    let id = this.#ids.get(key);
    if (id === undefined) {
      id = this.values.push(value) - 1;
      this.#ids.set(key, id);
    }
    return id;
  }
}

export interface World {
  readonly views: Interner<RingView>;
  readonly evidences: Interner<Evidence>;
  /** Who may crash, and whose writes take time and may fail. At another node a slow disk is the same as slow messages. */
  readonly mortal: readonly number[];
  /** Rounds that a node may begin in one view. */
  readonly proposalsEach: number;
}

/** Above every ballot: of a node that begins no more rounds, the highest heard of is never read again. */
const BEYOND = 1_000_000;

export const viewOf = (world: World, id: number): RingView => world.views.values[id]!;

/** A member holds what it is to hold; one that has departed, what the view's sources say of it. */
export function freshNode(world: World, node: number, viewId: number, viewsMax: number): NodeState {
  const view = viewOf(world, viewId);
  const history = { isInstalled: false, hasSaid: false, proposals: 0, decided: -1 };
  const isIn = isMember(view, node);
  const due = dueAt(view, node);
  const isHeld = (layer: number): boolean =>
    due.includes(layer) || view.sources[layer]?.holders.includes(node) === true;
  return {
    ...{ node, view: viewId, agreement: newAgreement(world, viewId, node, null).state, isSealed: false, writes: [] },
    ...{ durable: { view: viewId, vote: null }, phase: isIn ? "running" : "outside", version: view.restoreStep },
    held: layersOf(view).map((layer) => (isHeld(layer) ? [view.restoreStep] : [])),
    history: Array.from({ length: viewsMax + 1 }, (_, index) => ({ ...history, isInstalled: isIn && index === 0 })),
    ...{ reported: 0, crashes: 0, failures: 0 },
  };
}

const layersOf = (view: RingView): readonly number[] =>
  Array.from({ length: view.cut.at(-1)![1] }, (_, layer) => layer);

function dueAt(view: RingView, node: number): readonly number[] {
  if (!holdsLayers(view, node)) return [];
  const ranges = [...ownedBy(view, node), ...replicasAt(view, node).map(({ layers }) => layers)];
  return layersOf(view).filter((layer) => ranges.some(([start, end]) => layer >= start && layer < end));
}

function newAgreement(
  world: World,
  viewId: number,
  node: number,
  vote: Vote<number> | null,
): Agreement<number, number> {
  const view = viewOf(world, viewId);
  return new Agreement({ self: node, voters: view.voters, peers: peersOf(view).map((peer) => peer.node), vote });
}

/** One transition under way. */
class Transition {
  readonly #world: World;
  readonly sent: Envelope[] = [];
  violation: string | undefined;
  state: NodeState;

  constructor(world: World, state: NodeState) {
    this.#world = world;
    this.state = state;
  }

  take(input: NodeInput): void {
    const { state } = this;
    switch (input.kind) {
      case "propose":
        this.#note({ proposals: this.history.proposals + 1 });
        return this.#agree((agreement) => agreement.handle({ kind: "propose" }));
      case "choose":
        return this.#agree((agreement) => this.#choose(agreement));
      case "persisted":
        return this.#persisted();
      case "notPersisted":
        return this.#notPersisted();
      case "restart":
        return this.#restart(input.isHeadDurable);
      case "install":
        this.#note({ isInstalled: true });
        this.state = { ...this.state, phase: "running", held: this.#heldWith([this.view.restoreStep]) };
        return;
      case "advance":
        this.state = { ...state, version: state.version + 1, held: this.#heldWith([state.version, state.version + 1]) };
        return;
      case "say":
        return this.#note({ hasSaid: true });
      case "report":
        this.state = { ...state, reported: this.view.restoreStep + 1 };
        return;
      case "deliver":
        return this.#deliver(input.envelope);
    }
    unreachable(input);
  }

  get view(): RingView {
    return viewOf(this.#world, this.state.view);
  }

  get #index(): number {
    return this.view.view - viewOf(this.#world, 0).view;
  }

  get history(): ViewHistory {
    return this.state.history[this.#index]!;
  }

  #note(changes: Partial<ViewHistory>): void {
    const history = this.state.history.with(this.#index, { ...this.history, ...changes });
    this.state = { ...this.state, history };
  }

  #heldWith(versions: readonly number[]): readonly (readonly number[])[] {
    const due = dueAt(this.view, this.state.node);
    return this.state.held.map((held, layer) => (due.includes(layer) ? versions : held));
  }

  /** As `Membership` and `Keeper` say it. */
  #evidence(): number {
    const { phase, version, held, reported } = this.state;
    const isWhole = phase === "running" && holdsLayers(this.view, this.state.node);
    const bound = phase === "outside" ? null : isWhole ? version : this.view.restoreStep;
    const copies = held.map((versions, layer) =>
      versions.map((each) => ({ version: each, digest: digestOf(layer, each) })),
    );
    return this.#world.evidences.idOf({ bound, committed: reported, losses: [], held: copies, severed: [] });
  }

  #agree(act: (agreement: Agreement<number, number>) => readonly AgreementOutput<number, number>[]): void {
    const { node, view, agreement: before } = this.state;
    const { voters } = this.view;
    const peers = peersOf(this.view).map((peer) => peer.node);
    const agreement = new Agreement({ self: node, voters, peers, vote: null }, { ...before });
    const outputs = act(agreement);
    this.state = { ...this.state, agreement: agreement.state };
    const { view: number } = this.view;
    const own: Envelope[] = [];
    for (const output of outputs) {
      if (output.kind === "send") {
        const envelope = { from: node, to: output.to, view: number, message: output.message };
        if (output.to === node) own.push(envelope);
        else this.#send(envelope);
      } else if (output.kind === "persist") this.#write({ view, id: output.id, vote: output.vote });
      else if (output.kind === "seal") this.state = { ...this.state, isSealed: true };
      else this.#decide(output.value);
    }
    // What it says to itself arrives at once, while its view is the same.
    for (const envelope of own) this.#deliver(envelope);
  }

  #send(envelope: Envelope): void {
    const { durable, view } = this.state;
    const { message } = envelope;
    const vote = durable.view === view ? durable.vote : null;
    const isTold = message.kind === "promise" || message.kind === "accepted";
    if (isTold && (vote?.promised ?? 0) < message.ballot)
      this.violation = `V9: ${message.kind} is told before it is durable`;
    if (message.kind === "accepted" && (vote?.accepted?.ballot ?? 0) < message.ballot)
      this.violation = "V9: accepted, not durable";
    this.sent.push(envelope);
  }

  #write(write: Write): void {
    this.state = { ...this.state, writes: [...this.state.writes, write] };
    if (!this.#world.mortal.includes(this.state.node)) this.#persisted();
  }

  #persisted(): void {
    const [{ view, id, vote }, writes] = [this.state.writes[0]!, this.state.writes.slice(1)];
    this.state = { ...this.state, durable: { view, vote }, writes };
    if (view === this.state.view) this.#agree((agreement) => agreement.handle({ kind: "persisted", id }));
  }

  #notPersisted(): void {
    const [{ view, id }, writes] = [this.state.writes[0]!, this.state.writes.slice(1)];
    this.state = { ...this.state, writes, failures: this.state.failures + 1 };
    if (view === this.state.view) this.#agree((agreement) => agreement.handle({ kind: "notPersisted", id }));
  }

  /** Memory is gone: it is outside, holds nothing, and votes as its disk says. */
  #restart(isHeadDurable: boolean): void {
    const { state } = this;
    const durable = isHeadDurable ? { view: state.writes[0]!.view, vote: state.writes[0]!.vote } : state.durable;
    const { view, vote } = durable;
    const agreement = newAgreement(this.#world, view, state.node, vote);
    this.state = {
      ...{ ...state, view, durable, agreement: agreement.state, isSealed: agreement.isSealed, writes: [] },
      ...{ phase: "outside", version: 0, held: state.held.map(() => []), crashes: state.crashes + 1 },
    };
  }

  #choose(agreement: Agreement<number, number>): readonly AgreementOutput<number, number>[] {
    const { round } = agreement.state;
    if (round.kind !== "preparing" || !agreement.hasQuorum) return [];
    const answers = round.promises.map(({ node, evidence }) => ({
      node,
      evidence: this.#world.evidences.values[evidence]!,
    }));
    if (round.promises.some(({ accepted }) => accepted !== null))
      return agreement.handle({ kind: "choose", value: -1 });
    const wishes = { joiners: [], leavers: [], stragglers: [], map: null };
    const proposal = nextView(this.view, answers, wishes, [], this.view.replicas);
    if (proposal.kind === "wait") return [];
    return agreement.handle({ kind: "choose", value: this.#world.views.idOf(proposal.view) });
  }

  #deliver({ from, view, message }: Envelope): void {
    if (message.kind === "decided") return this.#adopt(message.value);
    if (view !== this.view.view) return;
    // Only who promises is asked for evidence.
    const evidence = message.kind === "prepare" ? this.#evidence() : -1;
    this.#agree((agreement) => agreement.handle({ kind: "message", from, message, evidence }));
  }

  #decide(value: number): void {
    if (value < 0) {
      this.violation = "V1: a value that nobody proposed is decided";
      return;
    }
    const [told, { view }] = [peersOf(this.view), this.view];
    this.#adopt(value);
    for (const { node } of told) {
      if (node !== this.state.node)
        this.#send({ from: this.state.node, to: node, view, message: { kind: "decided", value } });
    }
  }

  #adopt(value: number): void {
    const next = viewOf(this.#world, value);
    const known = this.state.history[next.view - viewOf(this.#world, 0).view - 1]!.decided;
    if (known >= 0 && known !== value) this.violation = "V1: two values are decided";
    if (next.view !== this.view.view + 1) return;
    this.#note({ decided: value });
    const { state } = this;
    const sound = next.sources.length > 0;
    const isIn = isMember(next, state.node) && state.phase !== "outside";
    this.state = {
      ...{
        ...state,
        view: value,
        agreement: newAgreement(this.#world, value, state.node, null).state,
        isSealed: false,
      },
      ...{ phase: isIn ? "installing" : "outside", version: next.restoreStep },
      held: isIn
        ? state.held.map((versions) => versions.filter((version) => sound && version === next.restoreStep))
        : state.held,
    };
    this.#write({ view: value, id: 0, vote: null });
  }
}

export function stepNode(world: World, before: NodeState, input: NodeInput): NodeStep {
  const transition = new Transition(world, before);
  transition.take(input);
  const { sent, violation, state, history } = transition;
  const isDone = history.proposals >= world.proposalsEach;
  const agreement = isDone ? { ...state.agreement, highest: BEYOND } : state.agreement;
  return { state: { ...state, agreement }, sent, violation };
}

/**
 * Whether this message will never again change this node, which does not crash any more: views, promises and own ballots only grow.
 * @param sender as it is now
 */
export function isSpent(
  world: World,
  receiver: NodeState,
  { from, view, message }: Envelope,
  sender: NodeState,
): boolean {
  const now = viewOf(world, receiver.view).view;
  if (message.kind === "decided") return viewOf(world, message.value).view <= now;
  if (view !== now) return view < now;
  const { promised, round, highest } = receiver.agreement;
  if (highest < message.ballot) return false;
  switch (message.kind) {
    case "prepare":
    case "accept": {
      // The answer would be a refusal, of which the sender has nothing to learn.
      const isKnown = viewOf(world, sender.view).view > now || sender.agreement.highest >= promised;
      return message.ballot < promised && isKnown;
    }
    case "refused":
      return highest >= message.promised;
    // That a machine ignores answers to older ballots is not presumed.
    case "promise":
      if (round.kind === "preparing") return round.promises.some(({ node }) => node === from);
      return highest === BEYOND;
    case "accepted":
      if (round.kind === "accepting") return round.accepted.includes(from);
      return highest === BEYOND && round.kind !== "preparing";
  }
  return unreachable(message);
}
