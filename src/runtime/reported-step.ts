/**
 * @file The highest step that a user was told, on the disk before he is told. Notes are grouped: at most one write in 50 ms, which carries
 * the highest of them. A disk that fails ends nothing: it is told once, and each later group tries anew with a new file.
 */
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import { type FileSystem, nodeFileSystem, writeDurably } from "./durable.ts";
import { readRecord, sealRecord } from "./sealed-record.ts";
import { STATE_REMEDY, type StateFolder } from "./state-folder.ts";

const FILE = "reported";
export const GROUP_MS = 50;

export interface ReportedStepInit {
  readonly folder: StateFolder;
  /** What was told in another one counts for nothing here. */
  readonly job: string;
  /** Every step up to this one may be told. */
  readonly onDurable: (step: number) => void;
  /** Once for each time that the disk begins to fail: nothing since `step` is durable. */
  readonly onFault: (step: number, error: DataError) => void;
  readonly fileSystem?: FileSystem;
}

export class ReportedStep {
  readonly #init: ReportedStepInit;
  readonly #file: string;
  #durable: number;
  #noted: number;
  #notDurableSince: number | null = null;
  #writing: Promise<void> | undefined;

  private constructor(init: ReportedStepInit, file: string, step: number) {
    this.#init = init;
    this.#file = file;
    this.#durable = this.#noted = step;
  }

  /** Throws DataError where the file is damaged: what was told is evidence that must not be forgotten. */
  static async open(init: ReportedStepInit): Promise<ReportedStep> {
    const file = init.folder.file(FILE);
    const fields = await readRecord(file, ["job", "step"], STATE_REMEDY);
    if (fields === undefined || fields.job !== init.job) return new ReportedStep(init, file, -1);
    const step = z.int().min(0).safeParse(fields.step);
    if (!step.success) throw new DataError(`${file}: its step is not of this version`, STATE_REMEDY);
    return new ReportedStep(init, file, step.data);
  }

  /** The highest step on the disk; -1: none. */
  get durable(): number {
    return this.#durable;
  }

  /** The first step that the disk does not have; null while it does its work. */
  get notDurableSince(): number | null {
    return this.#notDurableSince;
  }

  /** A step that is about to be told: `onDurable` follows, at once where the disk has one that is no lower. */
  note(step: number): void {
    assert(Number.isSafeInteger(step) && step >= 0, "a step is a whole number");
    if (step <= this.#durable) return this.#init.onDurable(this.#durable);
    this.#noted = Math.max(this.#noted, step);
    this.#writing ??= this.#write();
  }

  /** Resolves when what was noted is durable, or has failed to be. */
  async close(): Promise<void> {
    await this.#writing;
  }

  async #write(): Promise<void> {
    for (let tried = this.#durable; this.#noted > tried;) {
      tried = this.#noted;
      const pause = sleep(GROUP_MS);
      await this.#writeStep(tried);
      await pause;
    }
    // In the same turn as the last look at what was noted: a note in between would be lost.
    this.#writing = undefined;
  }

  async #writeStep(step: number): Promise<void> {
    const { onDurable, onFault, fileSystem = nodeFileSystem } = this.#init;
    try {
      await writeDurably(this.#file, sealRecord({ job: this.#init.job, step }), { mode: 0o600, fileSystem });
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      if (this.#notDurableSince === null) onFault((this.#notDurableSince = this.#durable + 1), error);
      return;
    }
    this.#durable = step;
    this.#notDurableSince = null;
    onDurable(step);
  }
}
