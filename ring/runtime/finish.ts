/**
 * @file How a node with all reports ends without leaving another one behind: it tells the others, and goes when all who live have told the same.
 * One that lacks a report, because its sender died, needs them for one more view.
 */
import type { ControlMessage } from "./control-messages.ts";

/** What is complete stays complete: nobody is waited for longer. */
const WAIT_MS = 5_000;
const LOOK_MS = 50;

export interface RunOutcome {
  readonly completedSteps: number;
  /** Null where this node has left before the end. */
  readonly summary: Record<string, unknown> | null;
}

export interface FinishInit {
  readonly tell: (message: ControlMessage) => void;
  /** The other members that nobody believes to be dead. */
  readonly others: () => readonly number[];
  readonly finished: (outcome: RunOutcome) => void;
}

export class Finish {
  readonly #init: FinishInit;
  readonly #complete = new Set<number>();
  #timer: NodeJS.Timeout | undefined;

  constructor(init: FinishInit) {
    this.#init = init;
  }

  /** Another view: who is complete says so again. */
  reset(): void {
    this.#complete.clear();
  }

  heard(node: number): void {
    this.#complete.add(node);
  }

  complete(view: number, outcome: RunOutcome): void {
    this.#init.tell({ say: "complete", view });
    if (this.#timer !== undefined) return;
    let waitedMs = 0;
    this.#timer = setInterval(() => {
      waitedMs += LOOK_MS;
      const isLate = waitedMs >= WAIT_MS;
      if (!isLate && !this.#init.others().every((node) => this.#complete.has(node))) return;
      clearInterval(this.#timer);
      this.#init.finished(outcome);
    }, LOOK_MS);
  }
}
