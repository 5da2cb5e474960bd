/** @file What one node computes with: its threads at its own speed, the files it goes on from, the data where it holds the model's begin. */
import { parseMemoryLimit, parsePace } from "../../src/config/emulation.ts";
import type { DataSet } from "../../src/data/dataset.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import type { SegmentInit } from "../../src/nn/layout.ts";
import { openCheckpoint } from "../../src/runtime/checkpoint.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { Feeder } from "../../src/runtime/feeder.ts";
import { watchMemory } from "../../src/runtime/process-memory.ts";
import type { LayerRange } from "../core/partition.ts";
import type { RingView } from "../core/view.ts";
import { memoryExceeded } from "./failure.ts";
import type { Job } from "./messages.ts";
import { planNode } from "./segments.ts";

export interface EquipmentInit {
  readonly job: Job;
  readonly engine: EngineKind;
  readonly folder: RunFolder;
  readonly data: () => Promise<DataSet>;
}

export class Equipment {
  readonly engine: EngineKind;
  readonly #init: EquipmentInit;
  #compute: ComputeThread | undefined;
  #feeder: Promise<Feeder> | undefined;

  constructor(init: EquipmentInit) {
    this.#init = init;
    this.engine = init.engine;
  }

  /** Of the checkpoint that the run goes on from. */
  get files(): readonly string[] {
    const { job, folder } = this.#init;
    return job.firstStep === 0 ? [] : openCheckpoint(folder, job.firstStep).files;
  }

  /** As stated for this node; null where it computes as fast as it can. */
  paceOf(node: number): number | null {
    const { pace, nodes } = this.#init.job.settings;
    return pace === null ? null : parsePace(pace, nodes)[Math.max(0, node) % nodes]!;
  }

  /** Tells when the process has outgrown its stated memory, until it is told to stop. */
  watchMemory(node: number, exceeded: (error: Error) => void): () => void {
    const { memoryLimit } = this.#init.job.settings;
    if (memoryLimit === null) return () => {};
    return watchMemory(parseMemoryLimit(memoryLimit), (bytes) => exceeded(memoryExceeded(node, bytes, memoryLimit)));
  }

  /** None where the node is a spare. */
  segments(cut: readonly LayerRange[], { owners }: RingView, node: number): readonly SegmentInit[] {
    const place = owners.indexOf(node);
    return place < 0 ? [] : planNode(this.#init.job.settings, this.engine, cut, owners.length, place).segments;
  }

  /** The thread started last, where this node keeps no copies. */
  get compute(): ComputeThread | undefined {
    return this.#compute;
  }

  async start(
    cut: readonly LayerRange[],
    view: RingView,
    node: number,
    blocks?: Parameters<typeof ComputeThread.start>[0]["blocks"],
  ): Promise<ComputeThread> {
    const segments = this.segments(cut, view, node);
    const pace = this.paceOf(node);
    const state = blocks === undefined ? {} : { blocks };
    const init = { segments, engine: this.engine, ...state, ...(pace === null ? {} : { pace }) };
    return (this.#compute = await ComputeThread.start(init));
  }

  /** Loaded once. */
  feeder(): Promise<Feeder> {
    const { job, data } = this.#init;
    return (this.#feeder ??= data().then((loaded) => new Feeder(loaded, job.settings)));
  }

  async stop(): Promise<void> {
    await this.#compute?.stop();
  }
}
