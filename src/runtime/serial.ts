/**
 * @file One process without a network: the reference for every bit and every speed-up. Each step runs its micro-batches in
 * order, F then B and W, and then the update. It is kept dumb on purpose.
 */
import { type Fingerprint, fingerprintOf } from "../config/fingerprint.ts";
import { parsePace } from "../config/emulation.ts";
import { parseTimeline, type Settings } from "../config/settings.ts";
import type { DataSet } from "../data/dataset.ts";
import { TimeAccount } from "../metrics/accounting.ts";
import { Recorder } from "../metrics/recorder.ts";
import { RUN_FILES, type RunFolder } from "../metrics/run-folder.ts";
import { buildSummary, type NodeReport } from "../metrics/summary.ts";
import { chromeTrace, Timeline, type TimelineEntry } from "../metrics/timeline.ts";
import { parseModel } from "../nn/spec.ts";
import { defined } from "../types/assert.ts";
import { DataError, NotFiniteError } from "../types/errors.ts";
import { type Durability, nameShard, openCheckpoint, shardDraft, writeManifest } from "./checkpoint.ts";
import { nowMs } from "./clock.ts";
import type { LayerDigest } from "./compute-operations.ts";
import type { PaceCounts } from "./compute-pace.ts";
import { ComputeThread } from "./compute-thread.ts";
import { chooseEngines } from "./engines.ts";
import { evaluationCount, Feeder } from "./feeder.ts";
import { peakRssBytes, threadCpuMs, ThreadSampler } from "./process-sample.ts";
import { StageClockwork } from "./stage-clockwork.ts";

export interface SerialInit {
  readonly settings: Settings;
  readonly data: DataSet;
  readonly folder: RunFolder;
  readonly firstStep: number;
  readonly onCommitted: (step: number, loss: number) => void;
  /** A checkpoint is not on the disk. */
  readonly onNotDurable: (step: number, reason: string) => void;
}

export class SerialRun {
  readonly #init: SerialInit;
  readonly #engines;
  readonly #recorder: Recorder;
  readonly #timeline: Timeline;
  readonly #feeder: Feeder;
  readonly #clockwork: StageClockwork;
  #isStopWanted = false;
  #pace: PaceCounts | null = null;
  #testAccuracy: number | null = null;

  constructor(init: SerialInit) {
    const { settings, folder, firstStep, data } = init;
    this.#init = init;
    this.#engines = chooseEngines(settings.engine);
    const earlier = folder.readMetrics().slice(0, firstStep);
    const { batch, timeline } = settings;
    const startedMs = nowMs() - (earlier.at(-1)?.elapsedMs ?? 0);
    this.#recorder = new Recorder({ folder, batch, earlier, startedMs, onFault: init.onNotDurable });
    this.#recorder.write(true);
    this.#timeline = new Timeline(folder, () => 0, parseTimeline(timeline));
    this.#feeder = new Feeder(data, settings);
    const sampler = new ThreadSampler();
    this.#clockwork = new StageClockwork(new TimeAccount(sampler.sample()), sampler, 1);
  }

  get engineId(): string {
    return defined(this.#engines.ids[0], "an engine");
  }

  get layers(): readonly [number, number] {
    return [0, parseModel(this.#init.settings.model).layers.length];
  }

  /** Ends after the step under way. */
  requestStop(): void {
    this.#isStopWanted = true;
  }

  describe(): {
    readonly step: number;
    readonly phase: string;
    readonly idlePercent: number;
    readonly losses: readonly number[];
  } {
    const { losses } = this.#recorder;
    return { step: losses.length, phase: "training", idlePercent: this.#clockwork.idlePercent, losses };
  }

  async train(): Promise<Record<string, unknown>> {
    const { settings, firstStep, folder } = this.#init;
    const { model, optimizer, lr: rate, seed, batch, microBatches } = settings;
    const segment = { model, layers: this.layers, rows: batch / microBatches, slots: 1, optimizer, rate, seed, batch };
    const compute = await ComputeThread.start({
      segments: [segment],
      engine: defined(this.#engines.kinds[0], "an engine"),
      ...(settings.pace === null ? {} : { pace: parsePace(settings.pace, 1)[0]! }),
    });
    try {
      const { digests } = await compute.run<"digests">({ kind: "digests" });
      if (firstStep > 0) await compute.run<"load">({ kind: "load", files: openCheckpoint(folder, firstStep).files });
      return await this.#trainOn(compute, digests);
    } finally {
      this.#timeline.flush();
      await compute.stop();
    }
  }

  /** `initial`: digests of the layers before the job's first step, also where the run goes on. */
  async #trainOn(compute: ComputeThread, initial: readonly LayerDigest[]): Promise<Record<string, unknown>> {
    const { settings, firstStep } = this.#init;
    const { steps, checkpointEvery, validateEvery, stopAtLoss } = settings;
    const startedCpuMs = threadCpuMs();
    let completed = firstStep;
    for (let isLast = false; !isLast;) {
      const loss = await this.#step(compute, completed);
      completed += 1;
      isLast = completed === steps || this.#isStopWanted || (stopAtLoss !== null && loss <= stopAtLoss);
      const isDue = (interval: number): boolean => interval > 0 && completed % interval === 0;
      if (isLast || isDue(checkpointEvery)) await this.#save(compute, completed);
      if (isLast || isDue(validateEvery)) await this.#evaluate(compute, completed);
    }
    const final = await compute.run<"digests">({ kind: "digests" });
    this.#timeline.flush();
    return this.#summarize(this.#report(initial, final.digests, threadCpuMs() - startedCpuMs));
  }

  async #step(compute: ComputeThread, step: number): Promise<number> {
    const { batch, microBatches } = this.#init.settings;
    const slot = defined(compute.layouts[0]?.slots[0], "one slot");
    this.#clockwork.stepStarted(step);
    let lossSum = 0;
    for (let microBatch = 0; microBatch < microBatches; microBatch += 1) {
      this.#feeder.fillTraining(compute.memory, slot, step, microBatch);
      const forward = await this.#clockwork.timed(() => compute.run<"forward">({ kind: "forward", lap: 0, slot: 0 }));
      this.#note("F", step, microBatch, forward.startMs, forward.endMs);
      if (forward.notFiniteLayer >= 0) throw notFinite(step, forward.notFiniteLayer);
      lossSum += forward.loss;
      const backward = await this.#clockwork.timed(() =>
        compute.run<"backward">({ kind: "backward", lap: 0, slot: 0 }),
      );
      this.#note("B", step, microBatch, backward.startMs, backward.boundaryMs);
      this.#note("W", step, microBatch, backward.boundaryMs, backward.endMs);
    }
    const update = await this.#clockwork.timed(() => compute.run<"update">({ kind: "update", step }));
    this.#clockwork.noteUpdate(update.startMs, update.endMs);
    const { startMs, endMs } = update;
    this.#timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs, bytes: 0 });
    this.#pace = update.pace;
    this.#clockwork.stepEnded();
    const loss = lossSum / batch;
    this.#recorder.committed(step, loss, nowMs());
    this.#init.onCommitted(step, loss);
    return loss;
  }

  #note(kind: "F" | "B" | "W", step: number, microBatch: number, startMs: number, endMs: number): void {
    this.#clockwork.noteOperation(kind, 0, startMs, endMs);
    this.#timeline.add({ kind, step, lap: 0, microBatch, startMs, endMs, bytes: 0 });
  }

  /** A full or broken disk does not end the run. */
  async #save(compute: ComputeThread, step: number): Promise<void> {
    const durability = await this.#write(compute, step);
    if (durability.kind === "durable") return this.#recorder.event("checkpoint", nowMs(), { step });
    const { reason } = durability;
    this.#recorder.event("notDurable", nowMs(), { step, reason });
    this.#init.onNotDurable(step, reason);
  }

