/**
 * @file One node's part in training, under one cut of the model: it joins the decision (`pipeline.ts`) with the slots, the credits and
 * the measured round trip, and says what to send. Steps begin and end in `stage.ts`.
 */
import { microBatchIndex, stepIndex, type MicroBatchKey } from "../../src/types/ids.ts";
import { KIND, Pipeline, taskOf, WEIGHT_ONLY, type Lack } from "./pipeline.ts";
import { Places } from "./places.ts";
import {
  beginsModel,
  endsModel,
  lapOfPredecessor,
  lapOfSuccessor,
  refusal,
  type AnnouncedTensor,
  type Place,
  type Position,
  type SegmentsInit,
  type SlotKey,
  type StageInit,
  type StageInput,
  type StageOperation,
  type StageOutput,
} from "./stage-messages.ts";
import { RoundTrip, splitsWeight, windowFor, type OperationCosts } from "./window.ts";

type Of<Union, Kind> = Extract<Union, { readonly kind: Kind }>;
export type TrainingOperation = Of<StageOperation, "forward" | "backward" | "fused" | "weight">;

/** A successor's places, as it told them for one plan. */
interface Granted {
  readonly plan: number;
  readonly capacity: number;
}

export class Training {
  readonly #init: StageInit;
  readonly #position: Position;
  readonly #plan: number;
  readonly #pipeline: Pipeline;
  readonly #places: readonly Places[];
  readonly #granted: (Granted | undefined)[];
  readonly #roundTrip: RoundTrip;
  #ringRoundTripMs: number;
  #running = 0;

