/** @file Runs a stage machine's operations on the compute thread, and files what they took. */
import type { Timeline, TimelineEntry } from "../../src/metrics/timeline.ts";
import type { StateDigest } from "../../src/nn/held-state.ts";
import type { WrittenFile } from "../../src/nn/safetensors.ts";
import type { LayerTimesUs } from "../../src/runtime/compute-layer-times.ts";
import type { PaceCounts } from "../../src/runtime/compute-pace.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { defined, unreachable } from "../../src/types/assert.ts";
import { DataError } from "../../src/types/errors.ts";
import type { SlotKey, StageOperation } from "../core/stage-messages.ts";
import type { LayerRange } from "../core/partition.ts";
import type { StageTensors } from "./tensors.ts";

export interface OperationsInit {
  readonly compute: ComputeThread;
  readonly tensors: StageTensors;
  readonly clockwork: StageClockwork;
  readonly timeline: Timeline;
  /** Where the shard of a segment is to be written, and that it was. */
  readonly shardFile: (completedSteps: number, layers: LayerRange) => string;
  readonly saved: (completedSteps: number, layers: LayerRange, file: string, written: WrittenFile) => void;
  /** Instead of `saved`: a full or broken disk does not end the run. */
  readonly notSaved: (completedSteps: number, layers: LayerRange, reason: string) => void;
}

/** What the stage machine is told: NaN and 0 where there is none. `notFiniteLayer`: the run must end. */
export interface OperationOutcome {
  readonly loss: number;
  readonly correct: number;
  readonly notFiniteLayer: number | null;
  /** After an update, of the new version, where copies are kept. */
  readonly states: readonly StateDigest[];
}

const nothing: OperationOutcome = { loss: Number.NaN, correct: 0, notFiniteLayer: null, states: [] };

type Of<Kind> = Extract<StageOperation, { readonly kind: Kind }>;

export class Operations {
  /** Medians of this node's layers, as of the last update. */
  layerUs: readonly LayerTimesUs[] = [];
  /** Of paced compute, as of the last update. */
  pace: PaceCounts | null = null;
  readonly #init: OperationsInit;

  constructor(init: OperationsInit) {
    this.#init = init;
  }

  get tensors(): StageTensors {
    return this.#init.tensors;
  }

  get compute(): ComputeThread {
    return this.#init.compute;
  }

  async run(operation: StageOperation): Promise<OperationOutcome> {
    switch (operation.kind) {
      case "forward":
        return this.#forward(operation);
      case "evaluate":
        return this.#evaluate(operation);
      case "fused":
        return this.#fused(operation);
      case "backward": {
        const { lap, slot } = operation;
        const { clockwork, compute } = this.#init;
        const request = { kind: "backwardInput", lap, slot } as const;
        const { startMs, endMs } = await clockwork.timed(() => compute.run<"backwardInput">(request));
        this.#note("B", operation, startMs, endMs);
        return nothing;
      }
      case "weight":
        return this.#weight(operation);
      case "update":
        return this.#update(operation.step);
      case "save":
        return this.#save(operation.completedSteps);
    }
    return unreachable(operation);
  }

  async #forward(operation: SlotKey): Promise<OperationOutcome> {
    const { clockwork, compute, tensors } = this.#init;
    const { lap, slot, step, microBatch } = operation;
    if (microBatch === 0 && lap === 0) clockwork.stepStarted(step);
    tensors.fillTraining(lap, slot, step, microBatch);
    const result = await clockwork.timed(() => compute.run<"forward">({ kind: "forward", lap, slot }));
    this.#note("F", operation, result.startMs, result.endMs);
    return { ...nothing, ...result, notFiniteLayer: result.notFiniteLayer >= 0 ? result.notFiniteLayer : null };
  }

  async #evaluate({ lap, slot, index }: Of<"evaluate">): Promise<OperationOutcome> {
    const { clockwork, compute, tensors } = this.#init;
    tensors.fillEvaluation(lap, slot, index);
    const result = await clockwork.timed(() => compute.run<"evaluate">({ kind: "evaluate", lap, slot }));
    return { ...nothing, ...result, notFiniteLayer: result.notFiniteLayer >= 0 ? result.notFiniteLayer : null };
  }

  async #fused(operation: SlotKey): Promise<OperationOutcome> {
    const { clockwork, compute } = this.#init;
    const { lap, slot } = operation;
    const result = await clockwork.timed(() => compute.run<"backward">({ kind: "backward", lap, slot }));
    this.#note("B", operation, result.startMs, result.boundaryMs);
    this.#note("W", operation, result.boundaryMs, result.endMs);
    return nothing;
  }

  /** Slices go from the segment's last layer to its first. */
  async #weight(operation: Of<"weight">): Promise<OperationOutcome> {
    const { clockwork, compute } = this.#init;
    const { lap, slot, slice } = operation;
    const [start, end] = this.#layers(lap);
    const request = { kind: "weightLayer", lap, slot, layer: end - 1 - slice } as const;
    const { startMs, endMs } = await clockwork.timed(() => compute.run<"weightLayer">(request));
    this.#note("W", operation, startMs, endMs, slice === end - start - 1);
    return nothing;
  }

  async #update(step: number): Promise<OperationOutcome> {
    const { clockwork, compute, timeline } = this.#init;
    const result = await clockwork.timed(() => compute.run<"update">({ kind: "update", step }));
    const { startMs, endMs } = result;
    this.#entry("wait", { step }, clockwork.noteUpdate(startMs, endMs), startMs);
    timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs, bytes: 0 });
    clockwork.stepEnded();
    this.layerUs = result.layerUs;
    this.pace = result.pace;
    return { ...nothing, states: result.states };
  }

  async #save(completedSteps: number): Promise<OperationOutcome> {
    const { clockwork, compute, shardFile, saved, notSaved } = this.#init;
    for (const lap of compute.layouts.keys()) {
      const layers = this.#layers(lap);
      try {
        const file = shardFile(completedSteps, layers);
        const request = { kind: "save", lap, file, step: completedSteps } as const;
        saved(completedSteps, layers, file, await clockwork.timed(() => compute.run<"save">(request)));
      } catch (error) {
        if (!(error instanceof DataError)) throw error;
        notSaved(completedSteps, layers, error.message);
      }
    }
    return nothing;
  }

  #layers(lap: number): LayerRange {
    return defined(this.#init.compute.layouts[lap], "a segment for each lap").init.layers;
  }

  #note(kind: "F" | "B" | "W", key: SlotKey, startMs: number, endMs: number, isWhole = true): void {
    const waitedFromMs = this.#init.clockwork.noteOperation(kind, key.lap, startMs, endMs, isWhole);
    this.#entry("wait", key, waitedFromMs, startMs);
    this.#entry(kind, key, startMs, endMs);
  }

  #entry(
    kind: TimelineEntry["kind"],
    key: { readonly step: number; readonly lap?: number; readonly microBatch?: number },
    startMs: number | undefined,
    endMs: number,
  ): void {
    if (startMs === undefined) return;
    const { step, lap = 0, microBatch = 0 } = key;
    this.#init.timeline.add({ kind, step, lap, microBatch, startMs, endMs, bytes: 0 });
  }
}
