/** @file A worker's line to its task scheduler, and to the one that stands in where that is gone. */
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import type { Task } from "../core/scheduler.ts";
import { type Given, givenSchema, TASKS_PROTOCOL, type Telling } from "./messages.ts";
import { openTalk, tell } from "./talk.ts";
import type { PauseOutcome, TaskSource } from "./worker.ts";

type Train = Extract<Task, { kind: "train" }>;

export interface TaskLineInit {
  readonly transport: Transport;
  /** Of the scheduler, and of who stands in; none: nobody does. */
  readonly schedulers: readonly (readonly string[])[];
  readonly job: string;
  readonly worker: number;
  /** Who stands in is the scheduler already. */
  readonly isFirstGone: boolean;
}

/** How long nobody may be the scheduler. */
const ABSENT_LIMIT_MS = 20_000;
const RETRY_MS = 50;

export class TaskLine implements TaskSource {
  readonly #init: TaskLineInit;
  #link: Link | undefined;
  /** Which scheduler it speaks with. */
  #scheduler = 0;
  #number = 0;
  #awaited = Promise.withResolvers<Task>();
  /** Tellings of which it is not known that they outlive the scheduler, in order; the first has the sequence `#forgotten`. */
  readonly #told: Telling[] = [];
  #forgotten = 0;
  /** By step. */
  readonly #extras: Train[] = [];
  readonly #knownExtras = new Set<string>();
  #isClosing = false;
  onExtra = (): void => {};

  private constructor(init: TaskLineInit) {
    this.#init = init;
    this.#awaited.promise.catch(() => {});
  }

  static async open(init: TaskLineInit): Promise<TaskLine> {
    const line = new TaskLine(init);
    if (init.isFirstGone) line.#scheduler = 1;
    await line.#connect();
    return line;
  }

  async next(): Promise<Task> {
    this.#say({ kind: "ask", number: this.#number });
    const task = await this.#awaited.promise;
    this.#number += 1;
    this.#awaited = Promise.withResolvers();
    this.#awaited.promise.catch(() => {});
    return task;
  }

  hasExtra(before: number): boolean {
    return this.#extras.some(({ step }) => step < before);
  }

  takeExtra(before: number): Train | undefined {
    const first = this.#extras.findIndex(({ step }) => step < before);
    return first < 0 ? undefined : this.#extras.splice(first, 1)[0];
  }

  losses(step: number, share: number, losses: readonly number[]): void {
    this.#say({ kind: "losses", step, share, losses: [...losses] });
  }

  done(step: number, share: number, version: number): void {
    this.#say({ kind: "done", step, share, version });
  }

  pauseDone({ evaluated, layerDigests, notDurable }: PauseOutcome): void {
    this.#say({ kind: "pauseDone", number: this.#number - 1, evaluated, layerDigests, notDurable });
  }

  /** The scheduler stands still, or is gone: who stands in is the scheduler from now on. */
  standIn(): void {
    if (this.#scheduler === 0) this.#link?.abort("another one is the task scheduler now");
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#link?.close(GOODBYE_LIMIT_MS);
  }

  #say(telling: Telling): void {
    this.#told.push(telling);
    tell(this.#link, { sequence: this.#forgotten + this.#told.length - 1, telling });
  }

  async #connect(): Promise<void> {
    const { transport, schedulers, job, worker } = this.#init;
    const hear = (given: Given): void => this.#hear(given);
    const listener = { schema: givenSchema, from: "the task scheduler", hear };
    const link = await openTalk(transport, schedulers[this.#scheduler]!, TASKS_PROTOCOL, { job, worker }, listener);
    this.#link = link;
    for (const [index, telling] of this.#told.entries()) tell(link, { sequence: this.#forgotten + index, telling });
    void link.ended.then(({ kind }) => {
      if (kind === "goodbye" || this.#isClosing) this.#fail(kind);
      else void this.#reconnect(kind);
    });
  }

  /** To who stands in; it takes over a moment later. */
  async #reconnect(how: string): Promise<void> {
    this.#link = undefined;
    this.#scheduler += 1;
    if (this.#scheduler >= this.#init.schedulers.length) return this.#fail(how);
    for (
      const endMs = nowMs() + ABSENT_LIMIT_MS;
      nowMs() < endMs;
      await new Promise((go) => setTimeout(go, RETRY_MS))
    ) {
      try {
        return await this.#connect();
      } catch {
        if (this.#isClosing) return;
      }
    }
    this.#fail(how);
  }

  #fail(how: string): void {
    this.#awaited.reject(new NodeLostError(`the task scheduler is gone (${how})`, "see its log; start the run again"));
  }

  #hear(given: Given): void {
    if ("extra" in given) return this.#hearExtra(given.extra);
    const { number, task, heard } = given;
    while (this.#forgotten < heard && this.#told.length > 0) {
      this.#told.shift();
      this.#forgotten += 1;
    }
    // It may come twice: from who has died, and from who stands in.
    if (number === this.#number) this.#awaited.resolve(task);
  }

  #hearExtra(task: Train): void {
    const name = `${task.step} ${task.share}`;
    if (this.#knownExtras.has(name)) return;
    this.#knownExtras.add(name);
    this.#extras.push(task);
    this.#extras.sort((a, b) => a.step - b.step);
    this.onExtra();
  }
}
