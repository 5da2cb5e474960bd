/**
 * @file A worker's training: shares of steps, layer by layer. A layer's gradient is pushed as soon as it is whole, and its next parameters are
 * pulled behind it, while other layers are computed (Li 2014, section 3.4; Zhang 2017, "Poseidon", section 3.1: wait-free backward). Without
 * overlap it pulls everything, computes, pushes everything.
 */
import type { Settings } from "../../src/config/settings.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { OperationTimes } from "../../src/runtime/compute-operations.ts";
import type { LayerwiseCompute } from "../../src/runtime/layerwise.ts";
import { evaluationCount, type Feeder } from "../../src/runtime/feeder.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { NotFiniteError } from "../../src/types/errors.ts";
import { type Consistency, lagOf, leastVersion } from "../core/consistency.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { Task } from "../core/scheduler.ts";
import type { KeyClient } from "./key-client.ts";

/** What a worker asks of its task scheduler. */
export interface TaskSource {
  next(): Promise<Task>;
  losses(step: number, share: number, losses: readonly number[]): void;
  done(step: number, share: number): void;
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
  readonly feeder: Feeder;
  readonly tasks: TaskSource;
  readonly clockwork: StageClockwork;
  readonly timeline: Pick<Timeline, "add">;
  /** Saves all layers as they are after so many steps. */
  readonly save: (step: number) => Promise<Pick<PauseOutcome, "layerDigests" | "notDurable">>;
}

type Train = Extract<Task, { kind: "train" }>;

/** Of a pull that is under way or over: from which version on it may be used. */
interface Pulled {
  readonly leastVersion: number;
  /** Resolves with the version when the parameters are here. */
  readonly arrived: Promise<number>;
}

export class PsWorker {
  /** How many tasks had parameters that lagged by so many steps. */
  readonly lags: number[] = [];
  readonly #init: WorkerInit;
  readonly #layers: readonly number[];
  readonly #pulled = new Map<number, Pulled>();
  /** Newest push of each layer: its gradient's memory is the client's until it has left. */
  readonly #pushed = new Map<number, number>();
  readonly #ends: Promise<void>[] = [];
  #failure: unknown;

  constructor(init: WorkerInit) {
    this.#init = init;
    this.#layers = init.keys.map((_, layer) => layer);
  }

