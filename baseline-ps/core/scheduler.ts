/**
 * @file The task scheduler of a worker group: it divides every step's batch into shares, gives them to workers, adds up their losses and says
 * which steps are committed. It holds up nobody: how far workers run ahead is the servers' to bound. Only before a pause (an evaluation, a
 * checkpoint, an end that a loss decides) does it give no share of a later step until all before are done. Whatever it is told twice changes
 * nothing, and who asks for a task again gets the same one.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { Rules } from "./consistency.ts";

export interface SchedulerInit {
  readonly workers: number;
  readonly assignment: Rules["assignment"];
  readonly firstStep: number;
  /** The run ends before this step. */
  readonly steps: number;
  /** Micro-batches of a step: at least as many as workers. */
  readonly microBatches: number;
  /** Samples of a step: a loss is the mean over them. */
  readonly batch: number;
  /** After every so many steps all workers wait for what `pause` names; 0: never. */
  readonly evaluateEvery: number;
  readonly saveEvery: number;
  readonly stopAtLoss: number | null;
}

/** What a worker does next. */
export type Task =
  | {
      readonly kind: "train";
      readonly step: number;
      readonly share: number;
      /** Micro-batches of the step: from, up to and without to. */
      readonly from: number;
      readonly to: number;
    }
  /** On the parameters after `step` steps, with nobody training. */
  | {
      readonly kind: "pause";
      readonly step: number;
      readonly evaluates: boolean;
      readonly saves: boolean;
      /** No step follows. */
      readonly isLast: boolean;
    }
  | { readonly kind: "end" };

export type SchedulerInput =
  /** For the worker's task of this number, from 0; it has been given those before. */
  | { readonly kind: "ask"; readonly worker: number; readonly number: number }
  /** Of a share of a step: each of its micro-batches' losses, in order, summed over the samples; known before its push is applied. */
  | { readonly kind: "losses"; readonly step: number; readonly share: number; readonly losses: readonly number[] }
  /** What the share pushed is applied. */
  | { readonly kind: "done"; readonly step: number; readonly share: number }
  /** The pause that was given as the task of this number is over. */
  | { readonly kind: "pauseDone"; readonly number: number }
  /** The user ends the run. */
  | { readonly kind: "stop" }
  /** The worker is gone: others compute what it was given and has not done, and its part of what follows. */
  | { readonly kind: "lost"; readonly worker: number }
  /** Another process is this worker from now on, and has its part of what follows. */
  | { readonly kind: "joined"; readonly worker: number };

export type SchedulerOutput =
  | { readonly kind: "give"; readonly worker: number; readonly number: number; readonly task: Task }
  /** A share that nobody computes any more, before all else: others may wait for it, the worker itself among them. It asks for nothing then. */
  | { readonly kind: "extra"; readonly worker: number; readonly task: Train }
  /** In order. */
  | { readonly kind: "committed"; readonly step: number; readonly loss: number };

type Train = Extract<Task, { kind: "train" }>;

/** A share that a worker computes. */
interface Computed {
  readonly worker: number;
  readonly task: Train;
  /** It did not ask for it. */
  readonly isExtra: boolean;
}

/** In a worker's place: all died, and nobody has asked for this share since. */
const NOBODY = -1;

interface OpenStep {
  readonly losses: (readonly number[] | undefined)[];
  readonly done: boolean[];
}

/** The micro-batches of one share: contiguous, as equal as whole ones can be. */
export function shareOf(microBatches: number, workers: number, share: number): readonly [from: number, to: number] {
  return [Math.floor((share * microBatches) / workers), Math.floor(((share + 1) * microBatches) / workers)];
}

export class Scheduler implements Machine<SchedulerInput, SchedulerOutput> {
  readonly #init: SchedulerInit;
  readonly #steps = new Map<number, OpenStep>();
  /** Numbers of the tasks that workers ask for, in the order in which they asked. */
  readonly #asking = new Map<number, number>();
  /** The newest task of each worker. */
  readonly #given = new Map<number, { readonly number: number; readonly task: Task }>();
  /** Who has not died, in order. */
  #alive: readonly number[];
  /** Shares that are given and not done, by name: who computes them. */
  readonly #computed = new Map<string, Computed>();
  /** Next step of each share, where they are fixed. */
  readonly #clocks: number[];
  /** The next share that nobody has, where they are free. */
  #free: { readonly step: number; readonly share: number };
  #committed: number;
  /** The first step that is not given, as far as is known. */
  #end: number;
  /** Steps before the newest pause that is over. */
  #pausedAt: number;
  #pause: { readonly worker: number; readonly task: Extract<Task, { kind: "pause" }> } | undefined;
  #hasEnded = false;

