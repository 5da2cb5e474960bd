/**
 * @file Watches every input and output of one stage machine and throws at the first broken invariant (numbers as in
 * `ring/README.md`). It keeps its own books and shares no code with the machine.
 */
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";

export class InvariantBroken extends Error {
  override readonly name = "InvariantBroken";
}

interface Book {
  readonly lap: number;
  readonly slot: number;
  isForwardDone: boolean;
  isBackwardDone: boolean;
  isGradientGone: boolean;
  slices: number;
}

type Operation = Extract<StageOutput, { kind: "compute" }>["operation"];
type TrainingOperation = Extract<Operation, { readonly microBatch: unknown }>;

export class StageChecker {
  readonly #init: StageInit;
  #slots: number;
  #slices: readonly number[];
  /** From F's start to W's end, and beyond that until the gradient has left. */
  readonly #held = new Map<string, Book>();
  readonly #arrived = new Set<string>();
  readonly #gradients = new Set<string>();
  readonly #labels = new Set<number>();
  readonly #next: { F: number; B: number; W: number }[];
  readonly #sent: number[];
  readonly #allowed: number[];
  #running: Operation | undefined;
  #nextUpdate: number;
  #nextCommit: number;
  #isMoving = false;
  #isMeasured = false;

  constructor(init: StageInit) {
    this.#init = init;
    this.#slots = init.segments.slots;
    this.#slices = init.segments.slices;
    const first = init.firstStep * init.shape.microBatches;
    this.#next = this.#slices.map(() => ({ F: first, B: first, W: first }));
    this.#sent = this.#slices.map(() => 0);
    this.#allowed = this.#slices.map(() => 0);
    this.#nextUpdate = this.#nextCommit = init.firstStep;
  }

  before(input: StageInput): void {
    switch (input.kind) {
      case "activation": {
        this.#arrived.add(`${input.lap}/${input.step}/${input.microBatch}`);
        const here = [...this.#arrived].filter((key) => key.startsWith(`${input.lap}/`)).length;
        const held = [...this.#held.values()].filter((book) => book.lap === input.lap).length;
        return this.#expect(here + held <= this.#slots, "I4", "held and waiting micro-batches fit the slots");
      }
      case "gradient":
        this.#gradients.add(`${input.lap}/${input.step}/${input.microBatch}`);
        this.#allowed[input.lap]! += input.credits;
        return;
      case "credits":
        // A plan that opens makes all places new: what was sent before it counts no more.
        if (input.opensPlan !== null) this.#allowed[input.lap] = this.#sent[input.lap]!;
        this.#allowed[input.lap]! += input.credits;
        return;
      case "gradientLeft": {
        const oldest = [...this.#held].find(([, book]) => book.lap === input.lap && !book.isGradientGone);
        this.#expect(oldest?.[1].isBackwardDone === true, "I2", "a gradient leaves after its B");
        oldest![1].isGradientGone = true;
        return this.#forget(oldest![0]);
      }
      case "labels":
        this.#labels.add(input.step);
        return;
      case "computed":
        return this.#finish();
      case "moved":
        this.#expect(this.#isMoving && this.#held.size === 0, "I7", "layers move between steps");
        this.#isMoving = false;
        this.#slots = input.segments.slots;
        this.#slices = input.segments.slices;
        return;
      default:
        return;
    }
  }

  after(outputs: readonly StageOutput[]): void {
    for (const output of outputs) this.#output(output);
  }

  #output(output: StageOutput): void {
    switch (output.kind) {
      case "compute":
        return this.#compute(output.operation);
      case "sendActivation":
        this.#sent[output.lap]! += 1;
        return this.#expect(
          this.#sent[output.lap]! <= this.#allowed[output.lap]!,
          "I5",
          "no activation without a credit",
        );
      case "loss":
        this.#expect(output.step === this.#nextCommit, "I8", `step ${output.step} is committed once and in order`);
        this.#expect(Number.isFinite(output.loss), "I8", "a committed loss is a number");
        this.#nextCommit += 1;
        return;
      case "move":
        this.#expect(this.#running === undefined && this.#held.size === 0, "I7", "layers move between steps");
        this.#isMoving = true;
        return;
      default:
        return;
    }
  }

  #compute(operation: Operation): void {
    const running = this.#running?.kind;
    this.#expect(running === undefined, "I1", `one operation at a time: ${operation.kind} during ${running}`);
    this.#expect(!this.#isMoving, "I1", `no ${operation.kind} while layers move`);
    this.#running = operation;
    switch (operation.kind) {
      case "forward":
        return this.#forward(operation);
      case "backward":
      case "fused":
        return this.#backward(operation);
      case "weight":
        return this.#weight(operation);
      case "update":
        return this.#update(operation.step);
      default:
        return;
    }
  }

