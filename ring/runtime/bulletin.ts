/**
 * @file What this node has heard from all nodes: shards of checkpoints, evaluations, reports. When every report is here the summary is
 * complete; the machine's writer puts it, the manifests and the trace on the disk.
 */
import { fingerprintOf } from "../../src/config/fingerprint.ts";
import type { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { buildSummary, type NodeReport } from "../../src/metrics/summary.ts";
import { chromeTrace, type TimelineEntry } from "../../src/metrics/timeline.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { writeManifest, type Shard } from "../../src/runtime/checkpoint.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { unreachable } from "../../src/types/assert.ts";
import type { View } from "../core/formation.ts";
import { idleFormula } from "../core/schedule.ts";
import { dryRunIdle } from "../simulation/dry-run.ts";
import type { AnnouncementBody, Job } from "./messages.ts";
import { shapeOf } from "./segments.ts";

export interface BulletinInit {
  readonly job: Job;
  readonly view: View;
  readonly folder: RunFolder;
  readonly isWriter: boolean;
  readonly recorder: Recorder;
}

export class Bulletin {
  /** Resolves when every node has reported. */
  readonly summary: Promise<Record<string, unknown>>;
  readonly #summary = Promise.withResolvers<Record<string, unknown>>();
  readonly #init: BulletinInit;
  readonly #reports = new Map<number, NodeReport>();
  readonly #shards = new Map<number, Map<string, Shard>>();
  #testAccuracy: number | null = null;

  constructor(init: BulletinInit) {
    this.#init = init;
    this.summary = this.#summary.promise;
  }

  get isComplete(): boolean {
    return this.#reports.size === this.#init.view.members.length;
  }

  post(body: AnnouncementBody): void {
    switch (body.kind) {
      case "saved":
        return this.#saved(body.step, body.shard);
      case "evaluated":
        return this.#evaluated(body.step, body.correct, body.lossSum);
      case "report":
        return this.#report(body.report);
      case "failure":
        return;
    }
    unreachable(body);
  }

  #saved(step: number, shard: Shard): void {
    const { view, isWriter, folder, job, recorder } = this.#init;
    const shards = this.#shards.get(step) ?? new Map<string, Shard>();
    this.#shards.set(step, shards.set(shard.file, shard));
    if (shards.size < view.members.length * shapeOf(job.settings, view.members.length).laps) return;
    this.#shards.delete(step);
    const { model, optimizer } = job.settings;
    const manifest = { step, model: parseModel(model).text, optimizer, shards: [...shards.values()] };
    if (isWriter) writeManifest(folder, manifest);
    recorder.event("checkpoint", nowMs(), { step });
  }

  #evaluated(step: number, correct: number, lossSum: number): void {
    const { job, recorder } = this.#init;
    this.#testAccuracy = correct / job.testCount;
    recorder.event("evaluated", nowMs(), { step, testAccuracy: this.#testAccuracy, testLoss: lossSum / job.testCount });
  }

  #report(report: NodeReport): void {
    this.#reports.set(report.node, report);
    if (!this.isComplete) return;
    const { folder, isWriter } = this.#init;
    const summary = this.#build();
    if (isWriter) {
      folder.writeJson(RUN_FILES.summary, summary);
      this.#writeTrace();
    }
    this.#summary.resolve(summary);
  }

  #build(): Record<string, unknown> {
    const { job, view, recorder } = this.#init;
    const { settings } = job;
    const reports = [...this.#reports.values()].toSorted((a, b) => a.node - b.node);
    const engine = view.engine.split(":")[0]!;
    const shape = shapeOf(settings, view.members.length);
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
          reports.map((report) => report.costs),
        ),
        idleFormula: idleFormula(shape),
      },
      reports,
    );
    return { ...summary, fingerprint: fingerprintOf(settings, job.dataSha256, view.engine) };
  }

  /** Of the nodes on this machine: the timelines of others are on theirs. */
  #writeTrace(): void {
    const { view, folder } = this.#init;
    const nodes = view.members.map(({ node }) => ({
      node,
      entries: folder.readLines(`timeline/${node}.jsonl`) as readonly TimelineEntry[],
    }));
    const present = nodes.filter(({ entries }) => entries.length > 0);
    if (present.length > 0) folder.writeJson(RUN_FILES.trace, chromeTrace(present, view.members.length));
  }
}
