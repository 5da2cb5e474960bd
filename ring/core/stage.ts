/**
 * @file The stage machine: what one node of the ring does next, from its own schedule and from what its two neighbours
 * sent. Nobody else decides. It speaks of keys and slots; the runtime owns the arrays. Invariants: `ring/README.md`.
 *
 * A step ends for each stage by itself: when its last W is done it updates and goes on, there is no barrier. Stage 0 reads the data and so
 * decides which step is the last one; the others learn it from its `end`.
 */
import { assert, defined, unreachable } from "../../src/types/assert.ts";
import { microBatchIndex, stageIndex, stepIndex, type MicroBatchKey, type StepIndex } from "../../src/types/ids.ts";
import type { Machine } from "../../src/types/machine.ts";
import { Credits } from "./credits.ts";
import { EvaluationPass } from "./evaluation.ts";
import { scheduleOf, slotCount, type ScheduleKind, type Task } from "./schedule.ts";

export interface StageInit {
  readonly stage: number;
  readonly stages: number;
  readonly schedule: ScheduleKind;
  readonly microBatches: number;
  /** Samples in a step's whole batch: the loss is their mean. */
  readonly batch: number;
  /** The first step to run: 0, or the number of steps that a checkpoint holds. */
  readonly firstStep: number;
  /** Steps in all, `firstStep` included. */
  readonly steps: number;
  /** Steps between checkpoints, 0 for none but the last. */
  readonly checkpointEvery: number;
  /** Steps between evaluations, 0 for none but the last. */
  readonly validateEvery: number;
  /** Forward-only micro-batches that cover the test set; 0 skips evaluation. */
  readonly evaluationMicroBatches: number;
  /** The run ends after the first step whose loss is at most this. */
  readonly stopAtLoss: number | null;
}

/** An operation of the compute worker. One runs at a time. */
export type StageOperation =
  | ({ readonly kind: "forward" | "backward"; readonly slot: number } & MicroBatchKey)
  | { readonly kind: "evaluate"; readonly slot: number; readonly index: number }
  | { readonly kind: "update"; readonly step: StepIndex }
  | { readonly kind: "save"; readonly completedSteps: number };

export type StageInput =
  | { readonly kind: "start" }
  | ({ readonly kind: "activation" } & MicroBatchKey)
  | { readonly kind: "labels"; readonly step: StepIndex }
  /** `loss` is the step's, with its last micro-batch, else NaN. `credits`: places that are free again. */
  | ({ readonly kind: "gradient"; readonly loss: number; readonly credits: number } & MicroBatchKey)
  /** The running operation ended. `loss`: sum over the rows, at the last stage's forward, else NaN. */
  | { readonly kind: "computed"; readonly loss: number; readonly correct: number }
  | { readonly kind: "evaluationLabels" }
  | { readonly kind: "evaluation"; readonly index: number }
  /** The bytes of evaluation micro-batch `index` left this node. */
  | { readonly kind: "evaluationSent"; readonly index: number }
  | { readonly kind: "evaluationCredit" }
  | { readonly kind: "end"; readonly lastStep: StepIndex }
  | { readonly kind: "stopRequested" };

export type StageOutput =
  | { readonly kind: "compute"; readonly operation: StageOperation }
  | ({ readonly kind: "sendActivation"; readonly slot: number } & MicroBatchKey)
  | ({ readonly kind: "sendGradient"; readonly slot: number; readonly loss: number; readonly credits: number } & MicroBatchKey)
  | { readonly kind: "sendLabels"; readonly step: StepIndex }
  | { readonly kind: "sendEvaluationLabels" }
  | { readonly kind: "sendEvaluation"; readonly index: number; readonly slot: number }
  | { readonly kind: "sendEvaluationCredit" }
  | { readonly kind: "sendEnd"; readonly lastStep: StepIndex }
  | { readonly kind: "committed"; readonly step: StepIndex; readonly loss: number }
  | { readonly kind: "evaluated"; readonly completedSteps: number; readonly correct: number; readonly lossSum: number }
  | { readonly kind: "finished"; readonly completedSteps: number }
  /** A neighbour broke the protocol: its connection is to be closed with this reason. */
  | { readonly kind: "violation"; readonly from: "predecessor" | "successor"; readonly reason: string };

