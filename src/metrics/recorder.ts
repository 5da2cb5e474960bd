/**
 * @file Follows one run: the lines of all committed steps in memory, and, while this process is its machine's writer, in `metrics.jsonl`;
 * events too. Who takes the role over cuts a torn last line, and goes on behind the last step in the file. A disk that is full or broken ends no
 * run: what it did not take is written when it takes something again.
 */
import { assert } from "../types/assert.ts";
import { isDiskFault, RUN_FILES, type MetricsLine, type RunFolder } from "./run-folder.ts";

export interface RecorderInit {
  readonly folder: RunFolder;
  readonly batch: number;
  /** Of the steps before the first, of a resumed run. */
  readonly earlier: readonly MetricsLine[];
  /** When the run began; of a resumed run, as if it had never paused: elapsed times go on. */
  readonly startedMs: number;
  /** Lines from this step on are not on the disk. Once each time that it begins to fail. */
  readonly onFault?: (step: number, reason: string) => void;
}

export class Recorder {
  readonly #init: RecorderInit;
  readonly #lines: MetricsLine[];
  readonly #losses: number[];
  /** Steps in the file at the last look; undefined while another process writes it. */
  #written: number | undefined;
  #isFaulty = false;

  constructor(init: RecorderInit) {
    this.#init = init;
    this.#lines = [...init.earlier];
    this.#losses = init.earlier.map(({ loss }) => loss);
  }

  get losses(): readonly number[] {
    return this.#losses;
  }

  get lines(): readonly MetricsLine[] {
    return this.#lines;
  }

  get steps(): number {
    return this.#lines.length;
  }

  get isWriter(): boolean {
    return this.#written !== undefined;
  }

  /** From now on this process writes, or another one does. */
  write(isWriter: boolean): void {
    if (isWriter === this.isWriter) return;
    this.#written = isWriter ? 0 : undefined;
    this.#append();
  }

  /** Steps come once each, in order. `view`: in which it was committed. */
  committed(step: number, loss: number, nowMs: number, view = 0): void {
    const { batch, startedMs } = this.#init;
    assert(step === this.steps, `step ${this.steps} is next, not ${step}`);
    const elapsedMs = Math.round((nowMs - startedMs) * 1000) / 1000;
    this.#losses.push(loss);
    this.#lines.push({ step, loss, samples: (step + 1) * batch, elapsedMs, view });
    this.#append();
  }

  /**
   * What the file lacks, as it is now. A writer before this one may have been further than this process knew; so may one after it: 1. This
   * process is stopped. 2. The others go on without it, and another one writes. 3. It goes on, and takes itself for the writer still.
   */
  #append(): void {
    if (this.#written === undefined || this.#written >= this.steps) return;
    const { folder } = this.#init;
    this.#tolerate(() => {
      const next = (this.#written = folder.nextStep());
      folder.appendLines(RUN_FILES.metrics, this.#lines.slice(next));
      this.#written = Math.max(next, this.steps);
      this.#isFaulty = false;
    });
  }

  /** Only what the disk does is tolerated. */
  #tolerate(write: () => void): void {
    try {
      write();
    } catch (error) {
      if (!isDiskFault(error)) throw error;
      if (!this.#isFaulty) this.#init.onFault?.(this.#written ?? this.steps, error.message);
      this.#isFaulty = true;
    }
  }

  /** At the end: every step stands in the file once, in order, whoever wrote it. */
  finish(): void {
    if (!this.isWriter) return;
    const lines = this.#init.folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[];
    const isRight =
      lines.length === this.steps &&
      lines.every(({ step, loss }, index) => step === index && loss === this.#lines[index]!.loss);
    if (!isRight) this.#tolerate(() => this.#init.folder.writeLines(RUN_FILES.metrics, this.#lines));
  }

  event(kind: string, timeMs: number, fields: Readonly<Record<string, unknown>> = {}): void {
    if (!this.isWriter) return;
    this.#tolerate(() => this.#init.folder.appendLines(RUN_FILES.events, [{ kind, timeMs, ...fields }]));
  }
}
