/**
 * @file `history.jsonl`: with what parameters every share was computed, in the order in which they were done. A run that goes on from a checkpoint
 * keeps the lines of the steps before it. A disk that is full ends no run.
 */
import { isDiskFault, RUN_FILES, type RunFolder } from "../../src/metrics/run-folder.ts";
import { lagOf } from "../core/consistency.ts";

export interface ShareLine {
  readonly step: number;
  readonly share: number;
  readonly worker: number;
  /** The least of what was read: whole steps that were in. */
  readonly version: number;
  /** Whole steps before this one that were not. */
  readonly lag: number;
}

export class ShareHistory {
  /** Shares by lag. */
  readonly lags: number[] = [];
  readonly #folder: RunFolder;
  readonly #onFault: (step: number, reason: string) => void;
  #waiting: ShareLine[] = [];
  #isFaulty = false;

  /** @param onFault once each time that lines begin to be missing on the disk: they are written when it takes something again */
  constructor(folder: RunFolder, firstStep: number, onFault: (step: number, reason: string) => void) {
    [this.#folder, this.#onFault] = [folder, onFault];
    if (firstStep === 0) return;
    const kept = (folder.readLines(RUN_FILES.history) as readonly ShareLine[]).filter(({ step }) => step < firstStep);
    for (const { lag } of kept) this.#count(lag);
    this.#tolerate(firstStep, () => folder.writeLines(RUN_FILES.history, kept));
  }

  add({ step, version, ...of }: Omit<ShareLine, "lag">): void {
    const lag = lagOf(step, version);
    this.#count(lag);
    this.#waiting.push({ step, ...of, version, lag });
  }

  /** From now on this process writes: another one has, so far, and may have been further than its disk. */
  takeOver(): void {
    if (this.#waiting.length === 0) return;
    const all = this.#waiting;
    this.#tolerate(all[0]!.step, () => {
      const others = this.#folder.readLines(RUN_FILES.history) as readonly ShareLine[];
      const own = new Set(all.map(nameOf));
      this.#folder.writeLines(RUN_FILES.history, [...others.filter((line) => !own.has(nameOf(line))), ...all]);
      this.#waiting = [];
    });
  }

  /** What was added comes to the disk. */
  flush(): void {
    if (this.#waiting.length === 0) return;
    this.#tolerate(this.#waiting[0]!.step, () => {
      this.#folder.appendLines(RUN_FILES.history, this.#waiting);
      this.#waiting = [];
      this.#isFaulty = false;
    });
  }

  #count(lag: number): void {
    for (let length = this.lags.length; length <= lag; length += 1) this.lags.push(0);
    this.lags[lag]! += 1;
  }

  #tolerate(step: number, write: () => void): void {
    try {
      write();
    } catch (error) {
      if (!isDiskFault(error)) throw error;
      if (!this.#isFaulty) this.#onFault(step, error.message);
      this.#isFaulty = true;
    }
  }
}

function nameOf({ step, share }: ShareLine): string {
  return `${step} ${share}`;
}
