/**
 * @file One forward-only pass over the test set, at one node: which micro-batch next, which places are free, when it is
 * over. A place is free when its result was computed and, but where the model ends, has left the node. Places of evaluation are
 * apart from those of training: a predecessor may already evaluate while this node still has W to do.
 */
import { assert } from "../../src/types/assert.ts";
import { beginsModel, endsModel, type Position } from "./stage-messages.ts";

/** Micro-batches of the test set that a segment has room for at once. */
export const EVALUATION_PLACES = 2;

/** One lap's part of a pass. */
class LapPass {
  readonly #count: number;
  readonly #needsCredit: boolean;
  #credits = EVALUATION_PLACES;
  #arrived: number;
  #started = 0;
  #computed = 0;
  #released = 0;
  #reported = 0;

  constructor(count: number, isFirst: boolean, isLast: boolean) {
    this.#count = count;
    this.#needsCredit = !isLast;
    this.#arrived = isFirst ? count : 0;
  }

  get arrived(): number {
    return this.#arrived;
  }

  get released(): number {
    return this.#released;
  }

  arrive(): void {
    this.#arrived += 1;
  }

  /** The micro-batch to compute now, if any. It counts as started. */
  next(): number | undefined {
    if (this.#started >= this.#arrived || this.#started - this.#released >= EVALUATION_PLACES) return undefined;
    if (this.#needsCredit && this.#credits === 0) return undefined;
    if (this.#needsCredit) this.#credits -= 1;
    this.#started += 1;
    return this.#started - 1;
  }

  computed(): void {
    this.#computed += 1;
    if (!this.#needsCredit) this.#released += 1;
  }

  left(): void {
    assert(this.#needsCredit && this.#released < this.#computed, "what leaves was computed");
    this.#released += 1;
  }

  /** False where the successor grants more than it has. */
  credit(): boolean {
    if (!this.#needsCredit || this.#credits === EVALUATION_PLACES) return false;
    this.#credits += 1;
    return true;
  }

  takeReleased(): number {
    const fresh = this.#released - this.#reported;
    this.#reported = this.#released;
    return fresh;
  }

  /** All is computed, and no place is in use here or at the successor. */
  get isDone(): boolean {
    return this.#computed === this.#count && this.#released === this.#count && this.#credits === EVALUATION_PLACES;
  }
}

export class Evaluation {
  readonly count: number;
  correct = 0;
  /** Sum over all samples; NaN where the model does not end. */
  lossSum = 0;
  readonly #laps: readonly LapPass[];
  readonly #endsHere: boolean;
  /** Labels come from the first node, once a pass, where the model ends elsewhere. */
  #hasLabels: boolean;

  constructor(count: number, position: Position) {
    this.count = count;
    this.#endsHere = position.node === position.nodes - 1;
    this.#hasLabels = position.nodes === 1;
    this.#laps = Array.from(
      { length: position.laps },
      (_, lap) => new LapPass(count, beginsModel(position, lap), endsModel(position, lap)),
    );
  }

  /** False where nobody awaits them. */
  labels(): boolean {
    if (!this.#endsHere || this.#hasLabels) return false;
    this.#hasLabels = true;
    return true;
  }

  /** Why micro-batch `index` may not come to `lap`, or undefined. */
  refusal(lap: number, index: number): string | undefined {
    const pass = this.#laps[lap];
    if (pass === undefined || index !== pass.arrived || index >= this.count)
      return `evaluation ${index} is out of order`;
    return index - pass.released >= EVALUATION_PLACES ? `evaluation ${index} comes without credit` : undefined;
  }

  arrive(lap: number): void {
    this.#laps[lap]?.arrive();
  }

  /** The highest lap goes first: it frees places for the others, whatever the credits. */
  next(): { readonly lap: number; readonly index: number } | undefined {
    for (let lap = this.#laps.length - 1; lap >= 0; lap -= 1) {
      const waitsForLabels = this.#endsHere && lap === this.#laps.length - 1 && !this.#hasLabels;
      const index = waitsForLabels ? undefined : this.#laps[lap]?.next();
      if (index !== undefined) return { lap, index };
    }
    return undefined;
  }

  computed(lap: number, loss: number, correct: number): void {
    this.#laps[lap]?.computed();
    if (!this.#endsHere || lap !== this.#laps.length - 1) return;
    this.lossSum += loss;
    this.correct += correct;
  }

  left(lap: number): void {
    this.#laps[lap]?.left();
  }

  /** False where the successor grants more than it has. */
  credit(lap: number): boolean {
    return this.#laps[lap]?.credit() ?? false;
  }

  /** Places freed since the last call, by lap. */
  takeReleased(): readonly number[] {
    return this.#laps.map((pass) => pass.takeReleased());
  }

  get isDone(): boolean {
    return this.#laps.every((pass) => pass.isDone);
  }
}
