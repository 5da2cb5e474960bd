/**
 * @file A worker's training: shares of steps, layer by layer. A layer's gradient is pushed as soon as it is whole, and its next parameters are
 * pulled behind it, while other layers are computed (Li 2014, section 3.4; Zhang 2017, "Poseidon", section 3.1: wait-free backward). Without
 * overlap it pulls everything, computes, pushes everything.
 */
import type { Settings } from "../../src/config/settings.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { OperationTimes } from "../../src/runtime/compute-operations.ts";
import type { LayerwiseCompute } from "../../src/runtime/layerwise.ts";
import { evaluationCount } from "../../src/runtime/feeder.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { POOL_PLACES } from "../../src/nn/layout.ts";
import { NotFiniteError } from "../../src/types/errors.ts";
import { type Consistency, lagOf, leastVersion, rulesOf } from "../core/consistency.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { Task } from "../core/scheduler.ts";
import { AnnouncedParameters } from "./announced-parameters.ts";
import type { BatchName } from "./batch-frames.ts";
import type { Batches } from "./batches.ts";
import type { KeyClient } from "./key-client.ts";
import { LaggingParameters } from "./lagging-parameters.ts";
import { LayerParameters, type WorkerParameters } from "./layer-parameters.ts";

type Train = Extract<Task, { kind: "train" }>;

/** A share was not begun to be pushed, and nothing of it is to be seen. */
class GivesWay extends Error {}

/** What a worker asks of its task scheduler. */
export interface TaskSource {
  next(): Promise<Task>;
  /** Whether a share of an earlier step than this came unasked, without which other workers wait. */
  hasExtra(before: number): boolean;
  /** The earliest such share, which is the caller's then. */
  takeExtra(before: number): Train | undefined;
  /** Called when one comes. */
  onExtra: () => void;
  losses(step: number, share: number, losses: readonly number[]): void;
  done(step: number, share: number, version: number): void;
  pauseDone(outcome: PauseOutcome): void;
}

export interface PauseOutcome {
  /** Null where the pause was not for an evaluation. */
  readonly evaluated: { readonly testAccuracy: number; readonly testLoss: number } | null;
  /** SHA-256 of each layer, hexadecimal; null where the pause was not for a checkpoint. */
  readonly layerDigests: Readonly<Record<string, string>> | null;
  /** Why the checkpoint is not on the disk. */
  readonly notDurable: string | null;
}

export interface WorkerInit {
  readonly settings: Settings;
  readonly consistency: Consistency;
  readonly overlaps: boolean;
  readonly compute: LayerwiseCompute;
  readonly keys: readonly KeyRange[];
  readonly client: KeyClient;
  readonly batches: Batches;
  readonly tasks: TaskSource;
  readonly clockwork: StageClockwork;
  readonly timeline: Pick<Timeline, "add">;
  /** Saves all layers as they are after so many steps. */
  readonly save: (step: number) => Promise<Pick<PauseOutcome, "layerDigests" | "notDurable">>;
}

export class PsWorker {
  /** Of its newest share. */
  lag: number | null = null;
  readonly #init: WorkerInit;
  readonly #layers: readonly number[];
  readonly #parameters: WorkerParameters;
  /** Newest push out of each place of gradients, whose memory is the client's until it has left. */
  readonly #leaving = new Map<number, number>();
  readonly #ends: Promise<void>[] = [];
  #next: Promise<Task> = Promise.resolve({ kind: "end" });
  /** As far as it is known. */
  #nextStep: number | undefined;
  #failure: Error | undefined;
  #interrupt: () => void = () => {};

  constructor(init: WorkerInit) {
    this.#init = init;
    this.#layers = init.keys.map((_, layer) => layer);
    this.#parameters = this.#newParameters();
    init.tasks.onExtra = () => this.#interrupt();
  }

