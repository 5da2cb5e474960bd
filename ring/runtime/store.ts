/**
 * @file The bytes of a node's layers through views, as its keeper asks: copies of what it holds, layers that others send, the compute thread that
 * trains on them. What touches the memory of the compute thread is done one after the other; an answer that comes late is the keeper's to drop.
 */
import type { Settings } from "../../src/config/settings.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import { within } from "../../src/net/wait.ts";
import { blockDigest } from "../../src/nn/block-digest.ts";
import type { LayerBlock } from "../../src/nn/blocks.ts";
import type { HeldLayout, SegmentInit } from "../../src/nn/layout.ts";
import { ComputeChannel } from "../../src/runtime/compute-channel.ts";
import type { OperationTimes } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { StateDigest } from "../../src/nn/held-state.ts";
import { defined } from "../../src/types/assert.ts";
import { InterruptedError } from "../../src/types/errors.ts";
import type { KeeperInput, LoadedSegment } from "../core/keeper-messages.ts";
import type { LayerRange } from "../core/partition.ts";
import { replicasAt, type RingView } from "../core/view.ts";
import { replicaOf } from "./segments.ts";

/** A replica's update is done in slices between the node's own operations, so that it never waits for idle time. */
const SLICE_ELEMENTS = 128 * 1024;
const SLICES_MAX = 16;
/** After the first commit of a view. */
const PREPARE_MS = 1_000;
/** Who asks for copies may have heard of the view before this node: it waits so long for them. */
const COPIES_LIMIT_MS = 5_000;

export interface StoreInit {
  readonly node: () => number;
  readonly settings: Settings;
  readonly engine: EngineKind;
  readonly pace: number | null;
  /** What this node computes in a view; none where it is a spare. */
  readonly segments: (view: RingView) => readonly SegmentInit[];
  /** Shards to begin with where the run goes on from files. */
  readonly files: readonly string[];
  /** A slice of a copy's update was done. */
  readonly worked: (step: number, times: OperationTimes) => void;
  readonly tell: (input: KeeperInput) => void;
  readonly failed: (error: unknown) => void;
}

export class Store {
  readonly #init: StoreInit;
  #compute: ComputeThread | undefined;
  /** Booted ahead: the next view's thread starts at once. */
  #channel: ComputeChannel | undefined;
  #view: RingView | undefined;
  readonly #copies = new Map<number, Uint8Array>();
  #copiesVersion = -1;
  readonly #waiting = new Set<() => void>();
  /** Of the thread that starts: nobody else would end it. */
  #starting: ComputeChannel | undefined;
  #timer: NodeJS.Timeout | undefined;
  #tail = Promise.resolve();
  #isOver = false;

  constructor(init: StoreInit) {
    this.#init = init;
  }

