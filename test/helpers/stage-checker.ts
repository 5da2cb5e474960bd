/**
 * @file Watches every input and output of one stage machine and throws at the first broken invariant (numbers as in
 * `ring/README.md`). It keeps its own books and shares no code with the machine.
 */
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";

export class InvariantBroken extends Error {
  override readonly name = "InvariantBroken";
}

interface MicroBatchBook {
  readonly step: number;
  readonly microBatch: number;
  readonly slot: number;
  isForwardDone: boolean;
}

export class StageChecker {
  readonly #init: StageInit;
  readonly #slots: number;
  readonly #held = new Map<string, MicroBatchBook>();
  readonly #arrived = new Set<string>();
  readonly #gradients = new Set<string>();
  readonly #labels = new Set<number>();
  #running: string | undefined;
  #sentActivations = 0;
  #creditsReceived = 0;
  #nextBackward: number;
  #nextForward: number;
  #nextUpdate: number;
  #nextCommit: number;

  constructor(init: StageInit, slots: number) {
    this.#init = init;
    this.#slots = slots;
    this.#nextBackward = this.#nextForward = init.firstStep * init.microBatches;
    this.#nextUpdate = this.#nextCommit = init.firstStep;
  }

  before(input: StageInput): void {
    switch (input.kind) {
      case "activation":
        this.#arrived.add(`${input.step}/${input.microBatch}`);
        this.#expect(
          this.#arrived.size + this.#held.size <= this.#slots,
          "I4",
          "held and waiting micro-batches fit the slots",
        );
        return;
      case "gradient":
        this.#gradients.add(`${input.step}/${input.microBatch}`);
        this.#creditsReceived += input.credits;
        return;
      case "labels":
        this.#labels.add(input.step);
        return;
      case "computed":
        this.#finish();
        return;
      default:
        return;
    }
  }

  after(outputs: readonly StageOutput[], successorSlots: number): void {
    for (const output of outputs) this.#output(output, successorSlots);
  }

  #output(output: StageOutput, successorSlots: number): void {
    switch (output.kind) {
      case "compute":
        return this.#compute(output);
      case "sendActivation":
        this.#sentActivations += 1;
        return this.#expect(
          this.#sentActivations - this.#creditsReceived <= successorSlots,
          "I5",
          "no activation is sent without a credit",
        );
      case "committed":
        this.#expect(output.step === this.#nextCommit, "I8", `step ${output.step} is committed once and in order`);
        this.#expect(Number.isFinite(output.loss), "I8", "a committed loss is a number");
        this.#nextCommit += 1;
        return;
      default:
        return;
    }
  }

  #compute({ operation }: Extract<StageOutput, { kind: "compute" }>): void {
    this.#expect(
      this.#running === undefined,
      "I1",
      `one operation at a time: ${operation.kind} during ${this.#running}`,
    );
    this.#running = operation.kind;
    if (operation.kind === "forward") this.#forward(operation.step, operation.microBatch, operation.slot);
    if (operation.kind === "backward") this.#backward(operation.step, operation.microBatch, operation.slot);
    if (operation.kind === "update") {
      const all = (operation.step + 1) * this.#init.microBatches;
      this.#expect(operation.step === this.#nextUpdate, "I7", `update ${operation.step} happens once and in order`);
      this.#expect(this.#nextBackward === all && this.#held.size === 0, "I7", "an update follows every W of its step");
      this.#nextUpdate += 1;
    }
  }

  #forward(step: number, microBatch: number, slot: number): void {
    const key = `${step}/${microBatch}`;
    const isFirst = this.#init.stage === 0;
    const isLast = this.#init.stage === this.#init.stages - 1;
    this.#expect(isFirst || this.#arrived.delete(key), "I2", `F ${key} has its activation`);
    this.#expect(!isLast || isFirst || this.#labels.has(step), "I2", `F ${key} has its labels`);
    this.#expect(step === this.#nextUpdate, "I6", `F ${key} uses the weights of its step`);
    this.#expect(step * this.#init.microBatches + microBatch === this.#nextForward, "I3", `F ${key} in order, once`);
    this.#expect(
      [...this.#held.values()].every((book) => book.slot !== slot),
      "I4",
      `slot ${slot} is free for F ${key}`,
    );
    this.#nextForward += 1;
    this.#held.set(key, { step, microBatch, slot, isForwardDone: false });
    const most = this.#init.schedule === "gpipe" ? this.#init.microBatches : this.#init.stages - this.#init.stage;
    this.#expect(this.#held.size <= most, "I4", `at most ${most} micro-batches are held`);
  }

  #backward(step: number, microBatch: number, slot: number): void {
    const key = `${step}/${microBatch}`;
    const book = this.#held.get(key);
    const isLast = this.#init.stage === this.#init.stages - 1;
    this.#expect(book?.isForwardDone === true && book.slot === slot, "I2", `B ${key} follows its F in the same slot`);
    this.#expect(isLast || this.#gradients.delete(key), "I2", `B ${key} has its gradient`);
    const order = step * this.#init.microBatches + microBatch;
    this.#expect(order === this.#nextBackward, "I3", `gradients are summed in micro-batch order, once: B ${key}`);
    this.#nextBackward += 1;
    this.#running = `backward ${key}`;
  }

  #finish(): void {
    const running = this.#running;
    this.#expect(running !== undefined, "I1", "an operation ends that was started");
    this.#running = undefined;
    if (running === "forward") for (const book of this.#held.values()) book.isForwardDone = true;
    if (running?.startsWith("backward ") === true) this.#held.delete(running.slice("backward ".length));
  }

  #expect(condition: boolean, invariant: string, text: string): void {
    if (!condition) throw new InvariantBroken(`${invariant} at stage ${this.#init.stage}: ${text}`);
  }
}