  constructor(init: SchedulerInit) {
    assert(init.microBatches >= init.workers, "every share has a micro-batch");
    this.#init = init;
    this.#alive = Array.from({ length: init.workers }, (_, worker) => worker);
    this.#clocks = this.#alive.map(() => init.firstStep);
    this.#free = { step: init.firstStep, share: 0 };
    this.#committed = this.#pausedAt = init.firstStep;
    this.#end = init.steps;
  }

  /** Steps that are committed, those before the run's first among them. */
  get committed(): number {
    return this.#committed;
  }

  /** The newest task that a worker asked for, and shares that it was given unasked and has not done. */
  givenTo(worker: number): {
    readonly given: { readonly number: number; readonly task: Task } | undefined;
    readonly extras: readonly Train[];
  } {
    const extras = [...this.#computed.values()].filter((computed) => computed.worker === worker && computed.isExtra);
    return { given: this.#given.get(worker), extras: extras.map(({ task }) => task) };
  }

  handle(input: SchedulerInput): readonly SchedulerOutput[] {
    switch (input.kind) {
      case "ask":
        return [...this.#ask(input.worker, input.number), ...this.#give()];
      case "losses":
        this.#told(input.step, ({ losses }) => (losses[input.share] = input.losses));
        this.#lossKnown(input.step);
        break;
      case "done":
        this.#computed.delete(nameOf(input));
        this.#told(input.step, ({ done }) => (done[input.share] = true));
        break;
      case "pauseDone":
        this.#pauseDone(input.number);
        break;
      case "stop":
        this.#end = Math.min(this.#end, this.#begun);
        break;
      case "lost":
        return [...this.#lost(input.worker), ...this.#give()];
      case "joined":
        this.#alive = [...new Set([...this.#alive, input.worker])].toSorted((a, b) => a - b);
        this.#given.delete(input.worker);
        return [];
    }
    return [...this.#commit(), ...this.#give()];
  }

  #lost(worker: number): SchedulerOutput[] {
    this.#alive = this.#alive.filter((each) => each !== worker);
    this.#asking.delete(worker);
    if (this.#pause?.worker === worker) this.#pause = undefined;
    const own = [...this.#computed.values()].filter((computed) => computed.worker === worker);
    if (this.#alive.length === 0) {
      // Not its own any more: who joins may have the same number, and asks for what is first.
      for (const { task } of own) this.#computed.set(nameOf(task), { worker: NOBODY, task, isExtra: false });
      return [];
    }
    return own.map(({ task }) => {
      const heir = this.#ownerOf(task.share);
      this.#computed.set(nameOf(task), { worker: heir, task, isExtra: true });
      return { kind: "extra", worker: heir, task };
    });
  }

  /** Each worker has its own share; one that is gone leaves it to the others, evenly. */
  #ownerOf(share: number): number {
    return this.#alive.includes(share) ? share : this.#alive[share % this.#alive.length]!;
  }

  #ask(worker: number, number: number): SchedulerOutput[] {
    if (!this.#alive.includes(worker)) return [];
    const given = this.#given.get(worker);
    if (number === given?.number) return [{ kind: "give", worker, ...given }];
    if (number === (given?.number ?? -1) + 1) this.#asking.set(worker, number);
    return [];
  }

  /** Of a step that is committed, everything is known. */
  #told(step: number, tell: (step: OpenStep) => void): void {
    if (step < this.#committed) return;
    const { workers } = this.#init;
    const open = this.#steps.get(step) ?? {
      losses: Array.from({ length: workers }, () => undefined),
      done: Array.from({ length: workers }, () => false),
    };
    this.#steps.set(step, open);
    tell(open);
  }

  /** Steps of which a share was given, and all before them. */
  get #begun(): number {
    if (this.#init.assignment === "fixed") return Math.max(...this.#clocks);
    return this.#free.share === 0 ? this.#free.step : this.#free.step + 1;
  }

  /** The mean over the batch, in the order of the micro-batches; undefined while one is missing. */
  #lossOf(step: number): number | undefined {
    const losses = this.#steps.get(step)?.losses ?? [undefined];
    if (losses.includes(undefined)) return undefined;
    return losses.flatMap((share) => share!).reduce((sum, loss) => sum + loss, 0) / this.#init.batch;
  }

  #lossKnown(step: number): void {
    const { stopAtLoss } = this.#init;
    const loss = this.#lossOf(step);
    if (stopAtLoss !== null && loss !== undefined && loss <= stopAtLoss) {
      this.#end = Math.min(this.#end, Math.max(step + 1, this.#begun));
    }
  }

  #commit(): SchedulerOutput[] {
    const outputs: SchedulerOutput[] = [];
    for (;;) {
      const step = this.#steps.get(this.#committed);
      const loss = this.#lossOf(this.#committed);
      if (step === undefined || loss === undefined || !step.done.every(Boolean)) return outputs;
      outputs.push({ kind: "committed", step: this.#committed, loss });
      this.#steps.delete(this.#committed);
      this.#committed += 1;
    }
  }

  #give(): SchedulerOutput[] {
    const outputs: SchedulerOutput[] = [];
    for (const [worker, number] of this.#asking) {
      const task = this.#taskFor(worker);
      if (task === undefined) continue;
      this.#asking.delete(worker);
      this.#given.set(worker, { number, task });
      outputs.push({ kind: "give", worker, number, task });
    }
    return outputs;
  }

  #taskFor(worker: number): Task | undefined {
    if (this.#isPaused) return this.#pauseFor(worker);
    if (this.#hasEnded) return { kind: "end" };
    const orphan = [...this.#computed.values()].find((computed) => computed.worker === NOBODY);
    if (orphan !== undefined) {
      this.#computed.set(nameOf(orphan.task), { worker, task: orphan.task, isExtra: false });
      return orphan.task;
    }
    const { assignment, workers, microBatches } = this.#init;
    const isFixed = assignment === "fixed";
    const { step, share } = isFixed ? this.#ownNext(worker) : this.#free;
    if (step >= this.#end || !this.#mayBegin(step)) return undefined;
    if (isFixed) this.#clocks[share] = step + 1;
    else this.#free = share + 1 < workers ? { step, share: share + 1 } : { step: step + 1, share: 0 };
    const [from, to] = shareOf(microBatches, workers, share);
    const task: Task = { kind: "train", step, share, from, to };
    this.#computed.set(nameOf(task), { worker, task, isExtra: false });
    return task;
  }

  /** The earliest step of the shares that are this worker's. */
  #ownNext(worker: number): { readonly step: number; readonly share: number } {
    const own = [...this.#clocks.keys()].filter((share) => this.#ownerOf(share) === worker);
    const share = own.reduce((first, each) => (this.#clocks[each]! < this.#clocks[first]! ? each : first));
    return { step: this.#clocks[share]!, share };
  }

  /** All that was given is committed, and something is to be done before more is given. */
  get #isPaused(): boolean {
    if (this.#committed >= this.#end) return !this.#hasEnded;
    return this.#committed > this.#pausedAt && this.#isPauseAt(this.#committed);
  }

  #isPauseAt(step: number): boolean {
    const { evaluateEvery, saveEvery } = this.#init;
    return isDue(step, evaluateEvery) || isDue(step, saveEvery);
  }

  #pauseFor(worker: number): Task | undefined {
    if (this.#pause !== undefined || worker !== this.#alive[0]) return undefined;
    const { evaluateEvery, saveEvery } = this.#init;
    const step = this.#committed;
    const isLast = step >= this.#end;
    const evaluates = isLast || isDue(step, evaluateEvery);
    const task = { kind: "pause", step, evaluates, saves: isLast || isDue(step, saveEvery), isLast } as const;
    this.#pause = { worker, task };
    return task;
  }

  #pauseDone(number: number): void {
    if (this.#pause === undefined || this.#given.get(this.#pause.worker)?.number !== number) return;
    this.#pausedAt = this.#pause.task.step;
    this.#hasEnded = this.#pause.task.isLast;
    this.#pause = undefined;
  }

  /** No pause lies before this step, and no loss that may still end the run. */
  #mayBegin(step: number): boolean {
    for (let before = this.#committed + 1; before <= step; before += 1) if (this.#isPauseAt(before)) return false;
    const { stopAtLoss, firstStep } = this.#init;
    return stopAtLoss === null || step === firstStep || step <= this.#committed || this.#lossOf(step - 1) !== undefined;
  }
}

function nameOf({ step, share }: { readonly step: number; readonly share: number }): string {
  return `${step} ${share}`;
}

function isDue(step: number, interval: number): boolean {
  return interval > 0 && step % interval === 0;
}