  #forward({ lap, step, microBatch, slot }: TrainingOperation): void {
    const { node, shape } = this.#init;
    const key = `${lap}/${step}/${microBatch}`;
    const begins = node === 0 && lap === 0;
    const ends = node === shape.nodes - 1 && lap === shape.laps - 1;
    this.#expect(begins || this.#arrived.delete(key), "I2", `F ${key} has its activation`);
    this.#expect(!ends || shape.nodes === 1 || this.#labels.has(step), "I2", `F ${key} has its labels`);
    this.#expect(step === this.#nextUpdate, "I6", `F ${key} uses the weights of its step`);
    this.#inOrder("F", lap, step, microBatch);
    const inLap = [...this.#held.values()].filter((book) => book.lap === lap);
    this.#expect(
      inLap.every((book) => book.slot !== slot) && slot < this.#slots,
      "I4",
      `slot ${slot} is free for F ${key}`,
    );
    const book = { lap, slot, isForwardDone: false, isBackwardDone: false, isGradientGone: begins, slices: 0 };
    this.#held.set(key, book);
    this.#windows();
  }

  /** Lists hold what their pictures show; the rule what its windows say, before anything is measured. */
  #windows(): void {
    const { node, shape } = this.#init;
    const { kind, nodes, laps, microBatches } = shape;
    const books = [...this.#held.values()].filter((book) => book.slices < this.#slices[book.lap]!);
    const inFlight = books.filter((book) => !book.isBackwardDone).length;
    const [flightMax, heldMax] = {
      naive: [1, 1],
      gpipe: [microBatches, microBatches],
      "1f1b": [nodes - node, nodes - node],
      interleaved: [2 * (nodes - node - 1) + (laps - 1) * nodes + 1, Infinity],
      "zb-h1": [nodes - node, nodes],
      "zero-bubble":
        laps > 1
          ? [2 * (nodes - node - 1) + (laps - 1) * nodes + 1, 2 * nodes + (laps - 1) * nodes]
          : this.#init.canSplit
            ? [2 * (nodes - node) - 1, 2 * nodes]
            : [nodes - node, nodes - node],
    }[kind] as [number, number];
    if (this.#isMeasured) return;
    this.#expect(inFlight <= flightMax, "I4", `${inFlight} in flight, at most ${flightMax}`);
    this.#expect(books.length <= heldMax, "I4", `${books.length} held, at most ${heldMax}`);
  }

  /** From now on windows may be longer: the node measured its ring. */
  measured(): void {
    this.#isMeasured = true;
  }

  #inOrder(kind: "F" | "B" | "W", lap: number, step: number, microBatch: number): void {
    const order = step * this.#init.shape.microBatches + microBatch;
    const next = this.#next[lap]!;
    this.#expect(order === next[kind], "I3", `${kind} ${lap}/${step}/${microBatch} comes in order, once`);
    next[kind] += 1;
  }

  #backward({ kind, lap, step, microBatch, slot }: TrainingOperation): void {
    const key = `${lap}/${step}/${microBatch}`;
    const { node, shape } = this.#init;
    const ends = node === shape.nodes - 1 && lap === shape.laps - 1;
    const book = this.#held.get(key);
    this.#expect(book?.isForwardDone === true && book.slot === slot, "I2", `B ${key} follows its F in the same slot`);
    this.#expect(ends || this.#gradients.delete(key), "I2", `B ${key} has its gradient`);
    const splits = shape.kind === "zb-h1" || (shape.kind === "zero-bubble" && this.#init.canSplit);
    this.#expect(splits === (kind === "backward"), "I2", `${kind} in ${shape.kind}`);
    this.#inOrder("B", lap, step, microBatch);
    if (kind === "fused") this.#inOrder("W", lap, step, microBatch);
  }

  #weight(operation: Extract<Operation, { kind: "weight" }>): void {
    const { lap, step, microBatch, slot, slice } = operation;
    const key = `${lap}/${step}/${microBatch}`;
    const book = this.#held.get(key);
    this.#expect(book?.isBackwardDone === true && book.slot === slot, "I2", `W ${key} follows its B in the same slot`);
    this.#expect(book!.slices === slice, "I3", `slice ${slice} of W ${key} comes in order, once`);
    if (slice === 0) this.#inOrder("W", lap, step, microBatch);
  }

  #update(step: number): void {
    const all = (step + 1) * this.#init.shape.microBatches;
    this.#expect(step === this.#nextUpdate, "I7", `update ${step} happens once and in order`);
    const isWhole = this.#next.every((next) => next.F === all && next.B === all && next.W === all);
    const isSummed = [...this.#held.values()].every((book) => book.slices === this.#slices[book.lap]);
    this.#expect(isWhole && isSummed, "I7", "an update follows every W of its step");
    this.#nextUpdate += 1;
  }

  #finish(): void {
    const running = this.#running;
    this.#expect(running !== undefined, "I1", "an operation ends that was started");
    this.#running = undefined;
    if (!("microBatch" in running!)) return;
    const key = `${running.lap}/${running.step}/${running.microBatch}`;
    const book = this.#held.get(key)!;
    if (running.kind === "forward") book.isForwardDone = true;
    if (running.kind === "backward" || running.kind === "fused") book.isBackwardDone = true;
    if (running.kind === "fused") book.slices = this.#slices[running.lap]!;
    if (running.kind === "weight") book.slices += 1;
    this.#forget(key);
  }

  #forget(key: string): void {
    const book = this.#held.get(key)!;
    if (book.isGradientGone && book.slices === this.#slices[book.lap]) this.#held.delete(key);
  }

  #expect(condition: boolean, invariant: string, text: string): void {
    if (!condition) throw new InvariantBroken(`${invariant} at node ${this.#init.node}: ${text}`);
  }
}