  async #write(compute: ComputeThread, step: number): Promise<Durability> {
    const { folder } = this.#init;
    const { layers } = this;
    try {
      const file = shardDraft(folder, step, layers);
      const written = await compute.run<"save">({ kind: "save", lap: 0, file, step });
      const shards = [nameShard(file, layers, written)];
      return await writeManifest(folder, { step, fingerprint: this.#fingerprint, shards });
    } catch (error) {
      if (error instanceof DataError) return { kind: "notDurable", reason: error.message };
      throw error;
    }
  }

  get #fingerprint(): Fingerprint {
    const { settings, data } = this.#init;
    return fingerprintOf(settings, data.sha256, this.engineId);
  }

  async #evaluate(compute: ComputeThread, step: number): Promise<void> {
    const slot = defined(compute.layouts[0]?.slots[0], "one slot");
    const { count } = this.#init.data.test;
    const { batch, microBatches } = this.#init.settings;
    let correct = 0;
    let lossSum = 0;
    for (let index = 0; index < evaluationCount(count, batch / microBatches); index += 1) {
      this.#feeder.fillEvaluation(compute.memory, slot, index);
      const result = await compute.run<"evaluate">({ kind: "evaluate", lap: 0, slot: 0 });
      correct += result.correct;
      lossSum += result.loss;
    }
    this.#testAccuracy = correct / count;
    this.#recorder.event("evaluated", nowMs(), { step, testAccuracy: this.#testAccuracy, testLoss: lossSum / count });
  }

  #report(initial: readonly LayerDigest[], final: readonly LayerDigest[], communicationCpuMs: number): NodeReport {
    const model = parseModel(this.#init.settings.model);
    const { times, steadyTimes, stepMsMedian, costs } = this.#clockwork;
    const hex = (digests: readonly LayerDigest[]): Record<string, string> =>
      Object.fromEntries(digests.map(({ layer, digest }) => [String(layer), Buffer.from(digest).toString("hex")]));
    return {
      node: 0,
      peerId: "",
      role: "serial",
      layers: [[0, model.layers.length]],
      parameters: model.parameters,
      ...{ times, steadyTimes, stepMsMedian, costs, communicationCpuMs },
      pace: this.#pace,
      link: null,
      ...{ bytesSent: 0, bytesReceived: 0, messagesSent: 0, neighbours: 0 },
      peakRssBytes: peakRssBytes(),
      layerDigests: hex(final),
      initialLayerDigests: hex(initial),
    };
  }

  #summarize(report: NodeReport): Record<string, unknown> {
    const { settings, folder, firstStep } = this.#init;
    const engine = defined(this.#engines.kinds[0], "an engine");
    const facts = {
      ...{ settings, engine, firstStep, losses: this.#recorder.losses, testAccuracy: this.#testAccuracy },
      ...{ parameters: report.parameters, idleTheory: 0, idleFormula: 0 },
    };
    const summary = { ...buildSummary(facts, [report]), fingerprint: this.#fingerprint };
    folder.writeJson(RUN_FILES.summary, summary);
    const entries = folder.readLines("timeline/0.jsonl") as readonly TimelineEntry[];
    if (entries.length > 0) folder.writeJson(RUN_FILES.trace, chromeTrace([{ node: 0, entries }], 1));
    return summary;
  }
}

function notFinite(step: number, layer: number): NotFiniteError {
  return new NotFiniteError(
    `the numbers are not finite at step ${step}, layer ${layer}`,
    "lower --lr, or check the data; what was committed is kept",
  );
}
