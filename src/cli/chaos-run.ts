/**
 * @file A ring under random faults: it is started here, hit again and again once it is whole, and ended in order when the last fault is
 * recovered. Only processes that this one started are hit.
 */
import { existsSync, realpathSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { nowMs } from "../runtime/clock.ts";
import { ask, runningNodes } from "../runtime/process-control.ts";
import { drawBlows, drawKind, faultText, nodesHit, type Blow, type FaultKind, type Targets } from "./chaos-plan.ts";
import { askAll } from "./job-answers.ts";
import { Launcher } from "./launcher.ts";
import { formatSeconds, Progress } from "./progress.ts";
import type { RunRequest, RunResult } from "./run-request.ts";
import type { NodeEvent } from "./run-node.ts";

const LOOK_MS = 200;
/** A ring that is not whole again by then is stuck. */
const WHOLE_LIMIT_MS = 120_000;
/** A node that leaves hands its layers over first. */
const LEAVE_LIMIT_MS = 30_000;
/** How long a run that is stuck may take to end in order. */
const END_LIMIT_MS = 15_000;

export interface ChaosRunInit {
  readonly request: RunRequest;
  readonly kinds: readonly FaultKind[];
  readonly kills: number;
  readonly everyMs: number;
  readonly seed: number;
  /** The run goes on at least so far. */
  readonly stepsMin: number;
}

/** A fault as it was delivered. */
export interface Fault {
  readonly kind: string;
  /** The newest committed step at the first signal. */
  readonly step: number;
  /** Since 1970, as in `events.jsonl`. */
  readonly blows: readonly { readonly node: number; readonly signalMs: number }[];
}

export interface ChaosOutcome {
  readonly faults: readonly Fault[];
  /** What users were told: loss by step. */
  readonly told: ReadonlyMap<number, number>;
  /** Told again with another loss. */
  readonly retold: readonly number[];
  readonly startedMs: number;
  /** What the ring did not recover from; null where it did from all. */
  readonly stuck: string | null;
  /** Null where a run that was stuck did not end in order. */
  readonly result: RunResult | null;
}

export class ChaosRun {
  readonly #init: ChaosRunInit;
  readonly #progress: Progress;
  readonly #launcher: Launcher;
  readonly #faults: Fault[] = [];
  readonly #told = new Map<number, number>();
  readonly #retold: number[] = [];
  readonly #ended = Promise.withResolvers<void>();
  readonly #paused = new Set<number>();
  #startedMs = nowMs();
  #step = -1;
  #isOver = false;

  constructor(init: ChaosRunInit, progress: Progress) {
    this.#init = init;
    this.#progress = progress;
    this.#launcher = new Launcher(init.request, new Progress(true), (event) => this.#hear(event));
  }

  /** Throws what ended the run where it did not end in order. */
  async run(): Promise<ChaosOutcome> {
    this.#startedMs = nowMs();
    const running = this.#launcher.run().finally(() => {
      this.#isOver = true;
      this.#ended.resolve();
    });
    // Awaited below; until then its failure must not count as unhandled.
    running.catch(() => {});
    const stuck = await this.#deliver();
    for (const pid of this.#paused) resume(pid);
    this.#launcher.stop();
    const limit = setTimeout(() => this.#launcher.kill(), stuck === null ? WHOLE_LIMIT_MS : END_LIMIT_MS);
    const result = await running.catch((error: unknown) => {
      if (stuck === null) throw error;
      return null;
    });
    clearTimeout(limit);
    const faults = { faults: this.#faults, startedMs: this.#startedMs, stuck };
    return { ...faults, told: this.#told, retold: this.#retold, result };
  }

  #hear(event: NodeEvent): void {
    if (event.kind !== "committed") return;
    const { step, loss } = event;
    const before = this.#told.get(step);
    if (before !== undefined && before !== loss) this.#retold.push(step);
    this.#told.set(step, loss);
    if (step <= this.#step) return;
    this.#step = step;
    const { stepsMin } = this.#init;
    if (step < stepsMin && stepsMin > 1) this.#progress.step(step, stepsMin, loss);
  }

  /** Resolves with what the ring did not recover from; null when all is done, or the run is over. */
  async #deliver(): Promise<string | null> {
    const { kills, kinds, seed, everyMs, stepsMin } = this.#init;
    let what = "its start";
    for (let index = 0; index < kills; index += 1) {
      const targets = await this.#wholeFor(everyMs);
      if (targets === undefined) return this.#stuck(what);
      const kind = drawKind(kinds, seed, index);
      for (const [round, blows] of drawBlows(kind, targets, seed, index).entries()) {
        if (round > 0 && (await this.#wholeFor(0)) === undefined) return this.#stuck(what);
        what = `fault ${index + 1} (${faultText(kind)} of node ${blows.flatMap(nodesHit).join(", ")})`;
        await this.#strike(kind, blows);
      }
      const hitMs = nowMs();
      this.#progress.say(`${what} of ${kills}, at step ${this.#faults.at(-1)?.step}`);
      if ((await this.#wholeFor(0)) === undefined) return this.#stuck(what);
      this.#tellProgress(index + 1, nowMs() - hitMs);
    }
    while (this.#step + 1 < stepsMin && !this.#isOver) await this.#wait(LOOK_MS);
    return null;
  }

  #stuck(after: string): string | null {
    if (this.#isOver) return null;
    return `the ring was not whole within ${WHOLE_LIMIT_MS / 1000} s after ${after}`;
  }

  #tellProgress(done: number, tookMs: number): void {
    const seconds = (nowMs() - this.#startedMs) / 1000;
    const left = formatSeconds(((this.#init.kills - done) * seconds) / done);
    const rate = `${((this.#step + 1) / seconds).toFixed(1)} steps/s`;
    this.#progress.say(`  whole again after ${formatSeconds(tookMs / 1000)}; ${rate}, about ${left} left`);
  }

  /** Resolves when the ring was whole, and is so still after `everyMs`; undefined where that does not come, or the run is over. */
  async #wholeFor(everyMs: number): Promise<Targets | undefined> {
    const limitMs = nowMs() + WHOLE_LIMIT_MS + everyMs;
    while (nowMs() < limitMs && !this.#isOver && !this.#launcher.isInterrupted) {
      const isWhole = (await this.#targets()) !== undefined;
      await this.#wait(isWhole ? everyMs : LOOK_MS);
      const targets = isWhole ? await this.#targets() : undefined;
      if (targets !== undefined) return targets;
    }
    return undefined;
  }

  /** All nodes train in one view, and no copy is missing; undefined otherwise. */
  async #targets(): Promise<Targets | undefined> {
    const { settings } = this.#init.request;
    const answers = await askAll(this.#entries);
    const [first] = answers;
    if (first === undefined || answers.length < settings.nodes) return undefined;
    const isWhole = answers.every(
      ({ view, state, recovery }) => view === first.view && state === "training" && recovery?.isWhole === true,
    );
    const nodes = first.members.filter(({ gone }) => gone === undefined).map(({ node }) => node);
    if (!isWhole || nodes.length < settings.nodes || first.owners === undefined) return undefined;
    return { nodes, owners: first.owners };
  }

  get #entries() {
    const { out } = this.#init.request;
    const path = existsSync(out) ? realpathSync(out) : out;
    const pids = new Set(this.#launcher.pids.values());
    return runningNodes().filter((entry) => entry.out === path && pids.has(entry.pid));
  }

  async #wait(milliseconds: number): Promise<void> {
    await Promise.race([delay(milliseconds, undefined, { ref: false }), this.#ended.promise]);
  }

  async #strike(kind: FaultKind, blows: readonly Blow[]): Promise<void> {
    const step = this.#step;
    const delivered: { node: number; signalMs: number }[] = [];
    let waitedMs = 0;
    for (const { node, delayMs, deed } of blows) {
      await this.#wait(delayMs - waitedMs);
      waitedMs = delayMs;
      const pid = this.#launcher.pids.get(node);
      if (pid === undefined || this.#isOver) continue;
      // Of a cut line either end may go: it is this fault that the ring goes on from.
      delivered.push(...nodesHit({ node, deed }).map((hit) => ({ node: hit, signalMs: nowMs() })));
      if (deed === "kill") process.kill(pid, "SIGKILL");
      else if (deed === "leave") await this.#leave(node);
      else if ("pauseMs" in deed) await this.#pause(pid, deed.pauseMs);
      else await this.#cut([node, deed.other], deed.cutMs);
    }
    if (delivered.length > 0) this.#faults.push({ kind: faultText(kind), step, blows: delivered });
  }

  async #pause(pid: number, pauseMs: number): Promise<void> {
    process.kill(pid, "SIGSTOP");
    this.#paused.add(pid);
    await this.#wait(pauseMs);
    this.#paused.delete(pid);
    resume(pid);
  }

  async #cut([a, b]: readonly [number, number], cutMs: number): Promise<void> {
    const [status] = await askAll(this.#entries);
    for (const word of ["cut", "mend"] as const) {
      for (const [end, other] of [
        [a, b],
        [b, a],
      ]) {
        const entry = this.#entries.find(({ node }) => node === end);
        const peerId = status?.members.find(({ node }) => node === other)?.peerId;
        if (entry !== undefined && peerId !== undefined) await ask(entry, `${word} ${peerId}`);
      }
      if (word === "cut") await this.#wait(cutMs);
    }
  }

  /** It goes in order, and comes back. */
  async #leave(node: number): Promise<void> {
    const entry = this.#entries.find((each) => each.node === node);
    if (entry !== undefined) await ask(entry, "leave");
    const limitMs = nowMs() + LEAVE_LIMIT_MS;
    while (this.#launcher.pids.has(node) && nowMs() < limitMs && !this.#isOver) await this.#wait(LOOK_MS);
    if (!this.#launcher.pids.has(node) && !this.#isOver) this.#launcher.start(node);
  }
}

function resume(pid: number): void {
  try {
    process.kill(pid, "SIGCONT");
  } catch {
    // It has been killed meanwhile.
  }
}
