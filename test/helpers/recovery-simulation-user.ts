/** @file The user of a simulated node: steps are durable as told before they are told, one write at a time with all that has come meanwhile. */
import { writeReported } from "./recovery-simulation-disk.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";

/** A disk that failed is tried again: nothing may be committed here any more that would try it. */
const RETRY_MS = 50;

export class User {
  readonly #process: RecoveryProcess;
  #isWriting = false;
  #toTell: { readonly step: number; readonly loss: number }[] = [];
  /** The next step that he is to be told; undefined: whichever comes. */
  #next: number | undefined;

  constructor(process: RecoveryProcess) {
    this.#process = process;
  }

  /** The node was away: others have told what was committed meanwhile. */
  away(): void {
    this.#next = undefined;
  }

  committed(step: number, loss: number): void {
    if (this.#next !== undefined && step < this.#next) return;
    this.#next = step + 1;
    this.#toTell.push({ step, loss });
    this.#report();
  }

  #report(): void {
    const version = this.#next;
    if (this.#isWriting || version === undefined || this.#toTell.length === 0) return;
    this.#isWriting = true;
    writeReported(this.#process, version, (isDurable) => {
      this.#isWriting = false;
      if (!isDurable) return this.#process.later(RETRY_MS, () => this.#report());
      while (this.#toTell.length > 0 && this.#toTell[0]!.step < version) {
        this.#process.world.checker.told(this.#process, this.#toTell.shift()!);
      }
      this.#process.toKeeper({ kind: "reported", version });
      this.#report();
    });
  }
}
