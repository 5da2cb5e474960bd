/**
 * @file One stage machine amid ideal neighbours that answer at once: the predecessor sends whatever has a place, the successor's
 * gradients come when as many are awaited as a full pipeline keeps on the way. For what one event costs, and what memory it leaves.
 */
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { microBatchIndex, stepIndex, type MicroBatchKey } from "../../src/types/ids.ts";

export class BusyStage {
  readonly #machine: StageMachine;
  readonly #microBatches: number;
  readonly #awaitedMax: number;
  /** Activations sent whose gradients have not come: at most as many as the machine has in flight. */
  readonly #awaited: MicroBatchKey[] = [];
  #places = 0;
  #arrived = 0;
  #leaving = 0;
  #isRunning = false;
  #isDraining = false;
  completedSteps = 0;

  /** The middle one of `nodes`, under the local rule, two layers. */
  constructor(nodes: number, microBatches: number) {
    const node = nodes >> 1;
    const init: StageInit = {
      shape: { kind: "zero-bubble", nodes, laps: 1, microBatches },
      node,
      canSplit: true,
      segments: { plan: 0, slots: Math.min(2 * nodes, 2 * microBatches), slices: [2] },
      batch: microBatches,
      firstStep: 0,
      steps: 1e9,
      checkpointEvery: 0,
      validateEvery: 0,
      evaluationMicroBatches: 0,
      stopAtLoss: null,
    };
    this.#machine = new StageMachine(init);
    this.#microBatches = microBatches;
    this.#awaitedMax = nodes - node - 1;
    this.#take(this.#machine.handle({ kind: "start" }));
    this.#take(this.#machine.handle({ kind: "credits", lap: 0, credits: init.segments.slots, opensPlan: 0 }));
  }

  /** @param timed told what each event cost, in milliseconds; without it nothing is timed */
  run(steps: number, timed?: (durationMs: number) => void): void {
    const end = this.completedSteps + steps;
    while (this.completedSteps < end) {
      const input = this.#nextInput();
      const startMs = timed === undefined ? 0 : performance.now();
      const outputs = this.#machine.handle(input);
      timed?.(performance.now() - startMs);
      this.#take(outputs);
    }
  }

  #nextInput(): StageInput {
    if (this.#leaving > 0) {
      this.#leaving -= 1;
      return { kind: "gradientLeft", lap: 0 };
    }
    if (this.#places > 0) return this.#activation();
    if (this.#awaited.length > this.#awaitedMax) return this.#gradient();
    if (this.#isRunning) {
      this.#isRunning = false;
      return { kind: "computed", loss: Number.NaN, correct: 0, nowMs: 0 };
    }
    if (this.#isDraining) {
      this.#isDraining = false;
      return { kind: "drained" };
    }
    return this.#gradient();
  }

  #activation(): StageInput {
    const step = Math.floor(this.#arrived / this.#microBatches);
    const microBatch = microBatchIndex(this.#arrived % this.#microBatches);
    this.#places -= 1;
    this.#arrived += 1;
    return { kind: "activation", lap: 0, step: stepIndex(step), microBatch, value: 1, nowMs: 0 };
  }

  #gradient(): StageInput {
    const key = this.#awaited.shift();
    if (key === undefined) throw new Error("the stage stands still");
    return { kind: "gradient", lap: 0, ...key, value: 1, credits: 1, nowMs: 0 };
  }

  #take(outputs: readonly StageOutput[]): void {
    for (const output of outputs) {
      if (output.kind === "violation") throw new Error(output.reason);
      if (output.kind === "drain") this.#isDraining = true;
      if (output.kind === "sendCredits" || output.kind === "sendGradient") this.#places += output.credits;
      if (output.kind === "sendGradient") this.#leaving += 1;
      if (output.kind === "sendActivation") this.#awaited.push({ step: output.step, microBatch: output.microBatch });
      if (output.kind !== "compute") continue;
      this.#isRunning = true;
      if (output.operation.kind === "update") this.completedSteps += 1;
    }
  }
}