  /**
   * @param step the first under this cut
   * @param before the training under the cut before: what the neighbours have sent for this one already counts
   */
  constructor(init: StageInit, segments: SegmentsInit, step: number, before?: Training) {
    const { shape, node, canSplit } = init;
    this.#init = init;
    this.#position = { node, nodes: shape.nodes, laps: shape.laps };
    this.#plan = segments.plan;
    this.#pipeline = new Pipeline({ shape, node, slices: segments.slices, canSplit });
    this.#places = segments.slices.map(() => new Places(segments.slots));
    this.#granted = before?.granted ?? segments.slices.map(() => undefined);
    this.#roundTrip = before?.roundTrip ?? new RoundTrip();
    this.#ringRoundTripMs = before?.ringRoundTripMs ?? Number.NaN;
    for (const [lap, granted] of this.#granted.entries()) {
      if (granted?.plan === this.#plan) this.#pipeline.setCredits(lap, granted.capacity);
    }
    this.#pipeline.startAt(step, before?.labelledSteps ?? step);
    for (const [lap, places] of this.#places.entries()) {
      places.startAt(step * shape.microBatches);
      if (this.#begins(lap)) this.#pipeline.setPlaces(places.free);
    }
  }

  get granted(): (Granted | undefined)[] {
    return this.#granted;
  }

  get roundTrip(): RoundTrip {
    return this.#roundTrip;
  }

  get labelledSteps(): number {
    return this.#pipeline.labelledSteps;
  }

  /** From node 0 to the end of the model and back, as far as this node knows; NaN before it does. */
  get ringRoundTripMs(): number {
    return this.#position.node === 0 ? this.#roundTrip.value : this.#ringRoundTripMs;
  }

  get step(): number {
    return this.#pipeline.step;
  }

  get hasBegun(): boolean {
    return this.#pipeline.hasBegun;
  }

  get isStepDone(): boolean {
    return this.#pipeline.isStepDone;
  }

  /** No slot is in use, and no gradient on its way out. */
  get isEmpty(): boolean {
    return this.#places.every((places) => places.free === places.capacity);
  }

  lacks(): readonly Lack[] {
    return this.#pipeline.lacks();
  }

  /** By lap: what came from and went to the neighbours, as both sides of an edge can count it. */
  counts() {
    const by = (count: (lap: number) => number): readonly number[] => this.#places.map((_, lap) => count(lap));
    return {
      forwarded: by((lap) => this.#pipeline.forwarded(lap)),
      activations: by((lap) => this.#pipeline.activations(lap)),
      gradients: by((lap) => this.#pipeline.gradients(lap)),
      backwarded: by((lap) => this.#places[lap]!.backwarded),
      credits: by((lap) => this.#pipeline.credits(lap)),
    };
  }

  /** The predecessor learns how many places there are. */
  open(out: StageOutput[]): void {
    for (const [lap, places] of this.#places.entries()) {
      if (!this.#begins(lap)) this.#sendCredits(lap, places.capacity, this.#plan, out);
    }
  }

  beginStep(step: number): void {
    this.#pipeline.beginStep(step);
  }

  measured(costs: OperationCosts): void {
    const { shape, node, canSplit } = this.#init;
    const ring = this.ringRoundTripMs;
    const window = windowFor(
      shape,
      node,
      splitsWeight(shape, canSplit),
      costs,
      this.#roundTrip.value,
      Number.isNaN(ring) ? 0 : ring,
    );
    this.#pipeline.setWindow(window);
  }

  #begins(lap: number): boolean {
    return beginsModel(this.#position, lap);
  }

  #ends(lap: number): boolean {
    return endsModel(this.#position, lap);
  }

  #sequence({ step, microBatch }: MicroBatchKey): number {
    return step * this.#init.shape.microBatches + microBatch;
  }

  /** Whether a gradient carries its step's loss: the last micro-batch's, in the lap where the loss is known first. */
  #carriesLoss(lap: number, microBatch: number): boolean {
    return lap === this.#position.laps - 1 && microBatch === this.#init.shape.microBatches - 1;
  }

  placeFor(announced: Of<AnnouncedTensor, "activation" | "gradient">): Place {
    const { kind, lap, step, microBatch } = announced;
    const places = this.#places[lap];
    const name = `${kind} ${step}/${microBatch} of lap ${lap}`;
    // Nothing crosses the closure edge into the first lap, or back out of the last.
    if (places === undefined || (kind === "gradient" ? this.#ends(lap) : this.#begins(lap))) {
      return refusal(`no ${name} comes here`);
    }
    const sequence = this.#sequence(announced);
    const expected = kind === "activation" ? this.#pipeline.activations(lap) : this.#pipeline.gradients(lap);
    if (microBatch >= this.#init.shape.microBatches || sequence !== expected) return refusal(`${name} is out of order`);
    if (kind === "gradient") {
      if (sequence >= this.#pipeline.forwarded(lap)) return refusal(`${name} comes before its activation`);
      return { kind: "slot", slot: places.slotOf(sequence) };
    }
    const slot = places.reserve();
    return slot === undefined ? refusal(`${name} comes without credit`) : { kind: "slot", slot };
  }

  /** Labels of a step come when every forward of the step before is done: one buffer is enough. */
  acceptsLabels(step: number): boolean {
    const { node, nodes, laps } = this.#position;
    if (node !== nodes - 1 || nodes === 1 || step !== this.#pipeline.labelledSteps) return false;
    return step * this.#init.shape.microBatches <= this.#pipeline.forwarded(laps - 1);
  }

  labelsArrived(): void {
    this.#pipeline.labelsArrived();
  }

  /** Whether every activation up to the end of `step` is here. */
  hasAllOf(step: number): boolean {
    const all = (step + 1) * this.#init.shape.microBatches;
    return this.#places.every((_, lap) => this.#begins(lap) || this.#pipeline.activations(lap) === all);
  }

  /** These three return what is wrong, or undefined. */
  activation(input: Of<StageInput, "activation">): string | undefined {
    const place = this.placeFor(input);
    if (place.kind === "refused") return place.reason;
    this.#places[input.lap]!.take(input.nowMs);
    this.#pipeline.activationArrived(input.lap);
    this.#ringRoundTripMs = input.value;
    return undefined;
  }

  gradient(input: Of<StageInput, "gradient">, commit: (loss: number) => void): string | undefined {
    const place = this.placeFor(input);
    if (place.kind === "refused") return place.reason;
    const { lap, value, nowMs } = input;
    if (!this.#grant(lap, input.credits)) return "more credits than places";
    this.#pipeline.gradientArrived(lap);
    if (this.#carriesLoss(lap, input.microBatch)) {
      if (Number.isNaN(value)) return "a step's loss comes with its last gradient";
      commit(value);
    } else if (lap === this.#position.laps - 1 && !Number.isNaN(value)) {
      this.#roundTrip.add(nowMs - this.#places[lap]!.forwardedMs(this.#sequence(input)) - value);
    }
    return undefined;
  }

  credits({ lap, credits, opensPlan }: Of<StageInput, "credits">): string | undefined {
    if (this.#granted[lap] === undefined && opensPlan === null) return "credits before any place was told of";
    if (lap >= this.#granted.length || this.#ends(lap)) return `lap ${lap} sends nothing to a successor`;
    if (opensPlan === null) return this.#grant(lap, credits) ? undefined : "more credits than places";
    this.#granted[lap] = { plan: opensPlan, capacity: credits };
    if (opensPlan === this.#plan) this.#pipeline.setCredits(lap, credits);
    return undefined;
  }

  #grant(lap: number, credits: number): boolean {
    const sum = this.#pipeline.credits(lap) + credits;
    // Those of an earlier plan are worth nothing in the next: all of its places are opened anew.
    if (this.#granted[lap]?.plan !== this.#plan) return true;
    if (sum > this.#granted[lap].capacity) return false;
    this.#pipeline.setCredits(lap, sum);
    return true;
  }

  gradientLeft(lap: number, out: StageOutput[]): void {
    this.#places[lap]?.gradientLeft();
    this.#tellFreed(lap, out);
  }

  /** What is to run now. "drain": a W, once everything that has arrived is told. */
  next(mayStartWeight: boolean, nowMs: number): TrainingOperation | "drain" | undefined {
    const slice = this.#pipeline.slice;
    const code = this.#pipeline.next(mayStartWeight);
    if (code < 0) return code === WEIGHT_ONLY ? "drain" : undefined;
    this.#running = code;
    const { lap, microBatch } = taskOf(code, this.#init.shape.microBatches);
    const places = this.#places[lap]!;
    const isForward = (code & 3) === KIND.forward;
    if (isForward && this.#begins(lap)) places.take(nowMs);
    const { step } = this.#pipeline;
    const slot = places.slotOf(step * this.#init.shape.microBatches + microBatch);
    const key = { step: stepIndex(step), microBatch: microBatchIndex(microBatch), lap, slot };
    switch (code & 3) {
      case KIND.forward:
        return { kind: "forward", ...key };
      case KIND.backward:
        return { kind: "backward", ...key };
      case KIND.weight:
        return { kind: "weight", slice, ...key };
      default:
        return { kind: "fused", ...key };
    }
  }

  /** The operation is over: what it made is sent. `loss`: the step's, where it is known. */
  done(operation: TrainingOperation, nowMs: number, loss: number, out: StageOutput[]): void {
    const { kind, lap } = operation;
    const places = this.#places[lap]!;
    this.#pipeline.done(this.#running);
    if (kind === "forward") {
      places.forwarded(this.#sequence(operation), nowMs);
      if (!this.#ends(lap)) this.#sendActivation(operation, out);
    } else if (kind !== "weight") {
      if (kind === "fused") places.weightDone();
      this.#backwarded(operation, nowMs, loss, out);
    } else if (this.#pipeline.slice === 0) {
      places.weightDone();
    }
    this.#tellFreed(lap, out);
  }

  #sendActivation({ step, microBatch, lap, slot }: SlotKey, out: StageOutput[]): void {
    const toLap = lapOfSuccessor(this.#position, lap);
    out.push({ kind: "sendActivation", step, microBatch, lap, slot, toLap, value: this.ringRoundTripMs });
  }

  #backwarded(operation: TrainingOperation, nowMs: number, loss: number, out: StageOutput[]): void {
    const { step, microBatch, lap, slot } = operation;
    const places = this.#places[lap]!;
    places.backwarded += 1;
    // No gradient leaves where the model begins.
    if (this.#begins(lap)) return places.gradientLeft();
    const elapsedMs =
      nowMs - places.arrivedMs(this.#sequence(operation)) - (this.#ends(lap) ? 0 : this.#roundTrip.value);
    const value = this.#carriesLoss(lap, microBatch) ? loss : elapsedMs;
    const credits = places.takeOwed();
    const toLap = lapOfPredecessor(this.#position, lap);
    out.push({ kind: "sendGradient", step, microBatch, lap, slot, toLap, value, credits });
  }

  /**
   * Freed places ride on the next gradient. They are told at once where the predecessor may have none left, or half of
   * them are owed: else it would wait for an activation's place, and this node for the activation.
   */
  #tellFreed(lap: number, out: StageOutput[]): void {
    const places = this.#places[lap]!;
    if (this.#begins(lap)) return this.#pipeline.setPlaces(places.free);
    const { owed, free, capacity } = places;
    if (owed > 0 && (owed >= free || 2 * owed >= capacity)) this.#sendCredits(lap, places.takeOwed(), null, out);
  }

  #sendCredits(lap: number, credits: number, opensPlan: number | null, out: StageOutput[]): void {
    out.push({ kind: "sendCredits", toLap: lapOfPredecessor(this.#position, lap), credits, opensPlan });
  }
}
