/**
 * @file Which operation a node runs next, within one step: the one decision that a real node and a simulated one share. A
 * list schedule is followed task by task; `zero-bubble` is the local rule (B, then F within the windows, then W in slices). It keeps
 * counts only, allocates nothing while it runs, and speaks in codes: `4·(lap·microBatches + microBatch) + kind`.
 *
 * Activations and gradients of one lap come in micro-batch order, so a count a lap says which are here.
 */
import { assert, defined } from "../../src/types/assert.ts";
import { backwardAt, forwardAt, isFused, lapsInFlight, scheduleOf, type ScheduleShape, type Task } from "./schedule.ts";

/** The last two bits of a code. `fused`: B and W in one operation. */
export const KIND = { forward: 0, backward: 1, weight: 2, fused: 3 } as const;
/** Nothing may start. */
export const NOTHING = -1;
/** Only a W may start: first see what else has arrived, then ask again with `mayStartWeight`. */
export const WEIGHT_ONLY = -2;

/** Most segments' micro-batches from F's start to B's end, and from F's start to W's end. */
export interface Window {
  readonly inFlight: number;
  readonly held: number;
}

export interface PipelineInit {
  readonly shape: ScheduleShape;
  readonly node: number;
  /** Slices of a W, by lap: one a layer. */
  readonly slices: readonly number[];
  /** Whether every layer has B and W apart; `zero-bubble` runs them fused where not. */
  readonly canSplit: boolean;
  /** In place of the shape's list. Whether B and W are one operation is still the shape's to say. */
  readonly tasks?: readonly Task[];
}

/** What the next F or B lacks. */
export type Lack =
  | { readonly kind: "activation" | "gradient" | "credit"; readonly lap: number; readonly microBatch: number }
  | { readonly kind: "labels" | "place" | "window" };

export class Pipeline {
  readonly laps: number;
  readonly #microBatches: number;
  readonly #total: number;
  readonly #isFirstNode: boolean;
  readonly #isLastNode: boolean;
  readonly #slices: readonly number[];
  /** Codes in order; null for the local rule. */
  readonly #list: Int32Array | null;
  /** `lap·microBatches + microBatch` by position, for the rule. */
  readonly #forwards: Int32Array;
  readonly #backwards: Int32Array;
  readonly #splits: boolean;
  /** Counted from the job's first step, by lap: arrived activations and gradients, finished F. */
  readonly #activations: number[];
  readonly #gradients: number[];
  readonly #forwarded: number[];
  /** By lap: leave to send activations to the successor. */
  readonly #credits: number[];
  #labelledSteps: number;
  /** Free slots for the data, where the model begins. */
  #places = 0;
  #inFlightMax: number;
  #heldMax: number;
  #step = 0;
  #base = 0;
  #next = 0;
  #startedF = 0;
  #startedB = 0;
  #finishedW = 0;
  #slice = 0;

