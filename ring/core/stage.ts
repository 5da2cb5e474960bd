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
import { scheduleOf, slotCount, type Task } from "./schedule.ts";
import {
  refusal,
  type AnnouncedTensor,
  type Place,
  type StageInit,
  type StageInput,
  type StageOperation,
  type StageOutput,
} from "./stage-messages.ts";
import type { Phase } from "./stage-phase.ts";

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
  #forwarded: number;
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
    this.#activations = this.#gradients = this.#released = this.#forwarded = init.firstStep * init.microBatches;
    this.#labelledSteps = init.firstStep;
  }

  /** What the stage is doing, for people: the step, and the next task or the phase. */
  describe(): { readonly step: number; readonly phase: string; readonly credits: number } {
    const phase = this.#phase;
    const step =
      phase.kind === "training" || phase.kind === "updating" ? phase.step : this.#activations / this.#init.microBatches;
    return { step: Math.floor(step), phase: phase.kind, credits: this.#credits.available };
  }

  /**
   * Where a tensor that a neighbour announces is to be written, or why it must not be: asked before its bytes are read,
   * so that no frame out of order ever overwrites a slot in use.
   */
  placeFor(announced: AnnouncedTensor): Place {
    const { microBatches } = this.#init;
    // The closure edge joins the last stage to the first; no tensor crosses it.
    if (announced.kind === "gradient" ? this.#isLast : this.#isFirst) return refusal(`no ${announced.kind} comes here`);
    if (announced.kind === "evaluation") return this.#evaluationPlace(announced.index);
    const sequence = announced.step * microBatches + announced.microBatch;
    const name = `${announced.kind} ${announced.step}/${announced.microBatch}`;
    const expected = announced.kind === "activation" ? this.#activations : this.#gradients;
    if (announced.microBatch >= microBatches || sequence !== expected) return refusal(`${name} is out of order`);
    if (announced.kind === "gradient" && sequence >= this.#forwarded)
      return refusal(`${name} comes before its activation`);
    if (announced.kind === "activation" && this.#activations - this.#released >= this.slots) {
      return refusal(`${name} comes without credit`);
    }
    return { kind: "slot", slot: sequence % this.slots };
  }

  /** Labels of a step come when every forward of the step before is done: one buffer is enough. */
  acceptsLabels(step: number): boolean {
    return this.#isLast && step === this.#labelledSteps && step * this.#init.microBatches <= this.#forwarded;
  }

  #evaluationPlace(index: number): Place {
    const phase = this.#phase;
    const used = phase.kind === "evaluating" ? phase.pass.released : 0;
    if (index !== this.#evaluationArrivals || index >= this.#init.evaluationMicroBatches) {
      return refusal(`evaluation ${index} is out of order`);
    }
    if (index - used >= this.slots || this.#activations !== this.#released)
      return refusal(`evaluation ${index} comes without credit`);
    return { kind: "slot", slot: index % this.slots };
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
        if (!this.acceptsLabels(input.step)) {
          return this.#violation("successor", `labels of step ${input.step} are out of order`);
        }
        this.#labelledSteps += 1;
        return;
      case "gradient":
        return this.#takeGradient(input);
      case "computed":
        return this.#takeComputed(input.loss, input.correct);
      case "evaluationLabels":
        if (!this.#isLast || this.#hasEvaluationLabels)
          return this.#violation("successor", "labels that nobody awaits");
        this.#hasEvaluationLabels = true;
        return;
      case "evaluation":
        return this.#takeEvaluation(input.index);
      case "evaluationSent":
        if (this.#phase.kind === "evaluating") this.#phase.pass.sent();
        return;
      case "evaluationCredit":
        if (this.#phase.kind !== "evaluating" || !this.#phase.pass.credit())
          this.#violation("successor", "a credit that nobody used");
        return;
      case "end":
        if (!this.#isEndDue(input.lastStep)) return this.#violation("predecessor", "an end of the run out of order");
        this.#lastStep = input.lastStep;
        if (!this.#isLast) this.#out.push({ kind: "sendEnd", lastStep: input.lastStep });
        return;
      case "stopRequested":
        this.#stopRequested = true;
        return;
    }
    unreachable(input);
  }

  /** The first stage ends the run once, behind the last activation of its last step. */
  #isEndDue(lastStep: number): boolean {
    const isBehindItsStep = this.#activations === (lastStep + 1) * this.#init.microBatches;
    return !this.#isFirst && this.#lastStep === undefined && isBehindItsStep;
  }

  #takeActivation(key: MicroBatchKey): void {
    const place = this.placeFor({ ...key, kind: "activation" });
    if (place.kind === "refused") return this.#violation("predecessor", place.reason);
    this.#activations += 1;
  }

  #takeGradient(input: MicroBatchKey & { readonly loss: number; readonly credits: number }): void {
    const place = this.placeFor({ ...input, kind: "gradient" });
    if (place.kind === "refused") return this.#violation("successor", place.reason);
    const endsStep = input.microBatch === this.#init.microBatches - 1;
    if (endsStep === Number.isNaN(input.loss))
      return this.#violation("successor", "a step's loss comes with its last gradient");
    if (!this.#credits.grant(input.credits)) return this.#violation("successor", "more credits than places");
    this.#gradients += 1;
    if (endsStep) this.#commit(input.step, input.loss);
  }

  #takeEvaluation(index: number): void {
    const place = this.placeFor({ kind: "evaluation", index });
    if (place.kind === "refused") return this.#violation("predecessor", place.reason);
    this.#evaluationArrivals += 1;
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
    this.#forwarded += 1;
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
    if (
      this.#isFirst &&
      this.#lastStep === undefined &&
      (completedSteps === steps || this.#isGoodEnough() || this.#stopRequested)
    ) {
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
        if (this.#isFirst && !this.#isLast && task.microBatch === 0)
          this.#out.push({ kind: "sendLabels", step: stepIndex(phase.step) });
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
    if (this.#isLast && count > 0)
      this.#out.push({ kind: "evaluated", completedSteps: phase.completedSteps, correct, lossSum });
    this.#afterEvaluation(phase.completedSteps, phase.isLast);
  }
}
