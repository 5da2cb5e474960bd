/**
 * @file Invariants V1 to V12, L2 and L3 of ring/README.md over everything that happens in a simulated ring. It follows outputs, disks and memories
 * by its own books, shares no code with the machines, and throws at the first broken rule.
 */
import type { MembershipMessage } from "../../ring/core/membership-messages.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import type { RingView } from "../../ring/core/view.ts";
import { digestOf, layersOf, type Reference } from "./recovery-simulation-model.ts";
import type { SimulatedPeer } from "./recovery-simulation-peer.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";
import { InvariantBroken } from "./stage-checker.ts";

interface Books {
  /** Views that this process may say nothing of any more. */
  sealedView: number;
  nextCommitted: number;
  nextTold: number | undefined;
  hasBeenAway: boolean;
  frontier: number;
}

function check(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new InvariantBroken(rule);
}

const successors = ({ members, replicas }: RingView, owner: number): readonly number[] => {
  const nodes = members.map(({ node }) => node);
  const place = nodes.indexOf(owner);
  return [...nodes, ...nodes].slice(place + 1, place + 1 + replicas);
};

export class RecoveryChecker {
  readonly #reference: Reference;
  readonly #books = new WeakMap<RecoveryProcess, Books>();
  /** By number: the view that a majority has accepted, as text. */
  readonly #chosen = new Map<number, string>();
  readonly #votes = new Map<string, Set<number>>();
  /** By view: the pairs of owner and holder that have come to a version. */
  readonly #holders = new Map<number, Map<string, number>>();
  readonly #installed = new Map<number, Set<number>>();
  readonly #told = new Map<number, number>();
  #newest: RingView;
  /** Some copy was damaged on purpose: claims may differ from the reference until it is noticed. */
  isDamaged = false;
  /** The highest version committed anywhere. */
  committedVersion = 0;
  toldVersion = 0;

  constructor(reference: Reference, first: RingView) {
    this.#reference = reference;
    this.#newest = first;
    this.#chosen.set(first.view, JSON.stringify(first));
  }

  get newest(): RingView {
    return this.#newest;
  }

