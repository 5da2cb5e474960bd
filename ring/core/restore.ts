/**
 * @file From which step a new view begins: the restore-evidence rule. It is a version of which every layer has a copy among those who answered,
 * and it is taken only where nothing later can have been committed or told to a user, by the evidence of those who answered.
 * "The highest version a majority holds" would lose committed steps.
 */
import { holdsLayers, isMember, peersOf, type LayerSource, type RingView, type StepLoss } from "./view.ts";

/** A version of a layer at one node. */
export interface HeldVersion {
  readonly version: number;
  /** 32 hexadecimal digits. */
  readonly digest: string;
}

/** What a node that has sealed a view knows of it. */
export interface Evidence {
  /**
   * The highest version that can be committed in the view, as far as this node knows: a commit needs all members, so never more than it holds
   * whole itself, nor more than its replicas have told. Null where it is no member, or has lost its memory, and so bounds nothing.
   */
  readonly bound: number | null;
  /** The highest version that it knows to be committed, or has told to a user. */
  readonly committed: number;
  /** Of the newest steps that it knows of, committed or not. */
  readonly losses: readonly StepLoss[];
  /** By layer of the model, what it holds. */
  readonly held: readonly (readonly HeldVersion[])[];
  /** Members that live, as others say, and from which nothing gets here. */
  readonly severed: readonly number[];
}

/** As far as what is kept tells. */
export type Claims = Omit<Evidence, "severed">;

export interface Answer {
  readonly node: number;
  readonly evidence: Evidence;
}

export type Restore =
  /** Without sources: the version comes from the seed or from files, as at the view's own begin. */
  | { readonly kind: "restore"; readonly step: number; readonly sources: readonly LayerSource[] }
  /** More must answer first. `missing`: layers of which nobody who answered has a copy that may be used, or none of which that is known. */
  | { readonly kind: "wait"; readonly missing: readonly number[]; readonly reason: string };

/**
 * @param answers of different nodes, each sealed in `view`
 * @param dead of whom there is hard evidence: nobody will fetch from them
 */
export function restoreFrom(view: RingView, answers: readonly Answer[], dead: readonly number[]): Restore {
  const layers = view.cut.at(-1)![1];
  const copies = Array.from({ length: layers }, (_, layer) => copiesOf(layer, answers));
  // Idle spares bound nothing: the others commit without them.
  const bounds = answers.flatMap(({ node, evidence }) => (holdsLayers(view, node) ? (evidence.bound ?? []) : []));
  const isBounded =
    bounds.length > 0 || view.members.every(({ node }) => answers.some((answer) => answer.node === node));
  if (!isBounded) {
    const reason = "nobody who answered took part: all members are needed";
    return { kind: "wait", missing: [...copies.keys()], reason };
  }
  const known = answers.map(({ evidence }) => evidence.committed);
  const least = Math.max(
    0,
    ...known,
    ...(bounds.length > 0 ? [Math.min(...bounds, firstDisputed(view, answers) - 1)] : []),
  );
  const absent = peersOf(view)
    .map(({ node }) => node)
    .filter((node) => !dead.includes(node) && answers.every((answer) => answer.node !== node));
  const best = safest(view, copies, least, absent);
  // The origin is never lost: what only some have done since must not take its place.
  const isOriginSafer = best === undefined || best.copies < layers * (view.replicas + 1);
  if (view.sources.length === 0 && view.restoreStep >= least && isOriginSafer) {
    return { kind: "restore", step: view.restoreStep, sources: [] };
  }
  if (best !== undefined) {
    return { kind: "restore", step: best.version, sources: copies.map((copy) => copy.get(best.version)!) };
  }
  const missing = copies.flatMap((copy, layer) =>
    [...copy.keys()].some((version) => version >= least) ? [] : [layer],
  );
  return { kind: "wait", missing, reason: `no copy at step ${least} of layers ${missing.join(", ") || "in common"}` };
}

/** Of each version its holders. Copies that differ are no copies: one of them is damaged, and nobody knows which. */
function copiesOf(layer: number, answers: readonly Answer[]): Map<number, LayerSource> {
  const copies = new Map<number, LayerSource>();
  const disputed = new Set<number>();
  for (const { node, evidence } of answers) {
    for (const { version, digest } of evidence.held[layer] ?? []) {
      const known = copies.get(version);
      if (known !== undefined && known.digest !== digest) disputed.add(version);
      copies.set(version, { digest, holders: [...(known?.holders ?? []), node] });
    }
  }
  for (const version of disputed) copies.delete(version);
  return copies;
}

/**
 * The first version of which members hold copies that differ: it was never committed, whoever holds it whole. 1. A bit flips in one replica's
 * copy of `v`. 2. Everybody updates; two replicas differ at `v + 1`, and their owner, which never lets that be committed, dies. 3. All others
 * answer that they hold `v + 1` whole, and nothing at or above that can be restored: `v` must do.
 */
function firstDisputed(view: RingView, answers: readonly Answer[]): number {
  const digests = new Map<string, string>();
  let first = Infinity;
  for (const { node, evidence } of answers) {
    if (evidence.bound === null || !holdsLayers(view, node)) continue;
    for (const [layer, copies] of evidence.held.entries()) {
      for (const { version, digest } of copies) {
        const known = digests.get(`${layer} ${version}`);
        if (known !== undefined && known !== digest) first = Math.min(first, version);
        digests.set(`${layer} ${version}`, digest);
      }
    }
  }
  return first;
}

/**
 * The version, of those that every layer has, with the most copies, and of equals the newest. 1. A replica has done the update to `v + 1`, its
 * owner has not begun, nobody has committed it. 2. The view changes; the newest version that all layers have is `v + 1`, and all members drop
 * `v`, of which every layer had `replicas` + 1 copies. 3. The replica dies, and with it the only copy.
 *
 * Of equals that want copies the oldest, where somebody has not answered who may be alive: he holds what was committed, and no more is sure.
 * 1. A replica is cut off, and its owner updates to `v + 1`. 2. The others restore `v + 1`, of which the owner has the only copy; when the replica
 * hears of it, it drops `v`. 3. The owner dies before anybody has fetched what it holds, and no layer of a committed version is left.
 */
function safest(
  view: RingView,
  copies: readonly ReadonlyMap<number, LayerSource>[],
  least: number,
  absent: readonly number[],
): { readonly version: number; readonly copies: number } | undefined {
  const enough = view.replicas + 1;
  const count = (version: number): number =>
    copies.reduce((sum, copy) => sum + Math.min(copy.get(version)!.holders.length, enough), 0);
  const [newest, ...others] = [...(copies[0]?.keys() ?? [])]
    .filter((version) => version >= least && copies.every((copy) => copy.has(version)))
    .map((version) => ({ version, copies: count(version) }))
    .toSorted((a, b) => b.copies - a.copies || b.version - a.version);
  if (newest === undefined || newest.copies === copies.length * enough) return newest;
  // Who has left the ring keeps what the view was restored from.
  const mayHold = (version: number): boolean =>
    absent.some((node) => holdsLayers(view, node) || (!isMember(view, node) && version === view.restoreStep));
  return others.findLast((other) => other.copies === newest.copies && mayHold(other.version)) ?? newest;
}
