/**
 * @file The main thread's side of the compute thread: it starts the worker over shared memory and passes it one operation
 * at a time, those of the stage and, between them, those of replication. It knows which versions of which layers the memory
 * holds. Operations have no time limit, since their length is the model's; a worker that dies rejects those under way.
 */
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import { EngineMemory } from "../engine/memory.ts";
import { fillBlocks, type LayerBlock } from "../nn/blocks.ts";
import {
  type HeldLayout, planReplicas, planSegment, planSegments, type SegmentInit, type SegmentLayout, segmentMemory,
} from "../nn/layout.ts"; // prettier-ignore
import { assert, defined } from "../types/assert.ts";
import { InterruptedError } from "../types/errors.ts";
import { ComputeChannel } from "./compute-channel.ts";
import {
  changesStates, type ComputeInit, type LoadedState, type Operation, type OperationKind, type OperationResult,
} from "./compute-operations.ts"; // prettier-ignore
import { type HeldVersion, HolderVersions } from "./compute-versions.ts";

/** Operations that wait at once: several steps' slices of several replicas. */
const WAITING_MAX = 1024;

/** The layout of a segment that is alone on an engine. Throws `UsageError` as `planSegment` does. */
export function planOn(engine: EngineKind, segment: SegmentInit, isReplicated = false): SegmentLayout {
  return planSegment(segment, loadKernels(engine, new EngineMemory(0).memory), isReplicated);
}

interface Waiting {
  readonly operation: Operation;
  readonly isRun: boolean;
  readonly resolve: (result: OperationResult<OperationKind>) => void;
  readonly reject: (error: unknown) => void;
}

export class ComputeThread {
  /** One for each lap. */
  readonly layouts: readonly SegmentLayout[];
  /** In the order of `redundancy`. The main thread writes a step's gradient whole before the step's first slice. */
  readonly replicas: readonly HeldLayout[];
  /** Shared with the worker: between an operation's start and its result, the arrays that it uses belong to the worker. */
  readonly memory: EngineMemory;
  readonly #channel: ComputeChannel;
  readonly #ownVersions: readonly HolderVersions[];
  readonly #replicaVersions: readonly HolderVersions[];
  /** The one under way first. */
  readonly #waiting: Waiting[] = [];
  /** Resolves after the operation under way, whatever comes of it. */
  #underWay = Promise.resolve();
  #ended: Error | null = null;
  #step = 0;

  private constructor({ segments, engine, redundancy }: ComputeInit, channel: ComputeChannel) {
    this.#channel = channel;
    const kernels = loadKernels(engine, new EngineMemory(0).memory);
    this.layouts = planSegments(segments, kernels, redundancy !== undefined);
    this.replicas = planReplicas(redundancy?.replicas ?? [], this.layouts);
    this.memory = segmentMemory([...this.layouts, ...this.replicas]);
    const versionsOf = (layout: HeldLayout): HolderVersions => new HolderVersions(layout, this.memory);
    this.#ownVersions = this.layouts.map(versionsOf);
    this.#replicaVersions = this.replicas.map(versionsOf);
  }

  /**
   * Throws what reading the restored shards, filling the blocks or planning the segments throws. Stop the thread in the end.
   * @param channel a new one, or one that has booted meanwhile; it is the thread's from now on.
   */
  static async start(init: ComputeInit, channel = new ComputeChannel()): Promise<ComputeThread> {
    try {
      const thread = new ComputeThread(init, channel);
      await thread.#start(init);
      return thread;
    } catch (error) {
      await channel.close(stopped());
      throw error;
    }
  }

  /** The step that came next at the start: 0, or the restored state's. */
  get startStep(): number {
    return this.#step;
  }

  /** Runs one operation; not before the last one is done. Rejects with the error of its class that the worker threw. */
  run<Kind extends OperationKind>(operation: Extract<Operation, { kind: Kind }>): Promise<OperationResult<Kind>> {
    assert(
      this.#waiting.every(({ isRun }) => !isRun),
      "one operation at a time",
    );
    return this.#enqueue<Kind>(operation, true);
  }

  /** As `run`, at any time: after the operations that wait already, before the next `run`. */
  insert<Kind extends OperationKind>(operation: Extract<Operation, { kind: Kind }>): Promise<OperationResult<Kind>> {
    return this.#enqueue<Kind>(operation, false);
  }

  /** What the memory holds, the older version first. Not while an operation that changes states is under way. */
  versions(): readonly HeldVersion[] {
    return this.#holders().flatMap((holder) => holder.versions());
  }

  /** Copies of the layers held at a version, own ones first; they are the caller's. When, as for `versions`. */
  stateBlocks(version: number): LayerBlock[] {
    return this.#holders().flatMap((holder) => holder.blocks(version));
  }

