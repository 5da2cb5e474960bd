/**
 * @file A decided view: who is in the ring, who votes on the next one, which layers are where, and the step that it begins with. All else
 * (stages, neighbours, replicas) every node computes from it. Versions count steps: version `v` of a layer is its state before step `v`.
 */
import type { Candidate } from "./formation.ts";
import type { LayerRange } from "./partition.ts";

/** One process of one peer. A wiped disk is another incarnation, a restarted process another boot. */
export interface RingMember extends Candidate {
  /** Place in the join order: stable over views and restarts. */
  readonly node: number;
}

export interface RingView {
  readonly view: number;
  /** In ring order, which need not be the order of the nodes' numbers. */
  readonly members: readonly RingMember[];
  /** Who was in an earlier view and is in none now; they may come back, and may still hold state. */
  readonly departed: readonly RingMember[];
  /** Nodes that decide the next view. Where fewer than three are members, departed ones fill in. */
  readonly voters: readonly number[];
  /** The members that hold layers, in ring order; the others are spares. */
  readonly owners: readonly number[];
  /** One range a stage: stage `s` lies on `owners[s mod owners]`. */
  readonly cut: readonly LayerRange[];
  /** Successors that hold a copy of each owner's layers. */
  readonly replicas: number;
  /** The view begins with this step, from versions of this number. */
  readonly restoreStep: number;
  /** Where those versions are: holders by layer. Empty in a ring that starts from the seed or from files. */
  readonly sources: readonly LayerSource[];
  /** Of the steps just before `restoreStep`: who computed them may be gone. */
  readonly losses: readonly StepLoss[];
  /** Who was in the view before and is not in this one. */
  readonly removed: readonly Removal[];
}

export interface StepLoss {
  readonly step: number;
  readonly loss: number;
}

export interface Removal {
  readonly node: number;
  /** Its streams were closed and nothing listens any more; it did not answer; it went in order. */
  readonly cause: "closed" | "silent" | "left";
}

export interface LayerSource {
  readonly holders: readonly number[];
  /** Of the layer's state, 32 hexadecimal digits. */
  readonly digest: string;
}

/** A copy of a segment: the owner's, or a replica on one of its successors. */
export interface HeldSegment {
  readonly owner: number;
  readonly layers: LayerRange;
}

export const VOTERS_MIN = 3;
/** Up to so many members all vote; beyond, `VOTERS_OF_MANY` spread round the ring. */
const VOTERS_ALL_MAX = 16;
const VOTERS_OF_MANY = 7;

export const majorityOf = (voters: readonly number[]): number => Math.floor(voters.length / 2) + 1;

export function memberOf(view: RingView, node: number): RingMember | undefined {
  return view.members.find((member) => member.node === node);
}

export const isMember = (view: RingView, node: number): boolean => memberOf(view, node) !== undefined;

/** Everybody that the view knows. */
export const peersOf = (view: RingView): readonly RingMember[] => [...view.members, ...view.departed];

/** The segments that a node owns, one a lap. */
export function ownedBy({ owners, cut }: RingView, node: number): readonly LayerRange[] {
  const place = owners.indexOf(node);
  return place < 0 ? [] : cut.filter((_, stage) => stage % owners.length === place);
}

/** The nodes that keep a copy of what `owner` holds: its successors on the ring. */
export function replicaHolders({ members, replicas }: RingView, owner: number): readonly number[] {
  const place = members.findIndex(({ node }) => node === owner);
  return Array.from({ length: replicas }, (_, index) => members[(place + 1 + index) % members.length]!.node);
}

/** The copies that a node keeps: of its predecessors' segments, the nearest first. */
export function replicasAt(view: RingView, node: number): readonly HeldSegment[] {
  const { members, replicas } = view;
  const place = members.findIndex((member) => member.node === node);
  const owners = Array.from(
    { length: replicas },
    (_, index) => members[(place - 1 - index + members.length) % members.length]!.node,
  );
  return owners.flatMap((owner) => ownedBy(view, owner).map((layers) => ({ owner, layers })));
}

/** Whether a commit waits for this node: it owns layers or keeps a copy. Of an idle spare nothing waits. */
export const holdsLayers = (view: RingView, node: number): boolean =>
  isMember(view, node) && ownedBy(view, node).length + replicasAt(view, node).length > 0;

/** Layers of which only these nodes have a copy, once the view has committed something. */
export function layersHeldBy(view: RingView, nodes: readonly number[]): readonly number[] {
  const { owners, cut } = view;
  return cut.flatMap(([start, end], stage) => {
    const owner = owners[stage % owners.length]!;
    const isOnly = [owner, ...replicaHolders(view, owner)].every((node) => nodes.includes(node));
    return isOnly ? Array.from({ length: end - start }, (_, index) => start + index) : [];
  });
}

/** Who votes on the view after one with these members. Former voters fill in up to three, so that one node alone never decides. */
export function votersOf(
  members: readonly number[],
  departed: readonly number[],
  formerVoters: readonly number[],
): readonly number[] {
  const many = Array.from(
    { length: VOTERS_OF_MANY },
    (_, index) => members[Math.floor((index * members.length) / VOTERS_OF_MANY)]!,
  );
  const voters = members.length <= VOTERS_ALL_MAX ? [...members] : many;
  for (const former of formerVoters) {
    if (voters.length < VOTERS_MIN && !voters.includes(former) && departed.includes(former)) voters.push(former);
  }
  return voters;
}

/** Of each machine's members the lowest writes its files. */
export function isWriter({ members }: RingView, peerId: string): boolean {
  const me = members.find((member) => member.peerId === peerId);
  return me !== undefined && members.every(({ machine, node }) => machine !== me.machine || node >= me.node);
}

/** At the run's end also one outside the ring writes, where no member does it for its machine. */
export function isLastWriter(view: RingView, { peerId, machine }: Candidate): boolean {
  return isWriter(view, peerId) || view.members.every((member) => member.machine !== machine);
}

/** Nobody came or went: layers have moved. */
export function isMove(before: RingView, after: RingView): boolean {
  const nodesOf = ({ members }: RingView): string => String(members.map(({ node }) => node));
  return nodesOf(before) === nodesOf(after) && String(before.cut) !== String(after.cut);
}
