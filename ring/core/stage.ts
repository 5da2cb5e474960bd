/**
 * @file The stage machine: what one node of the ring does next, from its own schedule and from what its two neighbours
 * sent. Nobody else decides. It speaks of keys and slots; the runtime owns the arrays. Invariants: `ring/README.md`.
 *
 * A step ends for each node by itself: when its last W is done it updates and goes on, there is no barrier. Node 0 reads the data and so
 * decides which step is the last one; the others learn it from its `end`.
 */
import { assert, defined, unreachable } from "../../src/types/assert.ts";
import { stepIndex, type StepIndex } from "../../src/types/ids.ts";
import type { Machine } from "../../src/types/machine.ts";
import { Evaluation, EVALUATION_PLACES } from "./evaluation.ts";
import {
  endsModel,
  lapOfPredecessor,
  lapOfSuccessor,
  refusal,
  type AnnouncedTensor,
  type Place,
  type Position,
  type SlotKey,
  type StageInit,
  type StageInput,
  type StageOperation,
  type StageOutput,
} from "./stage-messages.ts";
import type { Phase } from "./stage-phase.ts";
import { Training } from "./training.ts";
import type { OperationCosts } from "./window.ts";

type Of<Union, Kind> = Extract<Union, { readonly kind: Kind }>;

export class StageMachine implements Machine<StageInput, StageOutput> {
  readonly #init: StageInit;
  readonly #position: Position;
  #training: Training;
  #evaluation: Evaluation;
  #phase: Phase = { kind: "created" };
  #running: StageOperation | undefined;
  #slots: number;
  #costs: OperationCosts | undefined;
  #plan: { readonly plan: number; readonly step: number | null } | undefined;
  #isDraining = false;
  #lossSum = 0;
  #stepLoss: number;
  #frontier: number;
  #stopRequested = false;
  #lastStep: number | undefined;
  #evaluatedSteps = -1;
  #savedSteps = -1;
  #nowMs = 0;
  #out: StageOutput[] = [];

  constructor(init: StageInit) {
    this.#init = init;
    this.#position = { node: init.node, nodes: init.shape.nodes, laps: init.shape.laps };
    this.#training = new Training(init, init.segments, init.firstStep);
    this.#slots = init.segments.slots;
    this.#evaluation = new Evaluation(init.evaluationMicroBatches, this.#position);
    this.#stepLoss = init.lossBefore ?? Number.NaN;
    this.#frontier = init.isReplicated === true ? init.firstStep - 1 : Infinity;
  }

  /** What the node is doing, for people: its step and phase, what it lacks, what crossed its edges. */
  describe() {
    const phase = this.#phase;
    return {
      step: "step" in phase ? phase.step : "completedSteps" in phase ? phase.completedSteps : this.#training.step,
      phase: phase.kind,
      running: this.#running?.kind ?? null,
      lacks: phase.kind === "training" ? this.#training.lacks() : [],
      /** The version that every copy must have before this node goes on, or is done; null where it waits for none. */
      awaitsFrontier: this.#awaitsFrontier,
      counts: this.#training.counts(),
    };
  }

