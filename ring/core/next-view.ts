/** @file The view that a node proposes after an old one: a pure function of that view, of who answered with what evidence, and of what is wanted. */
import type { Candidate } from "./formation.ts";
import { restoreFrom, type Answer } from "./restore.ts";
import { mapWithout, type SegmentMap } from "./segment-map.ts";
import {
  layersHeldBy,
  memberOf,
  peersOf,
  votersOf,
  type Removal,
  type RingMember,
  type RingView,
  type StepLoss,
} from "./view.ts";

/** What members want of the next view beside going on without the dead. */
export interface Wishes {
  /** Who asks to be admitted, and is heard by all; one a view is. It gets no layers in that view. */
  readonly joiners: readonly Candidate[];
  /** Members that go in order: what they hold may still be fetched from them. */
  readonly leavers: readonly number[];
  /** Members whose install stands still: the last view could not begin for want of them. */
  readonly stragglers: readonly number[];
  /** Layers are to lie so; only where the members stay as they are. */
  readonly map: Pick<SegmentMap, "owners" | "cut"> | null;
}

/** Losses of so many steps before the restored one travel with a view: a member lacks no more, since it holds one of two versions. */
const LOSSES = 4;

export type Proposal =
  | { readonly kind: "view"; readonly view: RingView }
  /** More must answer first; see `Restore`. */
  | { readonly kind: "wait"; readonly missing: readonly number[]; readonly reason: string };

/**
 * @param answers of peers that have sealed `old`; who answers without a bound has lost its memory, and joins anew
 * @param dead of whom there is hard evidence
 * @param replicas as the job wants them; a small ring has fewer
 */
export function nextView(
  old: RingView,
  answers: readonly Answer[],
  wishes: Wishes,
  dead: readonly number[],
  replicas: number,
): Proposal {
  const restore = restoreFrom(old, answers, dead);
  if (restore.kind === "wait") return restore;
  const holding = answers.filter(({ node, evidence }) => evidence.bound !== null && memberOf(old, node) !== undefined);
  const able = withoutCutLines(nodesOf(old.members), holding);
  const staying = able.filter((node) => !wishes.leavers.includes(node) && !wishes.stragglers.includes(node));
  // Who wants to go while nobody else holds anything stays.
  const survivors = new Set(staying.length > 0 ? staying : able);
  if (survivors.size === 0) {
    const reason = "no member that holds anything has answered";
    return { kind: "wait", missing: layersHeldBy(old, nodesOf(old.members)), reason };
  }
  const map = mapAfter(old, survivors, wishes);
  const kept = map.members.map((node) => memberOf(old, node)!);
  const joiner = wishes.joiners.find(({ peerId }) => kept.every((member) => member.peerId !== peerId));
  const members = joiner === undefined ? kept : [...kept, numbered(joiner, old)];
  const departed = peersOf(old).filter(({ peerId }) => members.every((member) => member.peerId !== peerId));
  const view: RingView = {
    view: old.view + 1,
    members,
    departed,
    voters: votersOf(nodesOf(members), nodesOf(departed), answeredFirst(old.voters, answers)),
    owners: map.owners,
    cut: map.cut,
    replicas: Math.min(replicas, members.length - 1),
    restoreStep: restore.step,
    sources: restore.sources,
    losses: lossesBefore(restore.step, answers),
    removed: old.members
      .filter(({ peerId, boot }) => !members.some((member) => member.peerId === peerId && member.boot === boot))
      .map(({ node }) => ({ node, cause: causeOf(node, answers, wishes, dead) })),
  };
  return { kind: "view", view };
}

/**
 * Those of who answered that hear each other: of each cut line one end must go, since neither tensors nor copies pass it. First goes who has the
 * most cut lines, of equals the last on the ring.
 */
function withoutCutLines(ring: readonly number[], answers: readonly Answer[]): readonly number[] {
  const staying = new Set(ring.filter((node) => answers.some((answer) => answer.node === node)));
  const cut = answers.flatMap(({ node, evidence }) => evidence.severed.map((other) => [node, other] as const));
  for (;;) {
    const open = cut.filter((ends) => ends.every((node) => staying.has(node)));
    const endsAt = (node: number): number => new Set(open.filter((ends) => ends.includes(node)).flat()).size;
    const worst = [...staying].reduce((most, node) => (endsAt(node) >= endsAt(most) ? node : most), ring[0]!);
    if (endsAt(worst) === 0) return [...staying];
    staying.delete(worst);
  }
}

const nodesOf = (members: readonly RingMember[]): readonly number[] => members.map(({ node }) => node);

/**
 * Who fills in must be there. 1. One member is left, and two have departed: one is dead, the other has answered. 2. A joiner is admitted, and
 * dies as it is. 3. If the dead one were the third voter, nothing could be decided any more, though two that voted live.
 */
function answeredFirst(voters: readonly number[], answers: readonly Answer[]): readonly number[] {
  const isHere = (node: number): boolean => answers.some((answer) => answer.node === node);
  return [...voters.filter(isHere), ...voters.filter((node) => !isHere(node))];
}

function causeOf(
  node: number,
  answers: readonly Answer[],
  { leavers }: Wishes,
  dead: readonly number[],
): Removal["cause"] {
  if (leavers.includes(node)) return "left";
  const isRestarted = answers.some((answer) => answer.node === node && answer.evidence.bound === null);
  return dead.includes(node) || isRestarted ? "closed" : "silent";
}

function lossesBefore(step: number, answers: readonly Answer[]): readonly StepLoss[] {
  const known = new Map(answers.flatMap(({ evidence }) => evidence.losses.map((loss) => [loss.step, loss] as const)));
  const steps = Array.from({ length: Math.min(LOSSES, step) }, (_, index) => step - Math.min(LOSSES, step) + index);
  return steps.flatMap((each) => known.get(each) ?? []);
}

function mapAfter(old: RingView, survivors: ReadonlySet<number>, { map }: Wishes): SegmentMap {
  const members = nodesOf(old.members);
  const isWhole = survivors.size === members.length;
  if (map !== null && isWhole) return { members, owners: map.owners, cut: map.cut };
  return mapWithout({ members, owners: old.owners, cut: old.cut }, survivors);
}

/** A peer that comes back has its number again. */
function numbered(candidate: Candidate, old: RingView): RingMember {
  const peers = peersOf(old);
  const known = peers.find(({ peerId }) => peerId === candidate.peerId);
  return { ...candidate, node: known?.node ?? 1 + Math.max(...nodesOf(peers)) };
}
