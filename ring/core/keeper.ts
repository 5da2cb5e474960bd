/**
 * @file What one node keeps of the model's state through views: its own segments, the copies of its predecessors', and what it may claim of
 * them when a view ends. A view is installed in three parts: copies of all it holds of the restored version; its own layers, fetched where
 * they are missing; then, while training goes on, the copies that it is to follow. Nothing is committed before those are whole.
 */
import { assert, defined, unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { CommitMachine, type CommitInput } from "./commit.ts";
import { FetchMachine, type FetchOutput } from "./fetches.ts";
import { Holdings } from "./holdings.ts";
import type { KeeperInput, KeeperOutput, LoadedSegment } from "./keeper-messages.ts";
import type { LayerRange } from "./partition.ts";
import type { Claims } from "./restore.ts";
import { isMember, ownedBy, replicasAt, type HeldSegment, type RingView, type StepLoss } from "./view.ts";

type Of<Kind> = Extract<KeeperInput, { readonly kind: Kind }>;

/** Losses that are told as evidence: a member that is behind lacks no more. */
const LOSSES_MAX = 8;

type Phase =
  | { readonly kind: "empty" }
  | { readonly kind: "keeping" }
  /** Own layers are on their way. */
  | { readonly kind: "fetching"; readonly fetches: FetchMachine }
  | { readonly kind: "loading" }
  /** Own segments train; the copies may be on their way. */
  | { readonly kind: "installed"; readonly fetches: FetchMachine };

export class Keeper implements Machine<KeeperInput, KeeperOutput> {
  #node: number;
  readonly #holdings = new Holdings();
  readonly #losses = new Map<number, StepLoss>();
  /** Asked for in this view; another view may name the same ranges. */
  #filled = new Set<LayerRange>();
  #view: RingView | undefined;
  #isSealed = false;
  #own: readonly LayerRange[] = [];
  #copies: readonly HeldSegment[] = [];
  #phase: Phase = { kind: "empty" };
  #commit: CommitMachine | undefined;
  /** Of a spare, which takes no part in the commit. */
  #frontier = -1;
  /** The first step that was not told as committed. */
  #untold = 0;
  #reported: number;
  #out: KeeperOutput[] = [];

  /** @param reported the highest version that this node has told a user, as its disk has it */
  constructor(node: number, reported: number) {
    this.#node = node;
    this.#reported = reported;
  }

  /** For the end of a view. `bound`: as far as this node knows; null where it does not hold everything that it is to hold. */
  evidence(view: RingView): Claims {
    const due = [...this.#own, ...this.#copies.map(({ layers }) => layers)];
    const isCurrent = this.#view?.view === view.view;
    const newest = isCurrent && due.length > 0 ? this.#holdings.newestOf(due) : undefined;
    const losses = [...this.#losses.values()].slice(-LOSSES_MAX);
    const told = this.#commit?.bound ?? Infinity;
    return {
      // What a view was restored from may have been committed before it.
      bound: newest === undefined ? null : Math.max(Math.min(newest, told), view.restoreStep),
      committed: Math.max(this.#reported, this.frontier),
      losses,
      held: this.#holdings.held(view.cut.at(-1)![1]),
    };
  }

  /** Every copy in the ring has this version, as far as this node knows; the restored one less one before that. */
  get frontier(): number {
    return this.#commit?.frontier ?? this.#frontier;
  }

  /** Whether a gradient of this step may overwrite the last one from this owner. */
  mayReceive(owner: number, step: number): boolean {
    return !this.#isSealed && this.#copiesOf(owner).every((layers) => this.#holdings.mayUpdate(layers, step));
  }

  /** Whether everything that this node is to hold is here. */
  get isWhole(): boolean {
    return this.#phase.kind === "installed" && this.#phase.fetches.missing.length === 0;
  }

  describe() {
    return { phase: this.#phase.kind, frontier: this.frontier, commit: this.#commit?.describe() ?? null };
  }

  handle(input: KeeperInput): readonly KeeperOutput[] {
    this.#out = [];
    this.#take(input);
    return this.#out;
  }

  #take(input: KeeperInput): void {
    if (input.kind !== "install" && "view" in input && input.view !== this.#view?.view) return;
    switch (input.kind) {
      case "install":
        return this.#install(input.view, input.node);
      case "kept":
        return this.#kept(input.digests);
      case "fetched":
        return this.#fetched(input.layer, input.digest);
      case "fetchEnded":
        return this.#fetchEnded(input.from);
      case "loaded":
        return this.#loaded(input.segments);
      case "seal":
        this.#isSealed = true;
        return;
      case "updating":
        for (const layers of this.#own) this.#holdings.began(layers, input.step);
        return;
      case "updated":
        return this.#updated(input);
      case "gradient":
        return this.#gradient(input);
      case "followed":
        return this.#followed(input);
      case "applied":
      case "token":
        return this.#actOnCommit(this.#commit, input);
      case "loss":
        this.#keepLoss(input);
        return this.#tellCommitted();
      case "caughtUp":
        this.#untold = Math.max(this.#untold, input.step);
        return;
      case "frontier":
        return this.#hearFrontier(input.version);
      case "reported":
        this.#reported = Math.max(this.#reported, input.version);
        return;
    }
    unreachable(input);
  }

  #install(view: RingView, node = this.#node): void {
    this.#node = node;
    const isOrigin = view.sources.length === 0;
    const held = this.#holdings.held(view.cut.at(-1)![1]);
    const digests = new Map<number, string>();
    for (const [layer, { digest }] of view.sources.entries()) {
      if (held[layer]!.some((copy) => copy.version === view.restoreStep && copy.digest === digest))
        digests.set(layer, digest);
    }
    this.#view = view;
    this.#isSealed = false;
    this.#filled = new Set();
    const isIn = isMember(view, this.#node);
    this.#own = isIn ? ownedBy(view, this.#node) : [];
    this.#copies = isIn ? replicasAt(view, this.#node) : [];
    this.#commit = this.#own.length > 0 ? new CommitMachine(view, this.#node) : undefined;
    this.#frontier = view.restoreStep - 1;
    for (const loss of view.losses) this.#losses.set(loss.step, loss);
    for (const step of this.#losses.keys()) if (step >= view.restoreStep) this.#losses.delete(step);
    this.#holdings.keep(view.restoreStep, digests);
    this.#phase = { kind: "keeping" };
    const { restoreStep: version } = view;
    if (isOrigin) this.#load(true);
    else this.#out.push({ kind: "keep", view: view.view, version, layers: [...digests.keys()] });
  }

  /** Copies whose bytes are not what they were are none. */
  #kept(digests: ReadonlyMap<number, string>): void {
    if (this.#phase.kind !== "keeping") return;
    const { sources, restoreStep } = this.#viewNow;
    const sound = [...digests].filter(([layer, digest]) => sources[layer]?.digest === digest);
    this.#holdings.keep(restoreStep, new Map(sound));
    // Not a member: what it keeps, members may still fetch.
    if (!isMember(this.#viewNow, this.#node)) return;
    const fetches = this.#fetchesOf(this.#own);
    this.#phase = { kind: "fetching", fetches };
    this.#actOnFetches(fetches.handle({ kind: "begin" }));
  }

  get #viewNow(): RingView {
    return defined(this.#view, "a view");
  }

  /** Of the layers of these segments that are not here. */
  #fetchesOf(segments: readonly LayerRange[]): FetchMachine {
    const { sources, members } = this.#viewNow;
    const wanted = segments.flatMap(layersOf).filter((layer) => !this.#holdings.hasInVault(layer));
    const present = members.map(({ node }) => node);
    return new FetchMachine({ self: this.#node, wanted, sources, present });
  }

  get #fetches(): FetchMachine | undefined {
    return "fetches" in this.#phase ? this.#phase.fetches : undefined;
  }

  #fetched(layer: number, digest: string): void {
    const fetches = this.#fetches;
    if (fetches === undefined || this.#viewNow.sources[layer]?.digest !== digest) return;
    this.#holdings.add(layer, digest);
    this.#actOnFetches(fetches.handle({ kind: "arrived", layer }));
    this.#fill();
  }

  #fetchEnded(from: number): void {
    this.#actOnFetches(this.#fetches?.handle({ kind: "ended", from }) ?? []);
  }

  #actOnFetches(outputs: readonly FetchOutput[]): void {
    const { view, restoreStep: version } = this.#viewNow;
    for (const output of outputs) {
      switch (output.kind) {
        case "fetch":
          this.#out.push({ kind: "fetch", view, from: output.from, version, layers: output.layers });
          break;
        case "failed":
          this.#out.push({ kind: "unavailable", layers: output.layers });
          break;
        case "done":
          if (this.#phase.kind === "fetching") this.#load(false);
          break;
      }
    }
  }

  #load(isOrigin: boolean): void {
    const { view, restoreStep: version } = this.#viewNow;
    this.#phase = { kind: "loading" };
    this.#out.push({ kind: "load", view, version, isOrigin });
  }

  /** Own segments at first; then copies, one or more at a time. */
  #loaded(segments: readonly LoadedSegment[]): void {
    const { view, restoreStep: version } = this.#viewNow;
    for (const { layers, digests } of segments) this.#holdings.hold(layers, { version, digests });
    if (this.#phase.kind === "loading") {
      const copies = this.#copies.map(({ layers }) => layers);
      // From the origin everything is here at once.
      const isWhole = this.#holdings.newestOf(copies) !== undefined;
      const fetches = this.#fetchesOf(isWhole ? [] : copies);
      this.#phase = { kind: "installed", fetches };
      this.#out.push({ kind: "installed", view });
      this.#tellOwn(version);
      if (!isWhole) this.#actOnFetches(fetches.handle({ kind: "begin" }));
    }
    this.#fill();
    this.#tellWhole(segments);
  }

  /** Copies of which all layers are here are filled, each once. */
  #fill(): void {
    if (this.#phase.kind !== "installed") return;
    const { view, restoreStep: version } = this.#viewNow;
    for (const { layers } of this.#copies) {
      const isHere = layersOf(layers).every((layer) => this.#holdings.hasInVault(layer));
      if (!isHere || this.#filled.has(layers) || this.#holdings.newestOf([layers]) !== undefined) continue;
      this.#filled.add(layers);
      this.#out.push({ kind: "fill", view, version, layers });
    }
  }

  /** An owner is told when all copies of its segments are here. */
  #tellWhole(loaded: readonly LoadedSegment[]): void {
    const owners = new Set(
      this.#copies.filter(({ layers }) => loaded.some((each) => isSame(each.layers, layers))).map(({ owner }) => owner),
    );
    for (const owner of owners) this.#tellApplied(owner);
  }

  #tellApplied(owner: number): void {
    const layers = this.#copiesOf(owner);
    const version = this.#holdings.newestOf(layers);
    if (version === undefined) return;
    if (this.#isSealed) return;
    this.#out.push({ kind: "sendApplied", to: owner, version, digests: this.#digestsOf(layers, version) });
  }

  #tellOwn(version: number): void {
    this.#actOnCommit(this.#commit, { kind: "own", version, digests: this.#digestsOf(this.#own, version) });
  }

  #digestsOf(segments: readonly LayerRange[], version: number): readonly string[] {
    const held = this.#holdings.held(this.#viewNow.cut.at(-1)![1]);
    return segments.flatMap(layersOf).map((layer) => held[layer]!.find((copy) => copy.version === version)!.digest);
  }

  #copiesOf(owner: number): readonly LayerRange[] {
    return this.#copies.filter((copy) => copy.owner === owner).map(({ layers }) => layers);
  }

  #updated({ step, segments }: Of<"updated">): void {
    const version = step + 1;
    for (const { layers, digests } of segments) this.#holdings.ended(layers, { version, digests });
    this.#tellOwn(version);
  }

  /** The same update as the owner's, exactly once: what the copy has done already, or cannot do yet, it does not. */
  #gradient({ owner, step, loss }: Of<"gradient">): void {
    if (this.#isSealed) return;
    const copies = this.#copiesOf(owner);
    if (copies.length === 0 || !copies.every((layers) => this.#holdings.mayUpdate(layers, step))) {
      this.#out.push({ kind: "violation", reason: `a gradient of step ${step} from node ${owner} is not due` });
      return;
    }
    if (!Number.isNaN(loss)) this.#keepLoss({ step, loss });
    for (const layers of copies) this.#holdings.began(layers, step);
    this.#out.push({ kind: "apply", owner, step });
  }

  #followed({ owner, step, segments }: Of<"followed">): void {
    for (const { layers, digests } of segments) this.#holdings.ended(layers, { version: step + 1, digests });
    this.#tellApplied(owner);
  }

  #keepLoss({ step, loss }: StepLoss): void {
    this.#losses.set(step, { step, loss });
    for (const known of this.#losses.keys()) if (this.#losses.size > LOSSES_MAX) this.#losses.delete(known);
  }

  /** A spare: the owners that it follows told it the losses with their gradients. */
  #hearFrontier(version: number): void {
    if (this.#isSealed || version <= this.#frontier) return;
    this.#reach(version);
  }

  /** Steps before the frontier, in order; also those of an earlier view, whose frontier this node never heard of. */
  #tellCommitted(): void {
    for (; !this.#isSealed && this.#untold < this.frontier; this.#untold += 1) {
      const loss = this.#losses.get(this.#untold);
      if (loss === undefined) return;
      this.#out.push({ kind: "committed", ...loss });
    }
  }

  #reach(version: number): void {
    this.#frontier = version;
    this.#out.push({ kind: "frontier", version });
    this.#tellCommitted();
    if (this.#holdings.vaultVersion !== undefined && version > this.#holdings.vaultVersion) {
      this.#holdings.dropVault();
      this.#out.push({ kind: "drop" });
    }
  }

  /** A sealed view goes no further, whatever ends in it. */
  #actOnCommit(commit: CommitMachine | undefined, input: CommitInput): void {
    if (this.#isSealed) return;
    for (const output of commit?.handle(input) ?? []) {
      if (output.kind === "frontier") this.#reach(output.version);
      else this.#out.push(output);
    }
  }
}

function layersOf([start, end]: LayerRange): readonly number[] {
  assert(end > start, "a range is not empty");
  return Array.from({ length: end - start }, (_, index) => start + index);
}

const isSame = (a: LayerRange, b: LayerRange): boolean => a[0] === b[0] && a[1] === b[1];