  get #awaitsFrontier(): number | null {
    const phase = this.#phase;
    const due = phase.kind === "updating" ? phase.step : phase.kind === "finished" ? phase.completedSteps : null;
    return due !== null && this.#frontier < due ? due : null;
  }

  /**
   * Where a tensor that a neighbour announces is to be written, or why it must not be: asked before its bytes are read,
   * so that no frame out of order ever overwrites a slot in use.
   */
  placeFor(announced: AnnouncedTensor): Place {
    if (announced.kind !== "evaluation") return this.#training.placeFor(announced);
    const { lap, index } = announced;
    const isBeginning = this.#position.node === 0 && lap === 0;
    const reason = isBeginning ? "no evaluation comes here" : this.#evaluation.refusal(lap, index);
    return reason === undefined ? { kind: "slot", slot: this.#evaluationSlot(index) } : refusal(reason);
  }

  acceptsLabels(step: number): boolean {
    return this.#training.acceptsLabels(step);
  }

  /** Behind the slots of training. */
  #evaluationSlot(index: number): number {
    return this.#slots + (index % EVALUATION_PLACES);
  }

  handle(input: StageInput): readonly StageOutput[] {
    this.#out = [];
    this.#take(input);
    this.#advance(input.kind === "drained");
    return this.#out;
  }

  get #isFirst(): boolean {
    return this.#init.node === 0;
  }

  /** Where the model ends, and so the loss is computed. */
  get #endsHere(): boolean {
    return this.#position.node === this.#position.nodes - 1;
  }

  #take(input: StageInput): void {
    if ("nowMs" in input) this.#nowMs = input.nowMs;
    switch (input.kind) {
      case "start":
        assert(this.#phase.kind === "created", "a stage starts once");
        this.#training.open(this.#out);
        this.#phase = { kind: "training" };
        return this.#endIfDone(this.#init.firstStep);
      case "activation":
        return this.#check("predecessor", this.#training.activation(input));
      case "labels":
        if (!this.acceptsLabels(input.step)) {
          return this.#check("successor", `labels of step ${input.step} are out of order`);
        }
        return this.#training.labelsArrived();
      case "gradient":
        return this.#check(
          "successor",
          this.#training.gradient(input, (loss) => this.#noteLoss(input.step, loss)),
        );
      case "credits":
        return this.#check("successor", this.#training.credits(input));
      case "gradientLeft":
        return this.#training.gradientLeft(input.lap, this.#out);
      case "computed":
        return this.#takeComputed(input);
      case "drained":
        this.#isDraining = false;
        return;
      case "measured":
        this.#costs = input.costs;
        return;
      case "plan":
        this.#plan = { plan: input.plan, step: input.step };
        return;
      case "moved":
        return this.#moved(input);
      case "end":
        return this.#takeEnd(input.lastStep);
      case "stopRequested":
        this.#stopRequested = true;
        return;
      case "frontier":
        this.#frontier = input.version;
        return;
      case "evaluationLabels":
      case "evaluation":
      case "evaluationLeft":
      case "evaluationCredit":
        return this.#takeEvaluation(input);
    }
    unreachable(input);
  }

  #takeEvaluation(
    input: Of<StageInput, "evaluationLabels" | "evaluation" | "evaluationLeft" | "evaluationCredit">,
  ): void {
    switch (input.kind) {
      case "evaluationLabels":
        return this.#check("successor", this.#evaluation.labels() ? undefined : "labels that nobody awaits");
      case "evaluation": {
        const place = this.placeFor(input);
        if (place.kind === "refused") return this.#check("predecessor", place.reason);
        return this.#evaluation.arrive(input.lap);
      }
      case "evaluationLeft":
        return this.#evaluation.left(input.lap);
      case "evaluationCredit":
        return this.#check("successor", this.#evaluation.credit(input.lap) ? undefined : "a credit that nobody used");
    }
    unreachable(input);
  }

  /** Node 0 ends the run once, behind the last activation of its last step. */
  #takeEnd(lastStep: number): void {
    const isDue = !this.#isFirst && this.#lastStep === undefined && this.#training.hasAllOf(lastStep);
    if (!isDue) return this.#check("predecessor", "an end of the run out of order");
    this.#lastStep = lastStep;
    if (!this.#endsHere) this.#out.push({ kind: "sendEnd", lastStep: stepIndex(lastStep) });
  }

  #noteLoss(step: StepIndex, loss: number): void {
    this.#stepLoss = loss;
    this.#out.push({ kind: "loss", step, loss });
  }

  #check(from: "predecessor" | "successor", reason: string | undefined): void {
    if (reason !== undefined) this.#out.push({ kind: "violation", from, reason });
  }

  #takeComputed({ loss, correct }: Of<StageInput, "computed">): void {
    const operation = defined(this.#running, "an operation was running");
    this.#running = undefined;
    switch (operation.kind) {
      case "forward":
        if (endsModel(this.#position, operation.lap)) this.#addLoss(operation, loss);
        return this.#training.done(operation, this.#nowMs, this.#stepLoss, this.#out);
      case "backward":
      case "fused":
      case "weight":
        this.#training.done(operation, this.#nowMs, this.#stepLoss, this.#out);
        if (this.#training.isStepDone) this.#phase = { kind: "updating", step: this.#training.step };
        return;
      case "update":
        return this.#afterUpdate(operation.step);
      case "save":
        assert(this.#phase.kind === "saving", "a save belongs to its phase");
        return this.#afterSave(this.#phase.completedSteps, this.#phase.isLast);
      case "evaluate":
        return this.#evaluated(operation, loss, correct);
    }
    unreachable(operation);
  }

  /** The step's loss: the micro-batches' in their order, whatever the schedule. */
  #addLoss({ step, microBatch }: SlotKey, loss: number): void {
    this.#lossSum = (microBatch === 0 ? 0 : this.#lossSum) + loss;
    if (microBatch === this.#init.shape.microBatches - 1) this.#noteLoss(step, this.#lossSum / this.#init.batch);
  }

  #evaluated({ lap, slot, index }: Of<StageOperation, "evaluate">, loss: number, correct: number): void {
    this.#evaluation.computed(lap, loss, correct);
    if (endsModel(this.#position, lap)) return;
    this.#out.push({ kind: "sendEvaluation", lap, toLap: lapOfSuccessor(this.#position, lap), index, slot });
  }

  #afterUpdate(step: number): void {
    const { checkpointEvery } = this.#init;
    const completedSteps = step + 1;
    this.#endIfDone(completedSteps);
    if (checkpointEvery > 0 && completedSteps % checkpointEvery === 0) this.#beginSave(completedSteps, false);
    else this.#afterSave(completedSteps, false);
  }

  /** Node 0 decides which step is the last. */
  #endIfDone(completedSteps: number): void {
    if (!this.#isFirst || this.#lastStep !== undefined || completedSteps === 0) return;
    if (completedSteps < this.#init.steps && !this.#isGoodEnough() && !this.#stopRequested) return;
    const lastStep = stepIndex(completedSteps - 1);
    this.#lastStep = lastStep;
    if (!this.#endsHere) this.#out.push({ kind: "sendEnd", lastStep });
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
    if (this.#costs !== undefined) this.#training.measured(this.#costs);
    this.#training.beginStep(step);
    this.#phase = { kind: "training" };
    this.#leaveTraining();
  }

  /** Between two steps: leaves training where the last one is over, or for the layers to move. */
  #leaveTraining(): void {
    if (this.#phase.kind !== "training" || this.#training.hasBegun) return;
    const { step } = this.#training;
    if (this.#lastStep === step - 1) {
      if (this.#savedSteps === step) this.#afterSave(step, true);
      else this.#beginSave(step, true);
    } else if (this.#plan !== undefined && (this.#plan.step ?? step) === step && this.#training.isEmpty) {
      this.#out.push({ kind: "move", plan: this.#plan.plan, step });
      this.#plan = undefined;
      this.#phase = { kind: "moving", step };
    }
  }

  #moved({ segments }: Of<StageInput, "moved">): void {
    const phase = this.#phase;
    assert(phase.kind === "moving", "layers have moved where they were to");
    this.#slots = segments.slots;
    this.#costs = undefined;
    this.#training = new Training(this.#init, segments, phase.step, this.#training);
    this.#training.open(this.#out);
    this.#phase = { kind: "training" };
  }

  #afterEvaluation(completedSteps: number, isLast: boolean): void {
    if (!isLast) return this.#beginStep(completedSteps);
    this.#phase = { kind: "finished", completedSteps };
    this.#out.push({ kind: "finished", completedSteps });
  }

  #beginEvaluation(completedSteps: number, isLast: boolean): void {
    this.#evaluatedSteps = completedSteps;
    this.#phase = { kind: "evaluating", completedSteps, isLast };
    if (this.#isFirst && this.#evaluation.count > 0 && !this.#endsHere)
      this.#out.push({ kind: "sendEvaluationLabels" });
  }

  /** Starts whatever may start now; at most one operation runs. */
  #advance(mayStartWeight: boolean): void {
    this.#leaveTraining();
    this.#settleEvaluation();
    if (this.#running !== undefined) return;
    const phase = this.#phase;
    switch (phase.kind) {
      case "created":
      case "moving":
      case "finished":
        return;
      case "training":
        return this.#advanceTraining(mayStartWeight);
      case "updating":
        // A second version is kept until every copy has the first: an update before that would make a third.
        if (this.#frontier < phase.step) return;
        return this.#start({ kind: "update", step: stepIndex(phase.step) });
      case "saving":
        return this.#start({ kind: "save", completedSteps: phase.completedSteps });
      case "evaluating": {
        const next = this.#evaluation.next();
        if (next !== undefined) this.#start({ kind: "evaluate", ...next, slot: this.#evaluationSlot(next.index) });
        return;
      }
    }
    unreachable(phase);
  }

  #start(operation: StageOperation): void {
    this.#running = operation;
    this.#out.push({ kind: "compute", operation });
  }

  #advanceTraining(mayStartWeight: boolean): void {
    const operation = this.#training.next(mayStartWeight, this.#nowMs);
    if (operation === "drain") {
      if (!this.#isDraining) this.#out.push({ kind: "drain" });
      this.#isDraining = true;
    } else if (operation !== undefined) {
      const opensStep = operation.kind === "forward" && operation.microBatch === 0 && operation.lap === 0;
      if (this.#isFirst && !this.#endsHere && opensStep) this.#out.push({ kind: "sendLabels", step: operation.step });
      this.#start(operation);
    }
  }

  /** Gives places back to the predecessor, and leaves the phase when everything here and at the successor is free. */
  #settleEvaluation(): void {
    const phase = this.#phase;
    if (phase.kind !== "evaluating") return;
    for (const [lap, freed] of this.#evaluation.takeReleased().entries()) {
      if (this.#isFirst && lap === 0) continue;
      const toLap = lapOfPredecessor(this.#position, lap);
      for (let place = 0; place < freed; place += 1) this.#out.push({ kind: "sendEvaluationCredit", toLap });
    }
    if (!this.#evaluation.isDone || this.#running !== undefined) return;
    const { correct, lossSum, count } = this.#evaluation;
    this.#evaluation = new Evaluation(count, this.#position);
    if (this.#endsHere && count > 0) {
      this.#out.push({ kind: "evaluated", completedSteps: phase.completedSteps, correct, lossSum });
    }
    this.#afterEvaluation(phase.completedSteps, phase.isLast);
  }
}