  #newParameters(): WorkerParameters {
    const { settings, overlaps, consistency } = this.#init;
    if (settings.parameters === "broadcast") return new AnnouncedParameters(this.#init);
    const mayLag = overlaps && consistency.tau > 0 && !this.#isPooled;
    return mayLag
      ? new LaggingParameters(this.#init)
      : new LayerParameters(this.#init, this.#places, consistency.kind === "bsp");
  }

  /** To the end of the run. */
  async train(): Promise<void> {
    this.#ask();
    for (let task = await this.#nextTask(); task.kind !== "end"; task = await this.#nextTask()) {
      if (task.kind === "train") await this.#shareAndExtras(task, true);
      else await this.#pause(task);
    }
    await Promise.all(this.#ends);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The next one that was asked for; shares that come unasked meanwhile are computed first. */
  async #nextTask(): Promise<Task> {
    const { tasks } = this.#init;
    for (;;) {
      const next = await new Promise<Task | undefined>((resolve, reject) => {
        this.#interrupt = () => resolve(undefined);
        if (tasks.hasExtra(Infinity)) this.#interrupt();
        this.#next.then(resolve, reject);
      });
      const extra = tasks.takeExtra(next?.kind === "train" ? next.step : Infinity);
      if (extra !== undefined) await this.#shareAndExtras(extra, false);
      else if (next !== undefined) return next;
    }
  }

  /** A share that waits for parameters gives way to those of earlier steps, without which they never come; then it is begun anew. */
  async #shareAndExtras(task: Train, isAsked: boolean): Promise<void> {
    for (;;) {
      try {
        return await this.#share(task, isAsked);
      } catch (error) {
        if (!(error instanceof GivesWay)) throw error;
        this.#parameters.abandon();
        await this.#init.compute.abandon();
        const extra = this.#init.tasks.takeExtra(task.step);
        if (extra !== undefined) await this.#shareAndExtras(extra, false);
      }
    }
  }

  /** What a share waits for before anything of it is to be seen. */
  #orGivesWay(task: Train, what: Promise<void>): Promise<void> {
    const { tasks } = this.#init;
    return new Promise((resolve, reject) => {
      this.#interrupt = () => {
        if (tasks.hasExtra(task.step)) reject(new GivesWay());
      };
      this.#interrupt();
      what.then(resolve, reject);
    });
  }

