/**
 * @file The task scheduler's lines to its workers, in the process that is the scheduler and in the one that stands in for it. What workers say, and who
 * comes and goes, is made by the scheduler's machine when the other process has it too; so the machines are alike, and where the scheduler dies the
 * other one gives the same task to who asks again. What was recorded so far, it records anew.
 */
import type { Recorder } from "../../src/metrics/recorder.ts";
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import { PrimaryBackup } from "../core/primary-backup.ts";
import { Scheduler, type SchedulerInit, type SchedulerInput } from "../core/scheduler.ts";
import {
  hadSchema,
  STANDBY_PROTOCOL,
  type TaskEvent,
  taskEventSchema,
  type Telling,
  type ToldInOrder,
  toldInOrderSchema,
} from "./messages.ts";
import type { ShareHistory } from "./share-history.ts";
import { acceptTalk, openTalk, tell } from "./talk.ts";

export interface TaskServerInit {
  readonly job: string;
  readonly scheduler: SchedulerInit;
  readonly recorder: Recorder;
  readonly history: ShareHistory;
  /** Which of the two it is at first; alone: nobody stands in. */
  readonly part: "alone" | "scheduler" | "standby";
  readonly onCommitted: (step: number, loss: number) => void;
  readonly onNotDurable: (step: number, reason: string) => void;
}

export class TaskServer {
  /** All workers have been told that the run is over. */
  readonly ended: Promise<void>;
  /** Rejects in a scheduler that another one has taken the place of. */
  readonly deposed: Promise<never>;
  /** Resolves in a standby that is not needed any more, because the scheduler has ended in order. */
  readonly released: Promise<void>;
  readonly #ended = Promise.withResolvers<void>();
  /** Resolves in a standby when it is the scheduler. */
  readonly tookOver: Promise<void>;
  readonly #tookOver = Promise.withResolvers<void>();
  readonly #deposed = Promise.withResolvers<never>();
  readonly #released = Promise.withResolvers<void>();
  readonly #init: TaskServerInit;
  readonly #machine: Scheduler;
  readonly #inputs: PrimaryBackup<TaskEvent>;
  readonly #links = new Map<number, Link>();
  readonly #over = new Set<number>();
  readonly #lost = new Set<number>();
  /** Tellings of each worker that are made, and that are offered to be. */
  readonly #heard = new Map<number, number>();
  #offered = new Map<number, number>();
  /** Workers of which it is known that they are gone. */
  #gone = new Set<number>();
  /** From workers that have come, before it is known here that they have. */
  readonly #early = new Map<number, ToldInOrder[]>();
  #isActive: boolean;
  /** To the other one. */
  #other: Link | undefined;
  testAccuracy: number | null = null;
  layerDigests: Readonly<Record<string, string>> = {};

  constructor(init: TaskServerInit) {
    this.#init = init;
    this.#machine = new Scheduler(init.scheduler);
    this.#inputs = new PrimaryBackup(init.part === "scheduler");
    this.#isActive = init.part !== "standby";
    this.ended = this.#ended.promise;
    this.deposed = this.#deposed.promise;
    this.released = this.#released.promise;
    this.tookOver = this.#tookOver.promise;
    this.deposed.catch(() => {});
  }

  get isActive(): boolean {
    return this.#isActive;
  }

