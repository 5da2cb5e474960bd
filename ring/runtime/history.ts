/**
 * @file What one node knows of the run through all views: every step's loss, which steps were told, and what became of nodes that went. A step
 * is on the disk before a user is told of it; who joins late asks the others for the losses before its time.
 */
import type { Recorder } from "../../src/metrics/recorder.ts";
import type { RecoveryRecord } from "../../src/metrics/summary.ts";
import { within } from "../../src/net/wait.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { RingView } from "../core/view.ts";
import { RECOVERIES_MAX } from "./messages.ts";
import type { NodeState } from "./node-state.ts";

/** Losses in one answer. */
const LOSSES_MAX = 2000;
const ASK_MS = 200;
/** Losses that are not told yet, of the newest steps: no more are on their way. */
const RECENT_MAX = 16;

export interface HistoryInit {
  readonly recorder: Recorder;
  readonly state: NodeState | undefined;
  /** By the machine's writer: a step is committed, and the disk has it. */
  readonly told: (step: number, loss: number) => void;
}

interface Committed {
  readonly step: number;
  readonly loss: number;
  readonly view: number;
}

export class History {
  readonly #init: HistoryInit;
  readonly #recent = new Map<number, number>();
  #pending: Committed[] = [];
  readonly #recoveries: RecoveryRecord[] = [];
  /** The ones that no step was committed after yet, with the last sign of life. */
  #open: { readonly index: number; readonly lastHeardMs: number }[] = [];
  #watchers: { readonly isDue: () => boolean; readonly resolve: () => void }[] = [];

  constructor(init: HistoryInit) {
    this.#init = init;
    if (init.state !== undefined) init.state.onDurable = (step) => this.#tell(step);
  }

  noteLoss(step: number, loss: number): void {
    this.#recent.set(step, loss);
    for (const known of this.#recent.keys()) if (this.#recent.size > RECENT_MAX) this.#recent.delete(known);
  }

  /** NaN where it is not known. */
  lossOf(step: number): number {
    return this.#init.recorder.losses[step] ?? this.#recent.get(step) ?? Number.NaN;
  }

  /** In order. The writer tells a user once the disk has the step; the others only note it. */
  committed(step: number, loss: number, view: number): void {
    // 1. The ring ends without this node, which does not know it yet. 2. It is told, and given the losses. 3. What it had under way is known.
    if (step < this.#next) return;
    for (const { index, lastHeardMs } of this.#open.splice(0)) {
      this.#recoveries[index] = { ...this.#recoveries[index]!, resumedMs: since(lastHeardMs, nowMs()) };
      this.#init.recorder.event("recovered", nowMs(), { ...this.#recoveries[index] });
    }
    const { state, recorder } = this.#init;
    this.#pending.push({ step, loss, view });
    if (state === undefined || !recorder.isWriter || !state.isDurable) this.#tell(step);
    if (recorder.isWriter) state?.note(step);
  }

  #tell(durable: number): void {
    const { recorder, told } = this.#init;
    while (this.#pending[0] !== undefined && this.#pending[0].step <= durable) {
      const { step, loss, view } = this.#pending.shift()!;
      recorder.committed(step, loss, nowMs(), view);
      if (recorder.isWriter) told(step, loss);
    }
    this.look();
  }

  /** When it is settled who writes: who does so no more has nobody to tell, and leaves the file alone; who goes on tells what waited. */
  flush(): void {
    this.#tell(Infinity);
  }

  /** @param begun the step that this node was in when the view before ended */
  viewed(view: RingView, lastHeardMs: (node: number) => number, begun: number | undefined): void {
    const { recorder } = this.#init;
    for (const { step, loss } of view.losses) this.noteLoss(step, loss);
    for (const step of this.#recent.keys()) if (step >= view.restoreStep) this.#recent.delete(step);
    if (view.view === 0) return;
    const at = nowMs();
    const recomputedSteps = begun === undefined ? 0 : Math.max(0, begun - view.restoreStep + 1);
    for (const { node, cause } of view.removed) {
      const heardMs = lastHeardMs(node);
      this.#open.push({ index: this.#recoveries.length, lastHeardMs: heardMs });
      const times = { detectedMs: since(heardMs, at), resumedMs: null };
      this.#recoveries.push({ cause, node, step: view.restoreStep, view: view.view, ...times, recomputedSteps });
    }
    const { members, owners, cut, restoreStep, replicas, removed } = view;
    const nodes = members.map(({ node }) => node);
    recorder.event("view", at, { view: view.view, members: nodes, owners, cut, replicas, restoreStep, removed });
    this.look();
  }

  /** The newest, as this node saw them. */
  get recoveries(): readonly RecoveryRecord[] {
    return this.#recoveries.slice(-RECOVERIES_MAX);
  }

  /** The first step that was neither recorded nor is about to be. */
  get #next(): number {
    return this.#init.recorder.steps + this.#pending.length;
  }

  /** Resolves with the number of steps that are known, when all losses before the view's first step are. */
  async catchUp(view: RingView, ask: (from: number) => void, isOver: () => boolean): Promise<number> {
    for (let step = this.#next; step < view.restoreStep && !isOver();) {
      if (Number.isNaN(this.lossOf(step))) {
        ask(this.#next);
        // The ring stands still meanwhile, and a long run has many answers' worth of losses.
        await within(this.reached(this.#next + 1, isOver), ASK_MS, () => {});
        step = this.#next;
      } else step += 1;
    }
    return this.#next;
  }

  /** Resolves when so many steps were told, or `isOver`: the others are asked for what does not come by itself. */
  async askUntil(steps: number, ask: (from: number) => void, isOver: () => boolean): Promise<void> {
    while (this.#init.recorder.steps < steps && !isOver()) {
      await new Promise((resolve) => setTimeout(resolve, ASK_MS));
      if (this.#next < steps) ask(this.#next);
    }
  }

  lossesFrom(from: number): { readonly from: number; readonly losses: readonly number[] } {
    return { from, losses: this.#init.recorder.losses.slice(from, from + LOSSES_MAX) };
  }

  heardLosses(from: number, losses: readonly number[]): void {
    const { recorder } = this.#init;
    if (this.#pending.length > 0) return;
    for (const [index, loss] of losses.entries()) {
      if (from + index === recorder.steps) recorder.committed(from + index, loss, nowMs());
    }
    this.look();
  }

  /** Resolves when so many steps were told, or `isOver`. */
  reached(steps: number, isOver: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#watchers.push({ isDue: () => this.#init.recorder.steps >= steps || isOver(), resolve });
      this.look();
    });
  }

  /** What somebody waits for may have come, or be void. */
  look(): void {
    const due = this.#watchers.filter(({ isDue }) => isDue());
    this.#watchers = this.#watchers.filter((watcher) => !due.includes(watcher));
    for (const { resolve } of due) resolve();
  }

  async close(): Promise<void> {
    await this.#init.state?.close();
  }
}

/** Not below zero, nor minus zero: the last sign of life may come after the news of the death. */
const since = (fromMs: number, toMs: number): number => Math.round(Math.max(0, toMs - fromMs) * 10) / 10;