  #ask(): void {
    const next = this.#init.tasks.next();
    this.#next = next;
    this.#nextStep = undefined;
    next.then(
      (task) => {
        this.#nextStep = task.kind === "train" ? task.step : undefined;
        // While this share's backward pass is computed.
        if (task.kind === "train") this.#init.batches.want(training(task.step, task.from));
      },
      () => {},
    );
  }

  async #share(task: Train, isAsked: boolean): Promise<void> {
    const { clockwork, tasks, consistency, client } = this.#init;
    const { step, share, from, to } = task;
    clockwork.stepStarted(step);
    this.#parameters.begin(leastVersion(consistency, step));
    const losses: number[] = [];
    const pushes: number[] = [];
    for (let microBatch = from; microBatch < to; microBatch += 1) {
      await this.#forward(task, microBatch, losses);
      if (microBatch === to - 1) {
        tasks.losses(step, share, losses);
        // Known before this share ends, the next one costs no wait.
        if (isAsked) this.#ask();
        if (isAsked && this.#isFixed) this.#nextStep = step + 1;
      }
      pushes.push(...(await this.#backward(task, microBatch)));
    }
    const { version } = this.#parameters;
    this.lag = lagOf(step, version);
    const applied = Promise.all(pushes.map((timestamp) => client.wait(timestamp)));
    const failed = (error: Error): void => void (this.#failure ??= error);
    this.#ends.push(applied.then(() => tasks.done(step, share, version), failed));
    clockwork.stepEnded();
  }

  async #forward(task: Train, microBatch: number, losses: number[]): Promise<void> {
    const { compute, clockwork, batches, overlaps } = this.#init;
    const { step, to } = task;
    // Both are waited for at once.
    const fed = batches.feed(compute.memory, compute.slot, training(step, microBatch));
    await Promise.all([fed, this.#orGivesWay(task, this.#parameters.ahead(overlaps))]);
    if (microBatch + 1 < to) batches.want(training(step, microBatch + 1));
    for (const layer of this.#layers) {
      await this.#orGivesWay(task, this.#parameters.arrived(layer));
      const forward = await clockwork.timed(() => compute.forward(layer));
      this.#note("F", step, microBatch, forward);
      if (forward.notFiniteLayer >= 0) throw notFinite(step, forward.notFiniteLayer);
      if (layer === this.#layers.length - 1) losses.push(forward.loss);
      if (overlaps) this.#parameters.want(layer + this.#places);
    }
  }

  /** Returns the pushes' timestamps, after the share's last micro-batch. */
  async #backward(task: Train, microBatch: number): Promise<readonly number[]> {
    const { compute, clockwork, overlaps, client } = this.#init;
    const isLast = microBatch === task.to - 1;
    const pushes: number[] = [];
    for (const layer of this.#layers.toReversed()) {
      // Nothing is sent below the first layer: it needs no parameters here.
      if (layer > 0) await this.#parameters.arrived(layer);
      this.#note("B", task.step, microBatch, await clockwork.timed(() => compute.backwardInput(layer)));
      if (overlaps && layer > this.#places) this.#parameters.want(layer - this.#places);
      await this.#gradientIsFree(layer);
      this.#note("W", task.step, microBatch, await clockwork.timed(() => compute.backwardWeight(layer)));
      if (isLast && (overlaps || this.#isPooled)) pushes.push(this.#push(task, layer));
      if (isLast && !overlaps && this.#isPooled) await client.sent(pushes.at(-1)!);
    }
    if (!isLast || overlaps || this.#isPooled) return pushes;
    for (const layer of this.#layers.toReversed()) pushes.push(this.#push(task, layer));
    for (const timestamp of pushes) await client.sent(timestamp);
    return pushes;
  }

  /** Layers whose parameters, and whose gradients, are here at once. */
  get #places(): number {
    return this.#init.settings.workerHolds === "model" ? this.#init.keys.length : POOL_PLACES;
  }

  /** Its next share is of the next step, whatever the others do. */
  get #isFixed(): boolean {
    return rulesOf(this.#init.consistency.kind).assignment === "fixed";
  }

  get #isPooled(): boolean {
    return this.#places < this.#init.keys.length;
  }

  /** When what was pushed out of its place has left, a gradient is set to zero, once. */
  async #gradientIsFree(layer: number): Promise<void> {
    const { client, compute } = this.#init;
    const timestamp = this.#leaving.get(layer % this.#places);
    if (timestamp === undefined) return;
    await client.sent(timestamp);
    this.#leaving.delete(layer % this.#places);
    compute.clearGradient(layer);
  }

  #push({ step, share }: Train, layer: number): number {
    const { client, compute, keys, overlaps, consistency } = this.#init;
    const timestamp = client.push(keys[layer]!, compute.gradient(layer), { step, share });
    this.#leaving.set(layer % this.#places, timestamp);
    this.#parameters.drop(layer);
    const isWanted = overlaps && layer < this.#places && this.#nextStep !== undefined;
    if (isWanted) this.#parameters.want(layer, leastVersion(consistency, this.#nextStep!));
    return timestamp;
  }

  #note(kind: "F" | "B" | "W", step: number, microBatch: number, { startMs, endMs }: OperationTimes): void {
    this.#init.timeline.add({ kind, step, lap: 0, microBatch, startMs, endMs, bytes: 0 });
  }

  /** Nobody trains, and every push is applied. */
  async #pause({ step, evaluates, saves }: Extract<Task, { kind: "pause" }>): Promise<void> {
    this.#parameters.begin(step);
    const evaluated = evaluates ? await this.#evaluate() : null;
    const saved = saves ? await this.#init.save(step) : { layerDigests: null, notDurable: null };
    this.#init.tasks.pauseDone({ evaluated, ...saved });
    this.#ask();
  }

  async #evaluate(): Promise<PauseOutcome["evaluated"]> {
    const { compute, batches, settings } = this.#init;
    const { testCount: count } = batches;
    const pieces = evaluationCount(count, settings.batch / settings.microBatches);
    let [correct, lossSum] = [0, 0];
    for (let index = 0; index < pieces; index += 1) {
      await batches.feed(compute.memory, compute.slot, testing(index));
      if (index + 1 < pieces) batches.want(testing(index + 1));
      await this.#parameters.ahead(true);
      for (const layer of this.#layers) {
        await this.#parameters.arrived(layer);
        const result = await compute.evaluate(layer);
        this.#parameters.want(layer + this.#places);
        if (layer < this.#layers.length - 1) continue;
        correct += result.correct;
        lossSum += result.loss;
      }
    }
    return { testAccuracy: correct / count, testLoss: lossSum / count };
  }
}

const training = (step: number, index: number): BatchName => ({ isTraining: true, step, index });
const testing = (index: number): BatchName => ({ isTraining: false, step: 0, index });

function notFinite(step: number, layer: number): NotFiniteError {
  return new NotFiniteError(
    `the numbers are not finite at step ${step}, layer ${layer}`,
    "lower --lr, or look at the data of that step (ringtmp data batches)",
  );
}
