/**
 * @file What this node has heard from all nodes: shards of checkpoints, evaluations, reports. When every report is here the summary is
 * complete; the machine's writer puts it, the manifests and the trace on the disk.
 */
import { type Fingerprint, fingerprintOf } from "../../src/config/fingerprint.ts";
import type { Recorder } from "../../src/metrics/recorder.ts";
import { isDiskFault, RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { buildSummary, type NodeReport, type RecoveryRecord } from "../../src/metrics/summary.ts";
import { chromeTrace, type TimelineEntry } from "../../src/metrics/timeline.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { type Shard, writeManifest } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { unreachable } from "../../src/types/assert.ts";
import { DataError } from "../../src/types/errors.ts";
import { idleFormula } from "../core/schedule.ts";
import { peersOf, type RingView } from "../core/view.ts";
import { dryRunIdle } from "../simulation/dry-run.ts";
import type { AnnouncementBody, Job } from "./messages.ts";
import { News, nameOf } from "./news.ts";
import { presentShape } from "./segments.ts";

export interface BulletinInit {
  readonly job: Job;
  readonly view: RingView;
  /** Id: kind and probe digest. */
  readonly engine: string;
  readonly folder: RunFolder;
  readonly isWriter: () => boolean;
  readonly recorder: Recorder;
  readonly onNotDurable: (step: number, reason: string) => void;
}

export class Bulletin {
  /** Resolves when every node has reported. */
  readonly summary: Promise<Record<string, unknown>>;
  /** Resolves when all who hold layers have reported. */
  readonly completedSteps: Promise<number>;
  readonly #completedSteps = Promise.withResolvers<number>();
  readonly #summary = Promise.withResolvers<Record<string, unknown>>();
  readonly #init: BulletinInit;
  /** By view and node that went. */
  readonly #recoveries = new Map<string, RecoveryRecord>();
  readonly #reports = new Map<number, NodeReport>();
  readonly #news = new News();
  /** Of the checkpoints under way, by step and first layer: what each segment said, its shard or why there is none. */
  readonly #outcomes = new Map<number, Map<number, Shard | string>>();
  #written = Promise.resolve();
  #evaluation: { readonly step: number; readonly testAccuracy: number } | undefined;
  /** As the reports say. */
  #endStep: number | undefined;
  #isEnding = false;
  #isComplete = false;

  constructor(init: BulletinInit) {
    this.#init = init;
    this.summary = this.#summary.promise;
    this.completedSteps = this.#completedSteps.promise;
  }

  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Names of what is due and not here: shards of checkpoints that somebody told of, and, once the run ends, everybody's last word. */
  get lacking(): readonly string[] {
    const { view } = this.#init;
    const shards = [...this.#outcomes].flatMap(([step, outcomes]) =>
      view.cut.filter(([start]) => !outcomes.has(start)).map((layers) => nameOf({ kind: "notSaved", step, layers })),
    );
    if (this.#isComplete || (!this.#isEnding && this.#reports.size === 0)) return shards;
    const silent = view.members.filter(({ node }) => !this.#reports.has(node));
    const reports = silent.map(({ node }) => nameOf({ kind: "report", report: { node } }));
    const isEvaluated = this.#endStep === undefined || this.#isEvaluatedAt(this.#endStep);
    const evaluation = isEvaluated ? [] : [nameOf({ kind: "evaluated", step: this.#endStep! })];
    return [...shards, ...reports, ...evaluation];
  }

  /** What is here under these names, for one who lacks it. */
  find(names: readonly string[]): readonly AnnouncementBody[] {
    return this.#news.find(names);
  }

  /** Somebody says that the run ends: what nobody has told this node is to be asked for. */
  ending(): void {
    this.#isEnding = true;
  }

  /** Resolves when every manifest that is due is on the disk, or has failed to be. */
  get written(): Promise<void> {
    return this.#written;
  }

  /** Each word counts once, however often it comes. */
  post(body: AnnouncementBody): void {
    if (this.#isOfAnotherCut(body) || !this.#news.add(body)) return;
    switch (body.kind) {
      case "saved":
        return this.#saved(body.step, body.shard.layers[0], body.shard);
      case "notSaved":
        return this.#saved(body.step, body.layers[0], body.reason);
      case "evaluated":
        return this.#evaluated(body.step, body.correct, body.lossSum);
      case "report":
        return this.#report(body.report, body.completedSteps, body.recoveries);
      case "failure":
        return;
    }
    unreachable(body);
  }

  /**
   * 1. A segment is being saved. 2. A node dies, and the next view cuts the layers anew. 3. The segment is told of: it would take the name of the
   * new one that begins with the same layer. Without replicas there is one view, and layers move within it.
   */
  #isOfAnotherCut(body: AnnouncementBody): boolean {
    if (body.kind !== "saved" && body.kind !== "notSaved") return false;
    const { cut, replicas } = this.#init.view;
    const [start, end] = body.kind === "saved" ? body.shard.layers : body.layers;
    return replicas > 0 && !cut.some((range) => range[0] === start && range[1] === end);
  }

  #saved(step: number, layer: number, outcome: Shard | string): void {
    const { view, isWriter } = this.#init;
    const outcomes = this.#outcomes.get(step) ?? new Map<number, Shard | string>();
    this.#outcomes.set(step, outcomes.set(layer, outcome));
    if (outcomes.size < view.cut.length) return;
    this.#outcomes.delete(step);
    const all = [...outcomes.values()];
    const reason = all.find((each) => typeof each === "string");
    if (reason !== undefined) return this.#notDurable(step, reason);
    const shards = all.filter((each) => typeof each !== "string");
    if (!areWhole(shards, view.cut.at(-1)![1])) return this.#notDurable(step, "its segments are not the whole model");
    if (!isWriter()) return;
    this.#written = this.#written.then(() => this.#write(step, shards));
  }

  async #write(step: number, shards: readonly Shard[]): Promise<void> {
    const { folder, recorder } = this.#init;
    const durability = await writeManifest(folder, { step, fingerprint: this.#fingerprint, shards });
    if (durability.kind === "durable") recorder.event("checkpoint", nowMs(), { step });
    else this.#notDurable(step, durability.reason);
  }

  #notDurable(step: number, reason: string): void {
    this.#init.recorder.event("notDurable", nowMs(), { step, reason });
    this.#init.onNotDurable(step, reason);
  }

  get #fingerprint(): Fingerprint {
    const { job, engine } = this.#init;
    return fingerprintOf(job.settings, job.dataSha256, engine);
  }

  #evaluated(step: number, correct: number, lossSum: number): void {
    const { job, recorder } = this.#init;
    const testAccuracy = correct / job.testCount;
    recorder.event("evaluated", nowMs(), { step, testAccuracy, testLoss: lossSum / job.testCount });
    if (this.#evaluation === undefined || step >= this.#evaluation.step) this.#evaluation = { step, testAccuracy };
    this.#complete();
  }

  /** Of a job without a test set nothing is due. */
  #isEvaluatedAt(step: number): boolean {
    return this.#init.job.testCount === 0 || this.#evaluation?.step === step;
  }

  #report(report: NodeReport, completedSteps: number, recoveries: readonly RecoveryRecord[]): void {
    this.#reports.set(report.node, report);
    for (const recovery of recoveries) this.#recover(recovery);
    this.#endStep = completedSteps;
    if (this.#init.view.owners.every((owner) => this.#reports.has(owner))) this.#completedSteps.resolve(completedSteps);
    this.#complete();
  }

  /** All have reported, and the last evaluation is here, by whatever way it came. */
  #complete(): void {
    const completedSteps = this.#endStep;
    const isDue = this.#reports.size === this.#init.view.members.length && !this.#isComplete;
    if (!isDue || completedSteps === undefined || !this.#isEvaluatedAt(completedSteps)) return;
    const { folder, isWriter, recorder } = this.#init;
    const summary = this.#build();
    this.#isComplete = true;
    // What all nodes know is told, on the disk or not: from here on nothing else would end the run.
    this.#summary.resolve(summary);
    const writes = [
      () => recorder.finish(),
      () => folder.writeJson(RUN_FILES.summary, summary),
      () => this.#writeTrace(),
    ];
    for (const write of isWriter() ? writes : []) this.#tolerate(completedSteps, write);
  }

  /** A full disk, and lines that a killed process left in pieces, cost the one file. */
  #tolerate(step: number, write: () => void): void {
    try {
      write();
    } catch (error) {
      if (!isDiskFault(error) && !(error instanceof DataError)) throw error;
      this.#notDurable(step, error.message);
    }
  }

  /** The same whoever reported first. */
  #recover(recovery: RecoveryRecord): void {
    const key = `${recovery.view} ${recovery.node}`;
    const known = this.#recoveries.get(key);
    const best = known === undefined || knowsMore(recovery, known) ? recovery : known;
    const recomputedSteps = Math.max(recovery.recomputedSteps, known?.recomputedSteps ?? 0);
    this.#recoveries.set(key, { ...best, recomputedSteps });
  }

  #build(): Record<string, unknown> {
    const { job, view, recorder } = this.#init;
    const recoveries = [...this.#recoveries.values()].toSorted((a, b) => a.view - b.view || a.node - b.node);
    const departed = view.departed.map(({ node, peerId }) => ({ node, peerId }));
    const { settings } = job;
    const reports = [...this.#reports.values()].toSorted((a, b) => a.node - b.node);
    const engine = this.#init.engine.split(":")[0]!;
    const shape = presentShape(settings, view.owners.length);
    const owners = view.owners.map((owner) => reports.find(({ node }) => node === owner)!);
    const summary = buildSummary(
      {
        settings,
        parameters: parseModel(settings.model).parameters,
        engine,
        losses: recorder.losses,
        firstStep: job.firstStep,
        testAccuracy: this.#evaluation?.testAccuracy ?? null,
        idleTheory: dryRunIdle(
          shape,
          owners.map((report) => report.costs),
        ),
        idleFormula: idleFormula(shape),
        recovery: { views: view.view + 1, recoveries, departed },
      },
      reports,
    );
    return { ...summary, fingerprint: this.#fingerprint };
  }

  /** Of the nodes on this machine: the timelines of others are on theirs. */
  #writeTrace(): void {
    const { view, folder } = this.#init;
    const nodes = peersOf(view).map(({ node }) => ({
      node,
      entries: folder.readLines(`timeline/${node}.jsonl`) as readonly TimelineEntry[],
    }));
    const present = nodes.filter(({ entries }) => entries.length > 0);
    if (present.length > 0) folder.writeJson(RUN_FILES.trace, chromeTrace(present, nodes.length));
  }
}

/** Each layer is in one of them: a checkpoint that lacks one is seen when somebody goes on from it, and that is too late. */
function areWhole(shards: readonly Shard[], layers: number): boolean {
  const ranges = shards.map((shard) => shard.layers).toSorted((a, b) => a[0] - b[0]);
  return ranges.reduce((before, [start, end]) => (start === before ? end : Number.NaN), 0) === layers;
}

/** Who saw it begin and end knows most; of those who did, the first sign of it counts. */
function knowsMore(one: RecoveryRecord, other: RecoveryRecord): boolean {
  if ((one.resumedMs === null) !== (other.resumedMs === null)) return one.resumedMs !== null;
  if (one.detectedMs !== other.detectedMs) return one.detectedMs > other.detectedMs;
  return (one.resumedMs ?? 0) > (other.resumedMs ?? 0);
}
