/** @file Tasks over links: a worker's line to its task scheduler, and the scheduler's lines to its workers. */
import type { Recorder } from "../../src/metrics/recorder.ts";
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import { Scheduler, type SchedulerInit, type SchedulerInput, type Task } from "../core/scheduler.ts";
import { givenSchema, TASKS_PROTOCOL, type Telling, tellingSchema } from "./messages.ts";
import type { ShareHistory } from "./share-history.ts";
import { acceptTalk, openTalk, tell } from "./talk.ts";
import type { PauseOutcome, TaskSource } from "./worker.ts";

type Train = Extract<Task, { kind: "train" }>;

/** A worker's side. */
export class TaskLine implements TaskSource {
  readonly #link: Link;
  #number = 0;
  #awaited = Promise.withResolvers<Task>();
  /** By step. */
  readonly #extras: Train[] = [];
  onExtra = (): void => {};

  private constructor(link: Link) {
    this.#link = link;
    void link.ended.then(({ kind }) => {
      this.#awaited.reject(
        new NodeLostError(`the task scheduler is gone (${kind})`, "see its log; start the run again"),
      );
    });
  }

  static async open(
    transport: Transport,
    addresses: readonly string[],
    job: string,
    worker: number,
  ): Promise<TaskLine> {
    let line: TaskLine | undefined;
    const link = await openTalk(
      transport,
      addresses,
      TASKS_PROTOCOL,
      { job, worker },
      {
        schema: givenSchema,
        from: "the task scheduler",
        hear: (given) => ("extra" in given ? line!.#hearExtra(given.extra) : line!.#awaited.resolve(given.task)),
      },
    );
    line = new TaskLine(link);
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

  #hearExtra(task: Train): void {
    this.#extras.push(task);
    this.#extras.sort((a, b) => a.step - b.step);
    this.onExtra();
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

  async close(): Promise<void> {
    await this.#link.close(GOODBYE_LIMIT_MS);
  }

  #say(telling: Telling): void {
    tell(this.#link, telling);
  }
}

export interface TaskServerInit {
  readonly job: string;
  readonly scheduler: SchedulerInit;
  readonly recorder: Recorder;
  readonly history: ShareHistory;
  readonly onCommitted: (step: number, loss: number) => void;
  readonly onNotDurable: (step: number, reason: string) => void;
}

/** The scheduler's side. */
export class TaskServer {
  /** All workers have been told that the run is over. */
  readonly ended: Promise<void>;
  readonly #ended = Promise.withResolvers<void>();
  readonly #init: TaskServerInit;
  readonly #machine: Scheduler;
  readonly #links = new Map<number, Link>();
  readonly #over = new Set<number>();
  readonly #lost = new Set<number>();
  /** From workers that have come, before it is known here that they have. */
  readonly #early = new Map<number, Telling[]>();
  testAccuracy: number | null = null;
  layerDigests: Readonly<Record<string, string>> = {};

  constructor(init: TaskServerInit) {
    this.#init = init;
    this.#machine = new Scheduler(init.scheduler);
    this.ended = this.#ended.promise;
  }

  async accept(stream: ByteStream): Promise<void> {
    const { job, scheduler } = this.#init;
    let worker = -1;
    const link = await acceptTalk(stream, (hello) => {
      const number = hello["worker"];
      const isWorker =
        typeof number === "number" && Number.isInteger(number) && number >= 0 && number < scheduler.workers;
      if (hello["job"] !== job || !isWorker) return "no worker of this job";
      if (this.#links.has(number)) return `worker ${number} is here already`;
      worker = number;
      const hear = (telling: Telling, from: Link): void => {
        this.#links.set(number, from);
        this.#hear(number, telling);
      };
      return { schema: tellingSchema, from: `worker ${number}`, hear };
    });
    if (link !== undefined) this.#links.set(worker, link);
  }

  /** The worker is gone, and the run goes on without it. */
  lost(worker: number): void {
    if (this.#lost.has(worker)) return;
    this.#lost.add(worker);
    this.#links.delete(worker);
    this.#drive({ kind: "lost", worker });
  }

  /** Another process is this worker now. */
  joined(worker: number): void {
    if (!this.#lost.delete(worker)) return;
    this.#drive({ kind: "joined", worker });
    const early = this.#early.get(worker) ?? [];
    this.#early.delete(worker);
    for (const telling of early) this.#hear(worker, telling);
  }

  /** The run ends after the steps that have begun. */
  requestStop(): void {
    this.#drive({ kind: "stop" });
  }

  async close(): Promise<void> {
    await Promise.all([...this.#links.values()].map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  #hear(worker: number, telling: Telling): void {
    if (this.#lost.has(worker)) {
      this.#early.set(worker, [...(this.#early.get(worker) ?? []), telling]);
      return;
    }
    if (telling.kind === "ask") return this.#drive({ ...telling, worker });
    if (telling.kind === "losses") return this.#drive(telling);
    if (telling.kind === "done") {
      const { kind, step: ofStep, share, version } = telling;
      this.#init.history.add({ step: ofStep, share, worker, version });
      return this.#drive({ kind, step: ofStep, share });
    }
    const { number, evaluated, layerDigests, notDurable } = telling;
    const step = this.#machine.committed;
    const { recorder, onNotDurable } = this.#init;
    if (evaluated !== null) {
      this.testAccuracy = evaluated.testAccuracy;
      recorder.event("evaluated", nowMs(), { step, ...evaluated });
    }
    if (layerDigests !== null) {
      this.layerDigests = layerDigests;
      recorder.event(notDurable === null ? "checkpoint" : "notDurable", nowMs(), { step, reason: notDurable });
    }
    if (notDurable !== null) onNotDurable(step, notDurable);
    this.#drive({ kind: "pauseDone", number });
  }

  #drive(input: SchedulerInput): void {
    for (const output of this.#machine.handle(input)) {
      if (output.kind === "committed") {
        this.#init.recorder.committed(output.step, output.loss, nowMs());
        this.#init.history.flush();
        this.#init.onCommitted(output.step, output.loss);
        continue;
      }
      if (output.kind === "extra") {
        tell(this.#links.get(output.worker), { extra: output.task });
        continue;
      }
      const { worker, number, task } = output;
      tell(this.#links.get(worker), { number, task });
      if (task.kind === "end") this.#over.add(worker);
    }
    const gone = new Set([...this.#over, ...this.#lost]);
    if (gone.size === this.#init.scheduler.workers && this.#over.size > 0) this.#ended.resolve();
  }
}
