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
import { idleFormula } from "../core/schedule.ts";
import { peersOf, type RingView } from "../core/view.ts";
import { dryRunIdle } from "../simulation/dry-run.ts";
import type { AnnouncementBody, Job } from "./messages.ts";
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
  /** Of the checkpoints under way, by step: what each segment said, its shard or why there is none. */
  readonly #outcomes = new Map<number, (Shard | string)[]>();
  #written = Promise.resolve();
  #testAccuracy: number | null = null;

  constructor(init: BulletinInit) {
    this.#init = init;
    this.summary = this.#summary.promise;
    this.completedSteps = this.#completedSteps.promise;
  }

  get isComplete(): boolean {
    return this.#reports.size === this.#init.view.members.length;
  }

  /** Resolves when every manifest that is due is on the disk, or has failed to be. */
  get written(): Promise<void> {
    return this.#written;
  }

  post(body: AnnouncementBody): void {
    switch (body.kind) {
      case "saved":
        return this.#saved(body.step, body.shard);
      case "notSaved":
        return this.#saved(body.step, body.reason);
      case "evaluated":
        return this.#evaluated(body.step, body.correct, body.lossSum);
      case "report":
        return this.#report(body.report, body.completedSteps, body.recoveries);
      case "failure":
        return;
    }
    unreachable(body);
  }

  #saved(step: number, outcome: Shard | string): void {
    const { view, isWriter } = this.#init;
    const stages = view.cut.length;
    const outcomes = this.#outcomes.get(step) ?? [];
    this.#outcomes.set(step, outcomes);
    outcomes.push(outcome);
    if (outcomes.length < stages) return;
    this.#outcomes.delete(step);
    const reason = outcomes.find((each) => typeof each === "string");
    if (reason !== undefined) return this.#notDurable(step, reason);
    if (!isWriter()) return;
    const shards = outcomes.filter((each) => typeof each !== "string");
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
    this.#testAccuracy = correct / job.testCount;
    recorder.event("evaluated", nowMs(), { step, testAccuracy: this.#testAccuracy, testLoss: lossSum / job.testCount });
  }

  #report(report: NodeReport, completedSteps: number, recoveries: readonly RecoveryRecord[]): void {
    this.#reports.set(report.node, report);
    for (const recovery of recoveries) this.#recover(recovery);
    if (this.#init.view.owners.every((owner) => this.#reports.has(owner))) this.#completedSteps.resolve(completedSteps);
    if (!this.isComplete) return;
    const { folder, isWriter } = this.#init;
    const summary = this.#build();
    this.#init.recorder.finish();
    try {
      if (isWriter()) folder.writeJson(RUN_FILES.summary, summary);
      if (isWriter()) this.#writeTrace();
    } catch (error) {
      // What all nodes know is told, on the disk or not.
      if (!isDiskFault(error)) throw error;
      this.#notDurable(completedSteps, error.message);
    }
    this.#summary.resolve(summary);
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
        testAccuracy: this.#testAccuracy,
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

/** Who saw it begin and end knows most; of those who did, the first sign of it counts. */
function knowsMore(one: RecoveryRecord, other: RecoveryRecord): boolean {
  if ((one.resumedMs === null) !== (other.resumedMs === null)) return one.resumedMs !== null;
  if (one.detectedMs !== other.detectedMs) return one.detectedMs > other.detectedMs;
  return (one.resumedMs ?? 0) > (other.resumedMs ?? 0);
}
