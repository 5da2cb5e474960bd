/**
 * @file Follows one run: the losses of all committed steps in memory, and, where this process is the machine's writer, the lines of
 * `metrics.jsonl` and `events.jsonl` as they happen.
 */
import { assert } from "../types/assert.ts";
import { RUN_FILES, type RunFolder } from "./run-folder.ts";

export interface RecorderInit {
  readonly folder: RunFolder;
  /** One process a machine writes. */
  readonly isWriter: boolean;
  readonly batch: number;
  readonly view: number;
  /** Losses of the steps before the first, of a resumed run. */
  readonly earlierLosses: readonly number[];
  /** When the run began; of a resumed run, as if it had never paused: elapsed times go on. */
  readonly startedMs: number;
}

export class Recorder {
  readonly losses: number[];
  readonly #init: RecorderInit;

  constructor(init: RecorderInit) {
    this.#init = init;
    this.losses = [...init.earlierLosses];
  }

  /** Steps come once each, in order. */
  committed(step: number, loss: number, nowMs: number): void {
    const { batch, view, startedMs, folder, isWriter } = this.#init;
    assert(step === this.losses.length, `step ${this.losses.length} is next, not ${step}`);
    this.losses.push(loss);
    if (!isWriter) return;
    const elapsedMs = Math.round((nowMs - startedMs) * 1000) / 1000;
    folder.appendLines(RUN_FILES.metrics, [{ step, loss, samples: (step + 1) * batch, elapsedMs, view }]);
  }

  event(kind: string, timeMs: number, fields: Readonly<Record<string, unknown>> = {}): void {
    if (!this.#init.isWriter) return;
    this.#init.folder.appendLines(RUN_FILES.events, [{ kind, timeMs, ...fields }]);
  }
}
