/**
 * @file The task scheduler alone, with workers that ask, tell, die and come back at any event, and a checker after every one. Messages of a worker keep
 * their order and are late; what a dead worker told may still arrive or not.
 */
import {
  Scheduler,
  type SchedulerInit,
  type SchedulerInput,
  type SchedulerOutput,
  type Task,
} from "../../baseline-ps/core/scheduler.ts";
import { assert } from "../../src/types/assert.ts";
import { RandomStream } from "../../src/types/random.ts";

type Train = Extract<Task, { kind: "train" }>;

/** Holds a share that its dead worker has left. */
const NOBODY = -1;
const EVENTS_MAX = 20_000;

export interface SchedulerScenario extends SchedulerInit {
  readonly seed: number;
  /** Deaths in all; each is followed by another process in that place. */
  readonly deaths: number;
}

export function schedulerScenario(seed: number): SchedulerScenario {
  const random = new RandomStream(seed, 1_002);
  const one = <Value>(values: readonly Value[]): Value => values[random.nextBelow(values.length)]!;
  const workers = 1 + random.nextBelow(5);
  const microBatches = workers + random.nextBelow(5);
  return {
    ...{ seed, workers, microBatches, batch: microBatches, firstStep: 0 },
    assignment: one(["fixed", "free"] as const),
    steps: 1 + random.nextBelow(8),
    evaluateEvery: one([0, 1, 3]),
    saveEvery: one([0, 2]),
    stopAtLoss: null,
    deaths: random.nextBelow(8),
  };
}

/** What a micro-batch's loss is, whoever computes it. */
function lossOf(step: number, microBatch: number): number {
  return 1 / (1 + step * 17 + microBatch * 3);
}

interface Worker {
  isAlive: boolean;
  number: number;
  isAsking: boolean;
  readonly work: Task[];
  /** On their way to the scheduler. */
  readonly sent: SchedulerInput[];
}

/** Every share has one holder until it is done; what is committed is complete, in order, and has the bits of one process. */
class SchedulerChecker {
  readonly #init: SchedulerInit;
  readonly #holders = new Map<string, number>();
  readonly #told = new Set<string>();
  readonly #given = new Set<string>();
  #pausedBy: number | undefined;
  #mayEnd = false;
  #wereAllDead = false;
  committed = 0;

  constructor(init: SchedulerInit) {
    this.#init = init;
  }

