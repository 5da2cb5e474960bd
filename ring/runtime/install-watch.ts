/**
 * @file Whether the install of a view gets on, here and at the other members. 1. A member lives, but its fetches hang, or nobody gives it the losses
 * that it lacks. 2. It is never ready, and nothing is trained that could stall. 3. All wait for it: whoever installs tells the others how far it is,
 * and when that stands still everywhere the view is given up.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import { InstallClock } from "../core/readiness.ts";

const TELL_MS = 1_000;

export interface InstallWatchInit {
  /** To the other members: how far this node is. */
  readonly tell: (view: number, progress: number) => void;
  /** Nothing has got any further for so long. Told again and again while that is so. */
  readonly still: (forMs: number) => void;
}

export class InstallWatch {
  readonly #init: InstallWatchInit;
  #clock = new InstallClock(nowMs());
  #view = -1;
  /** Bytes, layers and whatever else came in this process's time. */
  #arrived = 0;
  #toldMs = 0;

  constructor(init: InstallWatchInit) {
    this.#init = init;
  }

  begin(view: number): void {
    this.#view = view;
    this.#clock = new InstallClock(nowMs());
    this.#toldMs = nowMs();
  }

  /** Something of an install came, or was done. */
  arrived(): void {
    this.#arrived += 1;
  }

  heard(node: number, view: number, progress: number): void {
    if (view === this.#view) this.#clock.reached(node, progress, nowMs());
  }

  overslept(): void {
    this.#clock.overslept(nowMs());
  }

  /** @param isInstalling this node is not ready; else it waits for others
   *  @param steps of so many the losses are here */
  tick(node: number, isInstalling: boolean, steps: number): void {
    const progress = this.#arrived + steps;
    this.#clock.reached(node, progress, nowMs());
    if (nowMs() - this.#toldMs < TELL_MS) return;
    this.#toldMs = nowMs();
    if (isInstalling) this.#init.tell(this.#view, progress);
    const stillMs = this.#clock.stillMs(nowMs());
    if (stillMs !== undefined) this.#init.still(stillMs);
  }
}