type Phase =
  | { readonly kind: "created" }
  | { readonly kind: "training"; readonly step: number; next: number }
  | { readonly kind: "updating"; readonly step: number }
  | { readonly kind: "saving"; readonly completedSteps: number; readonly isLast: boolean }
  | { readonly kind: "evaluating"; readonly completedSteps: number; readonly isLast: boolean; readonly pass: EvaluationPass }
  | { readonly kind: "finished" };

export class StageMachine implements Machine<StageInput, StageOutput> {
  readonly slots: number;
  readonly #init: StageInit;
  readonly #tasks: readonly Task[];
  readonly #credits: Credits;
  #phase: Phase = { kind: "created" };
  #running: StageOperation | undefined;
  /** Micro-batches counted from the job's first step: arrived activations, arrived gradients, places given back. */
  #activations: number;
  #gradients: number;
  #released: number;
  #labelledSteps: number;
  #evaluationArrivals = 0;
  #hasEvaluationLabels = false;
  #lossSum = 0;
  #stepLoss = Number.NaN;
  #stopRequested = false;
  #lastStep: number | undefined;
  #evaluatedSteps = -1;
  #savedSteps = -1;
  #out: StageOutput[] = [];

  constructor(init: StageInit) {
    this.#init = init;
    this.#tasks = scheduleOf(init.schedule, init.stages, init.microBatches, stageIndex(init.stage));
    this.slots = slotCount(init.schedule, init.stages, init.microBatches, stageIndex(init.stage));
    this.#credits = new Credits(this.#isLast ? 0 : this.#successorSlots());
    this.#activations = this.#gradients = this.#released = init.firstStep * init.microBatches;
    this.#labelledSteps = init.firstStep;
  }

  /** What the stage is doing, for people: the step, and the next task or the phase. */
  describe(): { readonly step: number; readonly phase: string; readonly credits: number } {
    const phase = this.#phase;
    const step = phase.kind === "training" || phase.kind === "updating" ? phase.step : this.#activations / this.#init.microBatches;
    return { step: Math.floor(step), phase: phase.kind, credits: this.#credits.available };
  }

  handle(input: StageInput): readonly StageOutput[] {
    this.#out = [];
    this.#take(input);
    this.#advance();
    return this.#out;
  }

  get #isFirst(): boolean {
    return this.#init.stage === 0;
  }

