/** @file The view that a node proposes after an old one: a pure function of that view, of who answered with what evidence, and of what is wanted. */
import type { Candidate } from "./formation.ts";
import { restoreFrom, type Answer } from "./restore.ts";
import { mapWithout, type SegmentMap } from "./segment-map.ts";
import { memberOf, peersOf, votersOf, type Removal, type RingMember, type RingView, type StepLoss } from "./view.ts";

/** What members want of the next view beside going on without the dead. */
export interface Wishes {
  /** Who asks to be admitted; one a view is. It gets no layers in that view. */
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
  const restore = restoreFrom(old, answers);
  if (restore.kind === "wait") return restore;
  const able = answers
    .filter(({ node, evidence }) => evidence.bound !== null && memberOf(old, node) !== undefined)
    .map(({ node }) => node);
  const staying = able.filter((node) => !wishes.leavers.includes(node) && !wishes.stragglers.includes(node));
  // Who wants to go while nobody else holds anything stays.
  const survivors = new Set(staying.length > 0 ? staying : able);
  if (survivors.size === 0) return { kind: "wait", missing: [], reason: "no member that holds anything has answered" };
  const map = mapAfter(old, survivors, wishes);
  const kept = map.members.map((node) => memberOf(old, node)!);
  const joiner = wishes.joiners.find(({ peerId }) => kept.every((member) => member.peerId !== peerId));
  const members = joiner === undefined ? kept : [...kept, numbered(joiner, old)];
  const departed = peersOf(old).filter(({ peerId }) => members.every((member) => member.peerId !== peerId));
  const view: RingView = {
    view: old.view + 1,
    members,
    departed,
    voters: votersOf(nodesOf(members), nodesOf(departed), old.voters),
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

const nodesOf = (members: readonly RingMember[]): readonly number[] => members.map(({ node }) => node);

function causeOf(
  node: number,
  answers: readonly Answer[],
  { leavers, stragglers }: Wishes,
  dead: readonly number[],
): Removal["cause"] {
  if (leavers.includes(node)) return "left";
  if (stragglers.includes(node) && !dead.includes(node)) return "silent";
  // Who answers without its memory has been restarted.
  return dead.includes(node) || answers.some((answer) => answer.node === node) ? "closed" : "silent";
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