  /**
   * Fills a replica, of which no operation may wait, with the state of `step`; `blocks` may hold more. Throws `DataError` as
   * `fillBlocks` does.
   */
  fillReplica(replica: number, blocks: readonly LayerBlock[], step: number): Promise<OperationResult<"replicaFilled">> {
    const layout = defined(this.replicas[replica], `replica ${replica} is there`);
    assert(
      this.#waiting.every(({ operation }) => !concerns(operation, replica)),
      `no operation of replica ${replica} waits`,
    );
    this.#replicaVersions[replica]?.emptied();
    fillBlocks(blocks, [layout], this.memory);
    return this.insert<"replicaFilled">({ kind: "replicaFilled", replica, step });
  }

  /**
   * Ends the thread as soon as its states are whole: at once, but after an update, a load or a save that is under way. All
   * that waits rejects with `InterruptedError`. The memory stays, and `versions` and `stateBlocks` with it.
   */
  async interrupt(): Promise<void> {
    this.#ended ??= stopped();
    for (const { reject } of this.#waiting.splice(1)) reject(this.#ended);
    const kind = this.#waiting[0]?.operation.kind;
    if (kind !== undefined && (changesStates(kind) || kind === "save")) await this.#underWay;
    await this.#channel.close(this.#ended);
  }

  /** Ends the thread, whatever it does; operations under way and waiting reject with `InterruptedError`. */
  async stop(): Promise<void> {
    this.#ended ??= stopped();
    for (const { reject } of this.#waiting.splice(1)) reject(this.#ended);
    await this.#channel.close(this.#ended);
  }

  async #start({ segments, engine, redundancy, restore = [], blocks, pace }: ComputeInit): Promise<void> {
    assert(restore.length === 0 || blocks === undefined, "the state comes from files or from memory");
    if (blocks !== undefined) fillBlocks(blocks.layers, this.layouts, this.memory);
    const { step, states } = await this.#channel.request<LoadedState>({
      ...{ segments, engine, restore, memory: this.memory.memory, replicas: redundancy?.replicas ?? null },
      ...{ filledStep: blocks?.step ?? null, pace: pace ?? null },
    });
    this.#step = step;
    for (const holder of this.#ownVersions) holder.filled(step, states);
    if (blocks === undefined) for (const holder of this.#replicaVersions) holder.filled(step, states);
    const arrived = new Set(blocks?.layers.map(({ layer }) => layer));
    for (const [replica, { layers }] of this.replicas.entries()) {
      const isThere = layers.every(({ index }) => arrived.has(index));
      if (blocks !== undefined && isThere) await this.fillReplica(replica, blocks.layers, blocks.step);
    }
  }

  #enqueue<Kind extends OperationKind>(operation: Operation, isRun: boolean): Promise<OperationResult<Kind>> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    assert(this.#waiting.length < WAITING_MAX, `at most ${WAITING_MAX} operations wait`);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ operation, isRun, resolve: resolve as Waiting["resolve"], reject });
      if (this.#waiting.length === 1) this.#underWay = this.#perform();
    });
  }

  /** The first that waits, and then those behind it. */
  async #perform(): Promise<void> {
    const { operation, resolve, reject } = defined(this.#waiting[0], "an operation waits");
    if (operation.kind === "load") for (const holder of this.#allVersions) holder.emptied();
    try {
      const result = await this.#channel.request<OperationResult<OperationKind>>(operation);
      this.#record(operation, result);
      resolve(result);
    } catch (error) {
      // What the worker's end tore belongs to no version.
      if (this.#channel.hasEnded && changesStates(operation.kind))
        for (const holder of this.#allVersions) holder.emptied();
      reject(error);
    }
    this.#waiting.shift();
    if (this.#waiting.length > 0) this.#underWay = this.#perform();
  }

  #record(operation: Operation, result: object): void {
    const { states = [], step = 0 } = result as Partial<LoadedState>;
    if (operation.kind === "update") for (const holder of this.#ownVersions) holder.updated(0, 1, states);
    if (operation.kind === "load") for (const holder of this.#allVersions) holder.filled(step, states);
    if (operation.kind !== "replicaUpdate" && operation.kind !== "replicaFilled") return;
    const replica = defined(this.#replicaVersions[operation.replica], "the worker knows the replica");
    if (operation.kind === "replicaFilled") replica.filled(operation.step, states);
    else replica.updated(operation.slice, operation.slices, states);
  }

  get #allVersions(): readonly HolderVersions[] {
    return [...this.#ownVersions, ...this.#replicaVersions];
  }

  #holders(): readonly HolderVersions[] {
    const kind = this.#waiting[0]?.operation.kind;
    assert(kind === undefined || !changesStates(kind), `no ${kind} is under way`);
    return this.#allVersions;
  }
}

/** Whether it reads or writes a replica's state. */
function concerns(operation: Operation, replica: number): boolean {
  return operation.kind === "load" || ("replica" in operation && operation.replica === replica);
}

function stopped(): InterruptedError {
  return new InterruptedError("the compute thread was stopped", "start the job again to go on");
}
