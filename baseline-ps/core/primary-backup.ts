/**
 * @file One machine in two processes (Alsberg and Day 1976; Budhiraja 1993: primary-backup). The primary makes an input when the backup has it: what
 * it says because of it, the backup knows when it must go on alone. Links keep their order, so that a count says which inputs the backup has.
 */
export class PrimaryBackup<Input> {
  #hasBackup: boolean;
  /** Offered and not made, in order. */
  #waiting: Input[] = [];
  /** Offered to the backup so far, and had by it. */
  #had = 0;

  constructor(hasBackup: boolean) {
    this.#hasBackup = hasBackup;
  }

  /** Whether an input is to be sent to the backup, before it is made. */
  get hasBackup(): boolean {
    return this.#hasBackup;
  }

  /** Returns what is to be made now. */
  offer(input: Input): readonly Input[] {
    if (!this.#hasBackup) return [input];
    this.#waiting.push(input);
    return [];
  }

  /** The backup has so many inputs in all. Returns what is to be made now. */
  had(count: number): readonly Input[] {
    const made = this.#waiting.splice(0, Math.max(0, count - this.#had));
    this.#had = Math.max(this.#had, count);
    return made;
  }

  /** The backup is gone. Returns what is to be made now. */
  alone(): readonly Input[] {
    this.#hasBackup = false;
    return this.#waiting.splice(0);
  }
}
