/**
 * @file How a node with all reports ends without leaving another one behind: it tells the others, and goes when all who live have told the same.
 * It tells those outside the ring as well, who would wait for a place in it for ever, and listens to them a little longer.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import type { RingView } from "../core/view.ts";
import type { ControlMessage } from "./control-messages.ts";

/** What is complete stays complete: nobody is waited for longer. */
const WAIT_MS = 5_000;
const LOOK_MS = 50;
/** One outside the ring that has said nothing for so long is not waited for. */
const QUIET_MS = 1_000;

export interface RunOutcome {
  readonly completedSteps: number;
  /** Null where this node has left before the end. */
  readonly summary: Record<string, unknown> | null;
}

export interface FinishInit {
  /** To one peer, or to all other members. */
  readonly tell: (message: ControlMessage, to?: number) => void;
  /** The other members that nobody believes to be dead. */
  readonly others: () => readonly number[];
  /** Resolves with those outside the ring that answer. */
  readonly callDeparted: () => Promise<readonly number[]>;
  readonly finished: (outcome: RunOutcome) => void;
}

export class Finish {
  readonly #init: FinishInit;
  readonly #complete = new Set<number>();
  /** When one outside the ring has said something, and when it was told of the end. */
  readonly #metMs = new Map<number, number>();
  readonly #toldMs = new Map<number, number>();
  #ended: Extract<ControlMessage, { say: "ended" }> | undefined;
  #isCalling = false;
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

  /** One outside the ring is there. It asks again and again, and is answered once in a while. */
  met(node: number): void {
    this.#metMs.set(node, nowMs());
    if (this.#ended === undefined || this.#complete.has(node)) return;
    if (nowMs() - (this.#toldMs.get(node) ?? -Infinity) < QUIET_MS) return;
    this.#toldMs.set(node, nowMs());
    this.#init.tell(this.#ended, node);
  }

  /** 1. This node is complete, others are not, and decide another view. 2. They need not report anew: the run has ended before it. */
  viewed(): void {
    if (this.#ended !== undefined) this.#init.tell(this.#ended);
  }

  /** @param view the one in which all have reported */
  complete(view: RingView, outcome: RunOutcome): void {
    this.#init.tell({ say: "complete", view: view.view });
    if (this.#timer !== undefined) return;
    this.#ended = { say: "ended", last: view, completedSteps: outcome.completedSteps };
    this.#isCalling = true;
    void this.#init.callDeparted().then((nodes) => {
      this.#isCalling = false;
      for (const node of nodes) this.met(node);
    });
    const sinceMs = nowMs();
    this.#timer = setInterval(() => {
      if (nowMs() - sinceMs < WAIT_MS && this.#isAwaited) return;
      clearInterval(this.#timer);
      this.#init.finished(outcome);
    }, LOOK_MS);
  }

  get #isAwaited(): boolean {
    const outside = [...this.#metMs].filter(([, metMs]) => nowMs() - metMs < QUIET_MS).map(([node]) => node);
    return this.#isCalling || [...this.#init.others(), ...outside].some((node) => !this.#complete.has(node));
  }
}