  /** To the end of the run. */
  async train(): Promise<void> {
    const { tasks } = this.#init;
    for (let task = await tasks.next(); task.kind !== "end"; task = await tasks.next()) {
      if (task.kind === "train") await this.#share(task);
      else await this.#pause(task);
    }
    await Promise.all(this.#ends);
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #share(task: Train): Promise<void> {
    const { clockwork, overlaps, tasks, consistency } = this.#init;
    const { step, share, from, to } = task;
    clockwork.stepStarted(step);
    const least = leastVersion(consistency, step);
    for (const layer of this.#layers) this.#pull(layer, least);
    if (!overlaps) for (const layer of this.#layers) await this.#arrived(layer);
    const losses: number[] = [];
    let version = Infinity;
    for (let microBatch = from; microBatch < to; microBatch += 1) {
      const isLast = microBatch === to - 1;
      version = Math.min(version, await this.#forward(step, microBatch, losses));
      if (isLast) tasks.losses(step, share, losses);
      await this.#backward(task, microBatch, isLast);
    }
    const lag = lagOf(step, version);
    this.lags[lag] = (this.lags[lag] ?? 0) + 1;
    const pushes = [...this.#pushed.values()];
    this.#ends.push(
      Promise.all(pushes.map((timestamp) => this.#init.client.wait(timestamp))).then(
        () => tasks.done(step, share),
        (error: unknown) => void (this.#failure ??= error),
      ),
    );
    clockwork.stepEnded();
  }

  /** Returns the least version of the parameters. */
  async #forward(step: number, microBatch: number, losses: number[]): Promise<number> {
    const { compute, clockwork, feeder } = this.#init;
    feeder.fillTraining(compute.memory, compute.slot, step, microBatch);
    let version = Infinity;
    for (const layer of this.#layers) {
      version = Math.min(version, await this.#arrived(layer));
      const forward = await clockwork.timed(() => compute.forward(layer));
      this.#note("F", step, microBatch, forward);
      const { notFiniteLayer, loss } = forward;
      if (notFiniteLayer >= 0) throw notFinite(step, notFiniteLayer);
      if (layer === this.#layers.length - 1) losses.push(loss);
    }
    return version;
  }

  async #backward(task: Train, microBatch: number, isLast: boolean): Promise<void> {
    const { compute, clockwork, overlaps, client } = this.#init;
    for (const layer of this.#layers.toReversed()) {
      this.#note("B", task.step, microBatch, await clockwork.timed(() => compute.backwardInput(layer)));
      await this.#gradientIsFree(layer);
      this.#note("W", task.step, microBatch, await clockwork.timed(() => compute.backwardWeight(layer)));
      if (!isLast || !overlaps) continue;
      this.#push(task, layer);
    }
    if (!isLast || overlaps) return;
    for (const layer of this.#layers.toReversed()) this.#push(task, layer);
    for (const timestamp of this.#pushed.values()) await client.sent(timestamp);
  }

  #note(kind: "F" | "B" | "W", step: number, microBatch: number, { startMs, endMs }: OperationTimes): void {
    this.#init.timeline.add({ kind, step, lap: 0, microBatch, startMs, endMs, bytes: 0 });
  }

  /** After the push of the step before has left, its gradient is set to zero, once. */
  async #gradientIsFree(layer: number): Promise<void> {
    const { client, compute } = this.#init;
    const timestamp = this.#pushed.get(layer);
    if (timestamp === undefined) return;
    await client.sent(timestamp);
    this.#pushed.delete(layer);
    compute.clearGradient(layer);
  }

  #push({ step, share }: Train, layer: number): void {
    const { client, compute, keys, overlaps, consistency } = this.#init;
    const timestamp = client.push(keys[layer]!, compute.gradient(layer), { step, share });
    this.#pushed.set(layer, timestamp);
    this.#pulled.delete(layer);
    // The worker's next share is of the next step, or of a later one: older parameters are of no use to it.
    if (overlaps) this.#pull(layer, leastVersion(consistency, step + 1));
  }

  /** Asks for parameters of the layer, which nobody uses now, unless they are here or asked for. */
  #pull(layer: number, least: number): void {
    const { client, compute, keys } = this.#init;
    if ((this.#pulled.get(layer)?.leastVersion ?? -1) >= least) return;
    const timestamp = client.pull(keys[layer]!, compute.parameters(layer), { leastVersion: least });
    const arrived = client.wait(timestamp);
    // Whoever uses the layer hears of it.
    arrived.catch(() => {});
    this.#pulled.set(layer, { leastVersion: least, arrived });
  }

  #arrived(layer: number): Promise<number> {
    return this.#pulled.get(layer)!.arrived;
  }

  /** Nobody trains, and every push is applied. */
  async #pause({ step, evaluates, saves }: Extract<Task, { kind: "pause" }>): Promise<void> {
    for (const layer of this.#layers) this.#pull(layer, step);
    for (const layer of this.#layers) await this.#arrived(layer);
    const evaluated = evaluates ? await this.#evaluate() : null;
    const saved = saves ? await this.#init.save(step) : { layerDigests: null, notDurable: null };
    this.#init.tasks.pauseDone({ evaluated, ...saved });
  }

  async #evaluate(): Promise<{ readonly testAccuracy: number; readonly testLoss: number }> {
    const { compute, feeder, settings } = this.#init;
    const { count } = feeder.data.test;
    let [correct, lossSum] = [0, 0];
    for (let index = 0; index < evaluationCount(count, settings.batch / settings.microBatches); index += 1) {
      feeder.fillEvaluation(compute.memory, compute.slot, index);
      for (const layer of this.#layers) {
        const result = await compute.evaluate(layer);
        if (layer < this.#layers.length - 1) continue;
        correct += result.correct;
        lossSum += result.loss;
      }
    }
    return { testAccuracy: correct / count, testLoss: lossSum / count };
  }
}

function notFinite(step: number, layer: number): NotFiniteError {
  return new NotFiniteError(
    `the numbers are not finite at step ${step}, layer ${layer}`,
    "lower --lr, or look at the data of that step (ringtmp data batches)",
  );
}