  /** The thread of the view that is installed. */
  get compute(): ComputeThread {
    return defined(this.#compute, "a view is installed");
  }

  /** The copies that follow `owner`, and the places of their gradients. */
  replicasOf(owner: number): readonly HeldLayout[] {
    const view = defined(this.#view, "a view is installed");
    const ranges = replicasAt(view, this.#init.node()).filter((copy) => copy.owner === owner);
    return ranges.map(({ layers }) => this.compute.replicas[this.#indexOf(layers)]!);
  }

  /** Boots a thread for the next view ahead: not while this one begins, when every core is needed. */
  prepare(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (!this.#isOver) this.#channel ??= new ComputeChannel();
    }, PREPARE_MS).unref();
  }

  /** Ends what computes, as soon as its states are whole: the view is sealed. */
  seal(): void {
    this.#then(async () => this.#compute?.interrupt());
  }

  /** Copies of `layers` at a version; from now on others may fetch them. */
  keep(view: RingView, version: number, layers: readonly number[]): void {
    this.#view = view;
    this.#then(async () => {
      await this.#compute?.interrupt();
      const held = new Map(this.#compute?.stateBlocks(version).map((block) => [block.layer, block.bytes]));
      this.#compute = undefined;
      const earlier = this.#copiesVersion === version ? new Map(this.#copies) : new Map<number, Uint8Array>();
      this.#copies.clear();
      const digests = new Map<number, string>();
      for (const layer of layers) {
        const bytes = held.get(layer) ?? earlier.get(layer);
        if (bytes === undefined) continue;
        this.#copies.set(layer, bytes);
        digests.set(layer, this.#digest({ layer, bytes }));
      }
      this.#copiesVersion = version;
      for (const resolve of this.#waiting) resolve();
      this.#waiting.clear();
      this.#init.tell({ kind: "kept", view: view.view, digests });
    });
  }

  /** A layer that another node sent. */
  add(view: number, block: LayerBlock): void {
    this.#then(() => {
      if (view !== this.#view?.view) return;
      this.#copies.set(block.layer, block.bytes);
      this.#init.tell({ kind: "fetched", view, layer: block.layer, digest: this.#digest(block) });
    });
  }

  /** A holder has sent what it has: told behind what it sent. */
  fetchEnded(view: number, from: number): void {
    this.#then(() => this.#init.tell({ kind: "fetchEnded", view, from }));
  }

  /** Copies for another node: those of `layers` that are here at the version, as soon as this node knows what it holds. */
  async copies(version: number, layers: readonly number[]): Promise<readonly LayerBlock[]> {
    if (this.#copiesVersion < version) {
      const { promise: kept, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      await within(kept, COPIES_LIMIT_MS, () => this.#waiting.delete(resolve));
    }
    if (this.#copiesVersion !== version) return [];
    return layers.flatMap((layer) => {
      const bytes = this.#copies.get(layer);
      return bytes === undefined ? [] : [{ layer, bytes }];
    });
  }

  /** Nobody will come back to the copies. */
  drop(): void {
    this.#copies.clear();
  }

  /** What the view gives this node computes from now on. */
  load(view: RingView, version: number, isOrigin: boolean): void {
    this.#view = view;
    this.#then(async () => {
      const { settings, engine, pace, files, node } = this.#init;
      await this.#compute?.interrupt();
      const segments = this.#init.segments(view);
      const replicas = replicasAt(view, node()).map(({ layers }) => replicaOf(settings, layers));
      const own = new Set(segments.flatMap(({ layers: [start, end] }) => range(start, end)));
      const layers = [...this.#copies].filter(([layer]) => own.has(layer)).map(([layer, bytes]) => ({ layer, bytes }));
      const isFromFiles = isOrigin && files.length > 0;
      if (this.#isOver) return;
      // 1. A view begins a second after the first commit of the one before. 2. Its thread starts, in a channel of its own, and the timer boots one
      // more meanwhile. 3. That one is the next view's: who forgets it here never ends it, and the process outlives the run.
      const channel = (this.#starting = this.#channel ?? new ComputeChannel());
      this.#channel = undefined;
      const compute = await ComputeThread.start(
        {
          ...{ segments, engine, redundancy: { replicas } },
          ...(isFromFiles ? { restore: files } : isOrigin ? {} : { blocks: { step: version, layers } }),
          ...(pace === null ? {} : { pace }),
        },
        channel,
      );
      this.#starting = undefined;
      this.#compute = compute;
      const ranges = segments.map((segment) => segment.layers);
      const copied = isOrigin ? replicas.map((replica) => replica.layers) : [];
      this.#init.tell({
        kind: "loaded",
        view: view.view,
        segments: [...ranges, ...copied].map((each) => this.#loaded(each)),
      });
    });
  }

  /** A copy follows its owner from now on. */
  fill(view: number, version: number, layers: LayerRange): void {
    this.#then(async () => {
      if (view !== this.#view?.view) return;
      const blocks = range(...layers).map((layer) => ({ layer, bytes: defined(this.#copies.get(layer), "a copy") }));
      const { states } = await this.compute.fillReplica(this.#indexOf(layers), blocks, version);
      this.#init.tell({ kind: "loaded", view, segments: [loadedFrom(layers, states)] });
    });
  }

  /** The copies of one owner's segments make the update of `step`, a slice at a time. */
  async apply(view: number, owner: number, step: number): Promise<void> {
    const { compute } = this;
    try {
      const segments: LoadedSegment[] = [];
      for (const { layers } of replicasAt(defined(this.#view, "a view"), this.#init.node()).filter(
        (copy) => copy.owner === owner,
      )) {
        const replica = this.#indexOf(layers);
        const elements = compute.replicas[replica]!.layers.reduce((sum, layer) => sum + layer.parameters.all.length, 0);
        const slices = Math.min(SLICES_MAX, Math.ceil(elements / SLICE_ELEMENTS));
        let states: readonly StateDigest[] = [];
        for (let slice = 0; slice < slices; slice += 1) {
          const operation = { kind: "replicaUpdate", replica, step, slice, slices } as const;
          const result = await compute.insert<"replicaUpdate">(operation);
          this.#init.worked(step, result);
          ({ states } = result);
        }
        segments.push(loadedFrom(layers, states));
      }
      this.#init.tell({ kind: "followed", view, owner, step, segments });
    } catch (error) {
      if (!(error instanceof InterruptedError)) this.#init.failed(error);
    }
  }

  async close(): Promise<void> {
    this.#isOver = true;
    clearTimeout(this.#timer);
    for (const resolve of this.#waiting) resolve();
    const over = new InterruptedError("the run is over", "start the job again to go on");
    await Promise.all([this.#compute?.stop(), this.#channel?.close(over), this.#starting?.close(over)]);
  }

  #then(act: () => Promise<void> | undefined | void): void {
    this.#tail = this.#tail.then(async () => {
      try {
        if (!this.#isOver) await act();
      } catch (error) {
        if (!this.#isOver && !(error instanceof InterruptedError)) this.#init.failed(error);
      }
    });
  }

  #digest(block: LayerBlock): string {
    const { settings, engine } = this.#init;
    const { model, optimizer } = settings;
    return blockDigest(block, model, optimizer, engine);
  }

  #indexOf([start, end]: LayerRange): number {
    return this.compute.replicas.findIndex(
      ({ layers }) => layers[0]?.index === start && layers.at(-1)?.index === end - 1,
    );
  }

  #loaded(layers: LayerRange): LoadedSegment {
    const digests = new Map(this.compute.versions().map(({ layer, digest }) => [layer, digest]));
    return { layers, digests: range(...layers).map((layer) => defined(digests.get(layer) ?? undefined, "a digest")) };
  }
}

/** Of one segment, out of those of several. */
export function loadedFrom(layers: LayerRange, states: readonly StateDigest[]): LoadedSegment {
  const digests = new Map(states.map(({ layer, digest }) => [layer, digest]));
  return { layers, digests: range(...layers).map((layer) => defined(digests.get(layer), "a digest of each layer")) };
}

const range = (start: number, end: number): readonly number[] =>
  Array.from({ length: end - start }, (_, index) => start + index);