  /** A stream that the standby has dialled. */
  async acceptStandby(stream: ByteStream): Promise<void> {
    const link = await acceptTalk(stream, ({ job }) => {
      if (job !== this.#init.job || !this.#inputs.hasBackup || this.#other !== undefined)
        return "no standby of this job";
      const hear = ({ had }: { readonly had: number }): void => {
        for (const event of this.#inputs.had(had)) this.#make(event);
      };
      return { schema: hadSchema, from: "the standby", hear };
    });
    if (link !== undefined) this.#watchStandby(link);
  }

  /** A stream that a worker has dialled. */
  async accept(stream: ByteStream): Promise<void> {
    const { job, scheduler } = this.#init;
    let worker = -1;
    const link = await acceptTalk(stream, (hello) => {
      if (hello["job"] !== job) return "no worker of this job";
      const number = hello["worker"];
      const isWorker =
        typeof number === "number" && Number.isInteger(number) && number >= 0 && number < scheduler.workers;
      if (!isWorker) return "no worker of this job";
      if (!this.#isActive) return "another one is the task scheduler";
      if (this.#links.has(number)) return `worker ${number} is here already`;
      worker = number;
      const hear = (told: ToldInOrder, from: Link): void => {
        this.#links.set(number, from);
        this.#hear(number, told);
      };
      return { schema: toldInOrderSchema, from: `worker ${number}`, hear };
    });
    if (link === undefined) return;
    this.#links.set(worker, link);
    void link.ended.then(() => {
      if (this.#links.get(worker) === link) this.#links.delete(worker);
    });
    this.#repeat(worker);
  }

  /** In the standby: hears all that the scheduler hears. Throws NetworkError where it cannot be reached. */
  async follow(transport: Transport, addresses: readonly string[]): Promise<void> {
    let count = 0;
    const hear = (event: TaskEvent, from: Link): void => {
      this.#make(event);
      count += 1;
      tell(from, { had: count });
    };
    const listener = { schema: taskEventSchema, from: "the task scheduler", hear };
    const link = await openTalk(transport, addresses, STANDBY_PROTOCOL, { job: this.#init.job }, listener);
    this.#other = link;
    void link.ended.then(({ kind }) => {
      if (kind === "goodbye") this.#released.resolve();
      else this.takeOver();
    });
  }

  /** The standby is the scheduler from now on. */
  takeOver(): void {
    if (this.#isActive) return;
    this.#isActive = true;
    this.#other?.abort("another one is the task scheduler now");
    this.#offered = new Map(this.#heard);
    this.#gone = new Set(this.#lost);
    this.#init.recorder.write(true);
    this.#init.history.takeOver();
    this.#tookOver.resolve();
  }

  /** Who lives: others' shares are others' to compute. Only the scheduler says so. */
  living(workers: readonly number[]): void {
    if (!this.#isActive) return;
    for (let worker = 0; worker < this.#init.scheduler.workers; worker += 1) {
      const lives = workers.includes(worker);
      if (!lives && !this.#gone.has(worker)) {
        this.#gone.add(worker);
        this.#links.delete(worker);
        this.#offer({ kind: "lost", worker });
      }
      if (lives && this.#gone.delete(worker)) {
        this.#offered.delete(worker);
        this.#offer({ kind: "joined", worker });
        const early = this.#early.get(worker) ?? [];
        this.#early.delete(worker);
        for (const told of early) this.#hear(worker, told);
      }
    }
  }

  /** The run ends after the steps that have begun. */
  requestStop(): void {
    if (this.#isActive) this.#offer({ kind: "stop" });
  }

  async close(): Promise<void> {
    const links = [...this.#links.values(), ...(this.#other === undefined ? [] : [this.#other])];
    await Promise.all(links.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  #watchStandby(link: Link): void {
    this.#other = link;
    void link.ended.then((end) => {
      if (end.kind === "refused" && end.by === "peer") {
        this.#deposed.reject(new NodeLostError("this task scheduler stood still: another one goes on", "see its log"));
        return;
      }
      this.#other = undefined;
      for (const event of this.#inputs.alone()) this.#make(event);
    });
  }

  #hear(worker: number, told: ToldInOrder): void {
    if (this.#gone.has(worker)) {
      this.#early.set(worker, [...(this.#early.get(worker) ?? []), told]);
      return;
    }
    const next = this.#offered.get(worker) ?? 0;
    // It is said again to who stands in.
    if (told.sequence !== next) return;
    this.#offered.set(worker, next + 1);
    this.#offer({ kind: "told", worker, ...told });
  }

  #offer(event: TaskEvent): void {
    if (this.#inputs.hasBackup) tell(this.#other, event);
    for (const made of this.#inputs.offer(event)) this.#make(made);
  }

  #make(event: TaskEvent): void {
    switch (event.kind) {
      case "told":
        this.#heard.set(event.worker, event.sequence + 1);
        return this.#told(event.worker, event.telling);
      case "lost":
        this.#lost.add(event.worker);
        this.#heard.delete(event.worker);
        return this.#drive(event);
      case "joined":
        this.#lost.delete(event.worker);
        return this.#drive(event);
      case "stop":
        return this.#drive(event);
    }
  }

  #told(worker: number, telling: Telling): void {
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
    if (notDurable !== null && this.#isActive) onNotDurable(step, notDurable);
    this.#drive({ kind: "pauseDone", number });
  }

  /** What it was given, and what it was given unasked, may have been lost with who gave it. */
  #repeat(worker: number): void {
    const { given, extras } = this.#machine.givenTo(worker);
    const heard = this.#heard.get(worker) ?? 0;
    if (given !== undefined) tell(this.#links.get(worker), { ...given, heard });
    for (const extra of extras) tell(this.#links.get(worker), { extra });
  }

  #drive(input: SchedulerInput): void {
    for (const output of this.#machine.handle(input)) {
      if (output.kind === "committed") {
        this.#init.recorder.committed(output.step, output.loss, nowMs());
        if (!this.#isActive) continue;
        this.#init.history.flush();
        this.#init.onCommitted(output.step, output.loss);
        continue;
      }
      if (output.kind === "extra") {
        tell(this.#links.get(output.worker), { extra: output.task });
        continue;
      }
      const { worker, number, task } = output;
      tell(this.#links.get(worker), { number, task, heard: this.#heard.get(worker) ?? 0 });
      if (task.kind === "end") this.#over.add(worker);
    }
    const gone = new Set([...this.#over, ...this.#lost]);
    if (gone.size === this.#init.scheduler.workers && this.#over.size > 0) this.#ended.resolve();
  }
}