  #of(process: RecoveryProcess): Books {
    let books = this.#books.get(process);
    if (books === undefined) {
      const { isOutside } = process;
      books = {
        ...{ sealedView: -1, nextCommitted: 0 },
        ...{ nextTold: undefined, hasBeenAway: isOutside, frontier: -1 },
      };
      this.#books.set(process, books);
    }
    return books;
  }

  /** A record came to a disk: where that makes a majority, a view is chosen. */
  durable(peer: SimulatedPeer): void {
    const { view, vote } = peer.disk.votes!;
    if (vote === null || vote.accepted === null) return;
    const node = [...view.members, ...view.departed].find(({ peerId }) => peerId === peer.peerId)?.node;
    if (node === undefined || !view.voters.includes(node)) return;
    const key = `${view.view}:${vote.accepted.ballot}`;
    const voters = this.#votes.get(key) ?? new Set();
    this.#votes.set(key, voters.add(node));
    if (voters.size > view.voters.length / 2) this.#choose(vote.accepted.value, view);
  }

  #choose(view: RingView, old: RingView): void {
    const text = JSON.stringify(view);
    const known = this.#chosen.get(view.view);
    check(known === undefined || known === text, `V1: two views ${view.view} were decided`);
    if (known !== undefined) return;
    check(view.view === this.#newest.view + 1, `V1: view ${view.view} was decided after view ${this.#newest.view}`);
    this.#chosen.set(view.view, text);
    check(
      view.restoreStep >= this.committedVersion && view.restoreStep >= this.toldVersion,
      `V3: view ${view.view} restores ${view.restoreStep}, below ${Math.max(this.committedVersion, this.toldVersion)}`,
    );
    for (const [layer, { digest }] of view.sources.entries()) {
      const sound = digestOf(this.#reference.value(layer, view.restoreStep));
      check(digest === sound, `V2: view ${view.view} restores layer ${layer} from damaged copies`);
    }
    for (const { step, loss } of view.losses) check(loss === this.#reference.loss(step), `V5: loss of step ${step}`);
    this.#wellFormed(view, old);
    this.#newest = view;
  }

  #wellFormed(view: RingView, old: RingView): void {
    const nodes = view.members.map(({ node }) => node);
    const known = [...nodes, ...view.departed.map(({ node }) => node)];
    const { voters, owners, cut } = view;
    check(voters.length >= Math.min(3, old.voters.length), `V12: view ${view.view} has ${voters.length} voters`);
    check(
      voters.every((node) => known.includes(node)),
      `V12: a voter of view ${view.view} is nobody's number`,
    );
    check(new Set(known).size === known.length, `V12: a number twice in view ${view.view}`);
    check(new Set(voters).size === voters.length, `V12: a voter twice in view ${view.view}`);
    check(
      owners.every((node) => nodes.includes(node)),
      `V12: an owner of view ${view.view} is no member`,
    );
    check(new Set(owners).size === owners.length, `V12: an owner twice in view ${view.view}`);
    check(owners.length > 0 && cut.length % owners.length === 0, `V12: a lap of view ${view.view} is not whole`);
    const covered = cut.flatMap(layersOf);
    check(covered.length === old.cut.at(-1)![1] && covered.every((layer, index) => layer === index), "V12: layers");
    check(
      cut.every(([start, end]) => end > start),
      "V12: an empty stage",
    );
    check(view.replicas < nodes.length, "V12: more replicas than successors");
  }

  /** A process goes to a view. */
  decided(process: RecoveryProcess, view: RingView): void {
    check(this.#chosen.get(view.view) === JSON.stringify(view), `V1: view ${view.view} was told, but not decided`);
    const books = this.#of(process);
    books.sealedView = Math.max(books.sealedView, view.view - 1);
    if (process.isOutside) books.hasBeenAway = true;
  }

  /** A process is a member of a view from now on. */
  entered(process: RecoveryProcess, view: RingView): void {
    const books = this.#of(process);
    books.frontier = view.restoreStep - 1;
    // Who was away, or an idle spare, goes on with the oldest step that the view knows of: others have told those before.
    const known = view.losses[0]?.step ?? view.restoreStep;
    if (known > books.nextCommitted) {
      books.nextCommitted = known;
      books.hasBeenAway = true;
    }
  }

  /** A vote of this view is on its way to the disk: from now on the view is over here. */
  promised(process: RecoveryProcess, view: number): void {
    this.#of(process).sealedView = Math.max(this.#of(process).sealedView, view);
  }

  said(process: RecoveryProcess, view: number, message: MembershipMessage): void {
    const durable = process.peer.disk.votes;
    const vote = durable?.view.view === view ? durable.vote : null;
    if (message.kind === "promise") {
      check(vote !== null && vote.promised >= message.ballot, `V9: a promise of view ${view} is not durable`);
      const accepted = vote.accepted?.ballot ?? 0;
      const isBefore = accepted < message.ballot;
      check(!isBefore || (message.accepted?.ballot ?? 0) >= accepted, "V9: a promise names less than was accepted");
    }
    if (message.kind === "accepted") {
      check(vote?.accepted != null && vote.accepted.ballot >= message.ballot, "V9: an acceptance is not durable");
    }
    if (message.kind === "ready") check(this.#of(process).sealedView < view, `V8: READY of the sealed view ${view}`);
    if (message.kind === "ready") check(this.#isInstalled(process, view), `V10: READY of view ${view}, not installed`);
  }

  #isInstalled(process: RecoveryProcess, view: number): boolean {
    return this.#installed.get(view)?.has(process.node) === true;
  }

  sent(process: RecoveryProcess, view: number): void {
    check(this.#of(process).sealedView < view, `V8: a frame of the sealed view ${view} is sent`);
  }

  handled(process: RecoveryProcess, view: number): void {
    check(this.#of(process).sealedView < view, `V8: a frame of the sealed view ${view} is handled`);
    check(process.view.view === view, `V8: a frame of view ${view} is handled in view ${process.view.view}`);
  }

  /** Segments that a node has come to a version of. */
  holds(process: RecoveryProcess, view: RingView, segments: readonly LayerRange[], version: number): void {
    const holders = this.#holders.get(view.view) ?? new Map<string, number>();
    this.#holders.set(view.view, holders);
    for (const layers of segments) {
      const values = process.memory.current(layers);
      check(values?.version === version, `V6: a copy is at version ${values?.version}, not ${version}`);
      if (this.isDamaged) continue;
      for (const [index, value] of values.values.entries()) {
        const layer = layers[0] + index;
        check(
          value === this.#reference.value(layer, version),
          `V2: layer ${layer} at ${version} is not the reference's`,
        );
      }
    }
    for (const [start] of segments) holders.set(`${process.node}:${start}`, version);
  }

  installed(process: RecoveryProcess, view: RingView): void {
    for (const [stage, layers] of view.cut.entries()) {
      if (view.owners[stage % view.owners.length] !== process.node) continue;
      const version = process.memory.current(layers)?.version;
      check(version === view.restoreStep, `V10: stage ${stage} is not at ${view.restoreStep} where it is installed`);
    }
    this.#installed.set(view.view, (this.#installed.get(view.view) ?? new Set()).add(process.node));
  }

  started(process: RecoveryProcess, view: RingView): void {
    check(this.#of(process).sealedView < view.view, `V8: the sealed view ${view.view} begins`);
    const ready = this.#installed.get(view.view);
    check(
      view.members.every(({ node }) => ready?.has(node) === true),
      `V10: view ${view.view} begins, but not all are ready`,
    );
  }

  /** What a process claims is there, and is the reference's. */
  claims(process: RecoveryProcess): void {
    if (process.keeper === undefined) return;
    for (const [layer, versions] of process.keeper.evidence(process.view).held.entries()) {
      for (const { version, digest } of versions) {
        if (!this.isDamaged) {
          check(
            digest === digestOf(this.#reference.value(layer, version)),
            `V2: layer ${layer} at ${version} is claimed`,
          );
        }
        const isHere = process.memory.read(layer, version) !== undefined;
        check(isHere, `V2: layer ${layer} at ${version} is claimed, but not held`);
      }
    }
  }

  /** Every copy has this version, a process says. */
  frontier(process: RecoveryProcess, version: number): void {
    const { view } = process;
    const books = this.#of(process);
    check(books.sealedView < view.view, `V8: a commit in the sealed view ${view.view}`);
    const isOwner = view.owners.includes(process.node);
    check(
      isOwner ? version === books.frontier + 1 : version > books.frontier,
      `V5: from ${books.frontier} to ${version}`,
    );
    books.frontier = version;
    if (this.#newest.view > view.view) {
      check(version <= this.#newest.restoreStep, `V4: version ${version} is committed in the old view ${view.view}`);
    }
    const holders = this.#holders.get(view.view);
    for (const [stage, [start]] of view.cut.entries()) {
      const owner = view.owners[stage % view.owners.length]!;
      for (const node of [owner, ...successors(view, owner)]) {
        const held = holders?.get(`${node}:${start}`) ?? -1;
        check(held >= version, `V7: version ${version} is committed, but node ${node} lacks stage ${stage}`);
      }
    }
    this.committedVersion = Math.max(this.committedVersion, version);
  }

  committed(process: RecoveryProcess, step: number, loss: number): void {
    const books = this.#of(process);
    check(books.sealedView < process.view.view, "V8: a step of a sealed view is committed");
    check(step === books.nextCommitted, `V5: step ${step} is committed, not ${books.nextCommitted}`);
    books.nextCommitted = step + 1;
    check(step < this.committedVersion, `V5: the loss of step ${step} is told before its commit`);
    check(loss === this.#reference.loss(step), `V5: another loss of step ${step}`);
  }

  told(process: RecoveryProcess, { step, loss }: { readonly step: number; readonly loss: number }): void {
    const books = this.#of(process);
    check(step < this.committedVersion, `V3: step ${step} is told before its commit`);
    const due = books.nextTold ?? step;
    check(books.hasBeenAway ? step >= due : step === due, `V5: step ${step} is told, not ${due}`);
    check(process.peer.disk.reported > step, `V9: step ${step} is told before that is durable`);
    check(loss === this.#reference.loss(step), `V5: another loss of step ${step} is told`);
    books.nextTold = step + 1;
    this.#told.set(step, loss);
    this.toldVersion = Math.max(this.toldVersion, step + 1);
  }

  /** Nobody will come back to the vault, a process says. */
  dropping(process: RecoveryProcess): void {
    const version = process.memory.vault?.version ?? -1;
    check(
      version < this.committedVersion,
      `V11: copies of ${version} are dropped, but ${this.committedVersion} is the newest committed`,
    );
  }

  violation(process: RecoveryProcess, reason: string): void {
    throw new InvariantBroken(`node ${process.node} blames an honest peer: ${reason}`);
  }

  /** At the end: the whole curve was told by somebody. */
  curveIsWhole(): void {
    for (let step = 0; step < this.toldVersion; step += 1) check(this.#told.has(step), `V5: nobody told step ${step}`);
  }
}