  heard(input: SchedulerInput): void {
    if (input.kind === "losses" || input.kind === "done") this.#told.add(`${input.kind} ${input.step} ${input.share}`);
    if (input.kind === "done") this.#holders.delete(`${input.step} ${input.share}`);
    if (input.kind === "pauseDone") {
      this.#mayEnd = this.committed === this.#init.steps;
      this.#pausedBy = undefined;
    }
    if (input.kind !== "lost") return;
    if (this.#pausedBy === input.worker) this.#pausedBy = undefined;
    for (const [share, holder] of this.#holders) if (holder === input.worker) this.#holders.set(share, NOBODY);
  }

  said(output: SchedulerOutput, isAlive: (worker: number) => boolean): void {
    if (output.kind === "committed") return this.#commits(output.step, output.loss);
    const { worker, task } = output;
    assert(isAlive(worker), `worker ${worker} is dead and gets ${task.kind}`);
    if (task.kind === "train") return this.#trains(worker, task);
    assert(this.#holders.size === 0, `${task.kind} while shares are computed`);
    if (task.kind === "end") return assert(this.#mayEnd, "an end before the last pause is over");
    assert(this.#pausedBy === undefined, "two workers pause");
    assert(task.step === this.committed, "a pause before its steps are committed");
    this.#pausedBy = worker;
  }

  /** After the outputs of an event: what the dead held is held by who lives, or all were dead and it comes before all else. */
  rests(workers: readonly Worker[]): void {
    if (workers.every(({ isAlive }) => !isAlive)) this.#wereAllDead = true;
    if (!this.#hasOrphans) this.#wereAllDead = false;
    assert(!this.#hasOrphans || this.#wereAllDead, "a share that nobody computes");
  }

  get #hasOrphans(): boolean {
    return [...this.#holders.values()].includes(NOBODY);
  }

  #trains(worker: number, { step, share }: Train): void {
    assert(this.#pausedBy === undefined, "training in a pause");
    const name = `${step} ${share}`;
    const isNew = !this.#given.has(name);
    assert(isNew ? !this.#hasOrphans : this.#holders.get(name) === NOBODY, `share ${name} is given too early or twice`);
    this.#given.add(name);
    this.#holders.set(name, worker);
  }

  #commits(step: number, loss: number): void {
    const { workers, microBatches, batch } = this.#init;
    assert(step === this.committed, `step ${step} is committed after ${this.committed - 1}`);
    for (let share = 0; share < workers; share += 1) {
      for (const kind of ["losses", "done"]) assert(this.#told.has(`${kind} ${step} ${share}`), "a commit too early");
    }
    let sum = 0;
    for (let each = 0; each < microBatches; each += 1) sum += lossOf(step, each);
    assert(loss === sum / batch, `the loss of step ${step} is ${loss}`);
    this.committed += 1;
  }
}

export class SchedulerSimulation {
  readonly #scenario: SchedulerScenario;
  readonly #random: RandomStream;
  readonly #machine: Scheduler;
  readonly #checker: SchedulerChecker;
  readonly #workers: Worker[];
  readonly #ended = new Set<number>();
  #deathsLeft: number;
  /** Times at which nobody lived. */
  extinctions = 0;
  extras = 0;

  constructor(scenario: SchedulerScenario) {
    this.#scenario = scenario;
    this.#random = new RandomStream(scenario.seed, 1_003);
    this.#machine = new Scheduler(scenario);
    this.#checker = new SchedulerChecker(scenario);
    this.#workers = Array.from({ length: scenario.workers }, newWorker);
    this.#deathsLeft = scenario.deaths;
  }

  /** Until all workers that live were told of the end. */
  run(): void {
    for (let event = 0; event < EVENTS_MAX; event += 1) {
      const choices = this.#choices();
      if (choices.length === 0) break;
      choices[this.#random.nextBelow(choices.length)]!();
    }
    const left = this.#workers.flatMap(({ isAlive }, worker) => (isAlive && !this.#ended.has(worker) ? [worker] : []));
    assert(left.length === 0, `workers ${left.join(", ")} wait for ever after ${this.#checker.committed} steps`);
    assert(this.#checker.committed === this.#scenario.steps, "steps are missing");
  }

  #choices(): (() => void)[] {
    const isOver = this.#ended.size > 0;
    return this.#workers.flatMap((worker, index) => {
      if (!worker.isAlive) return isOver ? [] : [() => this.#join(index)];
      const choices: (() => void)[] = [];
      if (worker.sent.length > 0) choices.push(() => this.#drive(worker.sent.shift()!));
      if (worker.work.length > 0) choices.push(() => this.#work(worker));
      else if (!worker.isAsking && !this.#ended.has(index)) choices.push(() => this.#ask(worker, index));
      if (this.#deathsLeft > 0 && !isOver && this.#random.nextBelow(4) === 0) choices.push(() => this.#die(index));
      return choices;
    });
  }

  #ask(worker: Worker, index: number): void {
    worker.isAsking = true;
    worker.sent.push({ kind: "ask", worker: index, number: worker.number });
  }

  #work(worker: Worker): void {
    const task = worker.work.shift()!;
    if (task.kind === "pause") worker.sent.push({ kind: "pauseDone", number: worker.number - 1 });
    if (task.kind !== "train") return;
    const { step, share, from, to } = task;
    const losses = Array.from({ length: to - from }, (_, each) => lossOf(step, from + each));
    const done = { kind: "done", step, share } as const;
    const twice = this.#random.nextBelow(4) === 0 ? [done] : [];
    worker.sent.push({ kind: "losses", step, share, losses }, done, ...twice);
  }

  #die(index: number): void {
    this.#deathsLeft -= 1;
    const late = this.#workers[index]!.sent.filter(({ kind }) => kind === "losses" || kind === "done");
    this.#workers[index]!.isAlive = false;
    if (this.#workers.every(({ isAlive }) => !isAlive)) this.extinctions += 1;
    this.#drive({ kind: "lost", worker: index });
    // Facts about shares are facts, whoever tells them, as far as they arrive.
    for (const input of late.slice(0, this.#random.nextBelow(late.length + 1))) this.#drive(input);
  }

  #join(index: number): void {
    this.#workers[index] = newWorker();
    this.#drive({ kind: "joined", worker: index });
  }

  #drive(input: SchedulerInput): void {
    this.#checker.heard(input);
    for (const output of this.#machine.handle(input)) {
      this.#checker.said(output, (worker) => this.#workers[worker]!.isAlive);
      if (output.kind === "committed") continue;
      const worker = this.#workers[output.worker]!;
      worker.work.push(output.task);
      if (output.kind === "extra") this.extras += 1;
      else {
        assert(worker.isAsking && output.number === worker.number, "a task that was not asked for");
        worker.isAsking = false;
        worker.number += 1;
        if (output.task.kind === "end") this.#ended.add(output.worker);
      }
    }
    this.#checker.rests(this.#workers);
  }
}

function newWorker(): Worker {
  return { isAlive: true, number: 0, isAsking: false, work: [], sent: [] };
}