  get #isLast(): boolean {
    return this.#init.stage === this.#init.stages - 1;
  }

  #successorSlots(): number {
    const { schedule, stages, microBatches, stage } = this.#init;
    return slotCount(schedule, stages, microBatches, stageIndex(stage + 1));
  }

  #key(sequence: number): MicroBatchKey & { readonly slot: number } {
    const { microBatches } = this.#init;
    return {
      step: stepIndex(Math.floor(sequence / microBatches)),
      microBatch: microBatchIndex(sequence % microBatches),
      slot: sequence % this.slots,
    };
  }

  #take(input: StageInput): void {
    switch (input.kind) {
      case "start":
        assert(this.#phase.kind === "created", "a stage starts once");
        return this.#beginStep(this.#init.firstStep);
      case "activation":
        return this.#takeActivation(input);
      case "labels":
        if (!this.#isLast || input.step !== this.#labelledSteps) return this.#violation("successor", `labels of step ${input.step} are out of order`);
        this.#labelledSteps += 1;
        return;
      case "gradient":
        return this.#takeGradient(input);
      case "computed":
        return this.#takeComputed(input.loss, input.correct);
      case "evaluationLabels":
        this.#hasEvaluationLabels = true;
        return;
      case "evaluation":
        if (input.index !== this.#evaluationArrivals) return this.#violation("predecessor", `evaluation ${input.index} is out of order`);
        this.#evaluationArrivals += 1;
        return;
      case "evaluationSent":
        if (this.#phase.kind === "evaluating") this.#phase.pass.sent();
        return;
      case "evaluationCredit":
        if (this.#phase.kind !== "evaluating" || !this.#phase.pass.credit()) this.#violation("successor", "a credit that nobody used");
        return;
      case "end":
        if (this.#isFirst) return this.#violation("predecessor", "only the first stage ends a run");
        this.#lastStep = input.lastStep;
        if (!this.#isLast) this.#out.push({ kind: "sendEnd", lastStep: input.lastStep });
        return;
      case "stopRequested":
        this.#stopRequested = true;
        return;
    }
    unreachable(input);
  }

  #takeActivation(key: MicroBatchKey): void {
    const sequence = key.step * this.#init.microBatches + key.microBatch;
    if (sequence !== this.#activations) return this.#violation("predecessor", `activation ${key.step}/${key.microBatch} is out of order`);
    if (this.#activations - this.#released >= this.slots) return this.#violation("predecessor", "an activation without credit");
    this.#activations += 1;
  }

  #takeGradient(input: MicroBatchKey & { readonly loss: number; readonly credits: number }): void {
    const sequence = input.step * this.#init.microBatches + input.microBatch;
    if (sequence !== this.#gradients) return this.#violation("successor", `gradient ${input.step}/${input.microBatch} is out of order`);
    if (!this.#credits.grant(input.credits)) return this.#violation("successor", "more credits than places");
    this.#gradients += 1;
    if (!Number.isNaN(input.loss)) this.#commit(input.step, input.loss);
  }

  #commit(step: StepIndex, loss: number): void {
    this.#stepLoss = loss;
    this.#out.push({ kind: "committed", step, loss });
  }

  #violation(from: "predecessor" | "successor", reason: string): void {
    this.#out.push({ kind: "violation", from, reason });
  }

  #takeComputed(loss: number, correct: number): void {
    const operation = defined(this.#running, "an operation was running");
    this.#running = undefined;
    switch (operation.kind) {
      case "forward":
        return this.#forwardDone(operation, loss);
      case "backward":
        return this.#backwardDone(operation);
      case "update":
        return this.#afterUpdate(operation.step);
      case "save":
        assert(this.#phase.kind === "saving", "a save belongs to its phase");
        return this.#afterSave(this.#phase.completedSteps, this.#phase.isLast);
      case "evaluate":
        assert(this.#phase.kind === "evaluating", "an evaluation belongs to its phase");
        this.#phase.pass.computed(loss, correct);
        if (!this.#isLast) this.#out.push({ kind: "sendEvaluation", index: operation.index, slot: operation.slot });
        return;
    }
    unreachable(operation);
  }

  #forwardDone(operation: MicroBatchKey & { readonly slot: number }, loss: number): void {
    const { step, microBatch, slot } = operation;
    if (!this.#isLast) {
      this.#out.push({ kind: "sendActivation", step, microBatch, slot });
      return;
    }
    this.#lossSum = (microBatch === 0 ? 0 : this.#lossSum) + loss;
    if (microBatch === this.#init.microBatches - 1) this.#commit(step, this.#lossSum / this.#init.batch);
  }

  #backwardDone(operation: MicroBatchKey & { readonly slot: number }): void {
    const { step, microBatch, slot } = operation;
    this.#released += 1;
    if (this.#isFirst) return;
    const loss = microBatch === this.#init.microBatches - 1 ? this.#stepLoss : Number.NaN;
    this.#out.push({ kind: "sendGradient", step, microBatch, slot, loss, credits: 1 });
  }

  #afterUpdate(step: number): void {
    const { checkpointEvery, steps } = this.#init;
    const completedSteps = step + 1;
    if (this.#isFirst && this.#lastStep === undefined && (completedSteps === steps || this.#isGoodEnough() || this.#stopRequested)) {
      this.#lastStep = step;
      if (!this.#isLast) this.#out.push({ kind: "sendEnd", lastStep: stepIndex(step) });
    }
    if (checkpointEvery > 0 && completedSteps % checkpointEvery === 0) this.#beginSave(completedSteps, false);
    else this.#afterSave(completedSteps, false);
  }

  #isGoodEnough(): boolean {
    const { stopAtLoss } = this.#init;
    return stopAtLoss !== null && this.#stepLoss <= stopAtLoss;
  }

  #beginSave(completedSteps: number, isLast: boolean): void {
    this.#savedSteps = completedSteps;
    this.#phase = { kind: "saving", completedSteps, isLast };
  }

  /** A checkpoint is written, or none is due. The last weights are always evaluated, others where that is due. */
  #afterSave(completedSteps: number, isLast: boolean): void {
    const { validateEvery } = this.#init;
    const isDue = isLast || (validateEvery > 0 && completedSteps % validateEvery === 0);
    if (isDue && this.#evaluatedSteps !== completedSteps) this.#beginEvaluation(completedSteps, isLast);
    else this.#afterEvaluation(completedSteps, isLast);
  }

  #beginStep(step: number): void {
    this.#phase = { kind: "training", step, next: 0 };
    this.#endIfLast();
  }

  /** Leaves training where the step before was the last one: the final weights are saved, then evaluated. */
  #endIfLast(): void {
    const phase = this.#phase;
    if (phase.kind !== "training" || phase.next !== 0 || this.#lastStep === undefined) return;
    if (this.#lastStep !== phase.step - 1) return;
    if (this.#savedSteps === phase.step) this.#afterSave(phase.step, true);
    else this.#beginSave(phase.step, true);
  }

  #afterEvaluation(completedSteps: number, isLast: boolean): void {
    if (!isLast) return this.#beginStep(completedSteps);
    this.#phase = { kind: "finished" };
    this.#out.push({ kind: "finished", completedSteps });
  }

  #beginEvaluation(completedSteps: number, isLast: boolean): void {
    const pass = new EvaluationPass({
      count: this.#init.evaluationMicroBatches,
      slots: this.slots,
      isFirst: this.#isFirst,
      isLast: this.#isLast,
      successorSlots: this.#isLast ? 0 : this.#successorSlots(),
    });
    this.#evaluatedSteps = completedSteps;
    this.#phase = { kind: "evaluating", completedSteps, isLast, pass };
    if (this.#isFirst && pass.count > 0 && !this.#isLast) this.#out.push({ kind: "sendEvaluationLabels" });
  }

  /** Starts whatever may start now; at most one operation runs. */
  #advance(): void {
    this.#endIfLast();
    this.#settleEvaluation();
    if (this.#running !== undefined) return;
    const phase = this.#phase;
    switch (phase.kind) {
      case "created":
      case "finished":
        return;
      case "training":
        return this.#advanceTraining(phase);
      case "updating":
        return this.#start({ kind: "update", step: stepIndex(phase.step) });
      case "saving":
        return this.#start({ kind: "save", completedSteps: phase.completedSteps });
      case "evaluating":
        return this.#advanceEvaluation(phase.pass);
    }
    unreachable(phase);
  }

  #start(operation: StageOperation): void {
    this.#running = operation;
    this.#out.push({ kind: "compute", operation });
  }

  #advanceTraining(phase: { readonly step: number; next: number }): void {
    const task = defined(this.#tasks[phase.next], "a step that is not over has a next task");
    const sequence = phase.step * this.#init.microBatches + task.microBatch;
    switch (task.kind) {
      case "F": {
        if (!this.#forwardMayStart(phase.step, sequence)) return;
        if (this.#isFirst && !this.#isLast && task.microBatch === 0) this.#out.push({ kind: "sendLabels", step: stepIndex(phase.step) });
        if (this.#isFirst) this.#activations += 1;
        if (!this.#isLast) this.#credits.take();
        phase.next += 1;
        return this.#start({ kind: "forward", ...this.#key(sequence) });
      }
      case "B": {
        if (!this.#isLast && sequence >= this.#gradients) return;
        // B and W are one operation in these schedules: both list entries are consumed.
        phase.next += 2;
        this.#start({ kind: "backward", ...this.#key(sequence) });
        if (phase.next === this.#tasks.length) this.#phase = { kind: "updating", step: phase.step };
        return;
      }
      case "W":
        return assert(false, "W follows its B in the same operation");
    }
  }

  #forwardMayStart(step: number, sequence: number): boolean {
    const hasInput = this.#isFirst || sequence < this.#activations;
    const hasLabels = !this.#isLast || this.#isFirst || step < this.#labelledSteps;
    const hasCredit = this.#isLast || this.#credits.available > 0;
    return hasInput && hasLabels && hasCredit;
  }

  #advanceEvaluation(pass: EvaluationPass): void {
    const hasLabels = !this.#isLast || this.#isFirst || this.#hasEvaluationLabels;
    const next = pass.next(this.#isFirst ? pass.count : this.#evaluationArrivals, hasLabels);
    if (next !== undefined) this.#start({ kind: "evaluate", slot: next % this.slots, index: next });
  }

  /** Gives places back to the predecessor, and leaves the phase when everything here and at the successor is free. */
  #settleEvaluation(): void {
    const phase = this.#phase;
    if (phase.kind !== "evaluating") return;
    for (let free = phase.pass.takeReleased(); free > 0; free -= 1) {
      if (!this.#isFirst) this.#out.push({ kind: "sendEvaluationCredit" });
    }
    if (!phase.pass.isDone || this.#running !== undefined) return;
    const { correct, lossSum, count } = phase.pass;
    this.#evaluationArrivals = 0;
    this.#hasEvaluationLabels = false;
    if (this.#isLast && count > 0) this.#out.push({ kind: "evaluated", completedSteps: phase.completedSteps, correct, lossSum });
    this.#afterEvaluation(phase.completedSteps, phase.isLast);
  }
}