  constructor(init: PipelineInit, orders: StepOrders = stepOrders(init.shape)) {
    const { shape, node, slices, canSplit } = init;
    assert(slices.length === shape.laps, "slices are told for each lap");
    this.laps = shape.laps;
    this.#microBatches = shape.microBatches;
    this.#total = shape.laps * shape.microBatches;
    this.#isFirstNode = node === 0;
    this.#isLastNode = node === shape.nodes - 1;
    this.#slices = slices;
    this.#list = listCodes(shape, node, init.tasks);
    this.#forwards = orders.forwards;
    this.#backwards = orders.backwards;
    this.#splits = canSplit && !isFused(shape.kind);
    const perLap = (): number[] => slices.map(() => 0);
    [this.#activations, this.#gradients, this.#forwarded, this.#credits] = [perLap(), perLap(), perLap(), perLap()];
    this.#labelledSteps = shape.nodes === 1 ? Infinity : 0;
    const window =
      this.#list === null ? startWindow(shape, node, this.#splits) : { inFlight: Infinity, held: Infinity };
    this.#inFlightMax = window.inFlight;
    this.#heldMax = window.held;
  }

  /** The first step to run: what came before counts as done. Labels may be there for more steps. */
  startAt(step: number, labelledSteps: number): void {
    const base = step * this.#microBatches;
    for (const counts of [this.#activations, this.#gradients, this.#forwarded]) counts.fill(base);
    if (this.#labelledSteps !== Infinity) this.#labelledSteps = labelledSteps;
    this.beginStep(step);
  }

  beginStep(step: number): void {
    this.#step = step;
    this.#base = step * this.#microBatches;
    this.#next = this.#startedF = this.#startedB = this.#finishedW = 0;
  }

  get step(): number {
    return this.#step;
  }

  get hasBegun(): boolean {
    return this.#startedF > 0;
  }

  /** Every W of the step is done. */
  get isStepDone(): boolean {
    return this.#finishedW === this.#total;
  }

  get labelledSteps(): number {
    return this.#labelledSteps;
  }

  activations(lap: number): number {
    return this.#activations[lap]!;
  }

  gradients(lap: number): number {
    return this.#gradients[lap]!;
  }

  /** Forwards of `lap` that are done, from the job's first step. */
  forwarded(lap: number): number {
    return this.#forwarded[lap]!;
  }

  credits(lap: number): number {
    return this.#credits[lap]!;
  }

  activationArrived(lap: number): void {
    this.#activations[lap]! += 1;
  }

  gradientArrived(lap: number): void {
    this.#gradients[lap]! += 1;
  }

  labelsArrived(): void {
    this.#labelledSteps += 1;
  }

  setCredits(lap: number, credits: number): void {
    this.#credits[lap] = credits;
  }

  /** Where the model begins: how many more slots may be filled with data. */
  setPlaces(places: number): void {
    this.#places = places;
  }

  /** Lists have their own order and no window. */
  setWindow({ inFlight, held }: Window): void {
    if (this.#list !== null) return;
    this.#inFlightMax = inFlight;
    this.#heldMax = held;
  }

  /** Slice of the W that runs or comes next, 0-based. */
  get slice(): number {
    return this.#slice;
  }

  /** Starts what is to run now, and returns its code; NOTHING or WEIGHT_ONLY where none starts. */
  next(mayStartWeight: boolean): number {
    return this.#list === null ? this.#byRule(mayStartWeight) : this.#byList(this.#list);
  }

  #byList(list: Int32Array): number {
    if (this.#next === list.length) return NOTHING;
    const code = list[this.#next]!;
    const kind = code & 3;
    const sequence = code >> 2;
    if (kind === KIND.forward ? !this.#mayForward(sequence) : kind !== KIND.weight && !this.#mayBackward(sequence)) {
      return NOTHING;
    }
    if (kind !== KIND.weight || this.#slice + 1 === this.#slices[this.#lapOf(sequence)]) this.#next += 1;
    return this.#start(kind, sequence);
  }

  /** Where B and W are one operation an early F is worth more than an early B, which here includes the W. */
  #byRule(mayStartWeight: boolean): number {
    const backward = this.#startedB < this.#total ? this.#backwards[this.#startedB]! : NOTHING;
    const mayBackward = backward !== NOTHING && this.#mayBackward(backward);
    if (mayBackward && this.#splits) return this.#start(KIND.backward, backward);
    if (this.#windowIsOpen) {
      const forward = this.#forwards[this.#startedF]!;
      if (this.#mayForward(forward)) return this.#start(KIND.forward, forward);
    }
    if (mayBackward) return this.#start(KIND.fused, backward);
    if (!this.#splits || this.#finishedW === this.#startedB) return NOTHING;
    return mayStartWeight ? this.#start(KIND.weight, this.#backwards[this.#finishedW]!) : WEIGHT_ONLY;
  }

  get #windowIsOpen(): boolean {
    return (
      this.#startedF < this.#total &&
      this.#startedF - this.#startedB < this.#inFlightMax &&
      this.#startedF - this.#finishedW < this.#heldMax
    );
  }

  #lapOf(sequence: number): number {
    return this.laps === 1 ? 0 : Math.floor(sequence / this.#microBatches);
  }

  #isFirst(lap: number): boolean {
    return this.#isFirstNode && lap === 0;
  }

  #isLast(lap: number): boolean {
    return this.#isLastNode && lap === this.laps - 1;
  }

  #mayForward(sequence: number): boolean {
    const lap = this.#lapOf(sequence);
    const position = this.#base + sequence - lap * this.#microBatches;
    const hasInput = this.#isFirst(lap) ? this.#places > 0 : this.#activations[lap]! > position;
    return hasInput && (this.#isLast(lap) ? this.#labelledSteps > this.#step : this.#credits[lap]! > 0);
  }

  #mayBackward(sequence: number): boolean {
    const lap = this.#lapOf(sequence);
    const position = this.#base + sequence - lap * this.#microBatches;
    return (this.#isLast(lap) ? this.#forwarded[lap]! : this.#gradients[lap]!) > position;
  }

  #start(kind: number, sequence: number): number {
    if (kind === KIND.forward) {
      const lap = this.#lapOf(sequence);
      if (!this.#isLast(lap)) this.#credits[lap]! -= 1;
      if (this.#isFirst(lap)) this.#places -= 1;
      this.#startedF += 1;
    } else if (kind !== KIND.weight) {
      this.#startedB += 1;
    }
    return 4 * sequence + kind;
  }

  /** The operation that `next` started is over. */
  done(code: number): void {
    const kind = code & 3;
    if (kind === KIND.forward) {
      this.#forwarded[this.#lapOf(code >> 2)]! += 1;
    } else if (kind === KIND.fused) {
      this.#finishedW += 1;
    } else if (kind === KIND.weight) {
      this.#slice += 1;
      if (this.#slice < this.#slices[this.#lapOf(code >> 2)]!) return;
      this.#slice = 0;
      this.#finishedW += 1;
    }
  }

  /** Why neither an F nor a B starts, for people; nothing where all F and B of the step have begun. */
  lacks(): readonly Lack[] {
    if (this.#list !== null) {
      const code = this.#list[this.#next];
      if (code === undefined) return [];
      return (code & 3) === KIND.forward ? [this.#lackOfForward(code >> 2)] : this.#lackOfBackward(code >> 2);
    }
    const lacks: Lack[] = [];
    if (this.#startedB < this.#total) lacks.push(...this.#lackOfBackward(this.#backwards[this.#startedB]!));
    if (this.#startedF < this.#total) {
      lacks.push(this.#windowIsOpen ? this.#lackOfForward(this.#forwards[this.#startedF]!) : { kind: "window" });
    }
    return lacks;
  }

  #lack(kind: "activation" | "gradient" | "credit", sequence: number): Lack {
    const lap = this.#lapOf(sequence);
    return { kind, lap, microBatch: sequence - lap * this.#microBatches };
  }

  /** Where the model ends a B waits for this node's own F. */
  #lackOfBackward(sequence: number): readonly Lack[] {
    return this.#isLast(this.#lapOf(sequence)) ? [] : [this.#lack("gradient", sequence)];
  }

  #lackOfForward(sequence: number): Lack {
    const lap = this.#lapOf(sequence);
    const position = this.#base + sequence - lap * this.#microBatches;
    if (this.#isFirst(lap) && this.#places === 0) return { kind: "place" };
    if (!this.#isFirst(lap) && this.#activations[lap]! <= position) return this.#lack("activation", sequence);
    return this.#isLast(lap) ? { kind: "labels" } : this.#lack("credit", sequence);
  }
}

/** The canonical orders of a step, the same at every node. */
export interface StepOrders {
  readonly forwards: Int32Array;
  readonly backwards: Int32Array;
}

export function stepOrders(shape: ScheduleShape): StepOrders {
  const total = shape.laps * shape.microBatches;
  const [forwards, backwards] = [new Int32Array(total), new Int32Array(total)];
  for (let position = 0; position < total; position += 1) {
    const [lap, microBatch] = forwardAt(shape, position);
    const [backwardLap, backwardMicroBatch] = backwardAt(shape, position);
    forwards[position] = lap * shape.microBatches + microBatch;
    backwards[position] = backwardLap * shape.microBatches + backwardMicroBatch;
  }
  return { forwards, backwards };
}

/** A list schedule as codes; null for the local rule. */
function listCodes(shape: ScheduleShape, node: number, given?: readonly Task[]): Int32Array | null {
  const { kind, nodes, microBatches } = shape;
  if (kind === "zero-bubble") return null;
  const fused = isFused(kind);
  const tasks = given ?? scheduleOf({ ...shape, kind }, node);
  const operations = tasks.filter((task) => !fused || task.kind !== "W");
  return Int32Array.from(operations, (task) => {
    const lap = (task.stage - node) / nodes;
    const code =
      task.kind === "F" ? KIND.forward : task.kind === "W" ? KIND.weight : fused ? KIND.fused : KIND.backward;
    return 4 * (lap * microBatches + task.microBatch) + code;
  });
}

/** The windows before anything is measured: enough where messages take no time and F, B, W take the same. */
export function startWindow({ nodes, laps }: ScheduleShape, node: number, splits: boolean): Window {
  if (laps > 1) return { inFlight: lapsInFlight(nodes, laps, node), held: lapsInFlight(nodes, laps, 0) + 1 };
  if (!splits) return { inFlight: nodes - node, held: Infinity };
  return { inFlight: 2 * (nodes - node) - 1, held: 2 * nodes };
}

/** The key that a code names. */
export function taskOf(code: number, microBatches: number): { readonly lap: number; readonly microBatch: number } {
  const lap = Math.floor(defined(code, "a code") / 4 / microBatches);
  return { lap, microBatch: (code >> 2) - lap * microBatches };
}
