/** @file One stage machine by hand: what it refuses of its neighbours, and in which words. Whole rings: test/property. */
import { describe, expect, test } from "vitest";
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { microBatchIndex, stepIndex, type MicroBatchKey } from "../../src/types/ids.ts";

const key = (step: number, microBatch: number): MicroBatchKey => ({
  step: stepIndex(step),
  microBatch: microBatchIndex(microBatch),
});
const activation = (step: number, microBatch: number) => ({ kind: "activation", ...key(step, microBatch) }) as const;
const gradient = (step: number, microBatch: number, loss = Number.NaN, credits = 1) =>
  ({ kind: "gradient", ...key(step, microBatch), loss, credits }) as const;
const computed = { kind: "computed", loss: Number.NaN, correct: 0 } as const;

/** A started machine: by default the middle of three stages, two micro-batches, 1F1B, so two slots. */
function started(changes: Partial<StageInit> = {}): StageMachine {
  const machine = new StageMachine({
    stage: 1,
    stages: 3,
    schedule: "1f1b",
    microBatches: 2,
    batch: 4,
    firstStep: 0,
    steps: 5,
    checkpointEvery: 0,
    validateEvery: 0,
    evaluationMicroBatches: 3,
    stopAtLoss: null,
    ...changes,
  });
  machine.handle({ kind: "start" });
  return machine;
}

function feed(machine: StageMachine, inputs: readonly StageInput[]): StageOutput[] {
  return inputs.flatMap((input) => machine.handle(input));
}

const shown = (outputs: readonly StageOutput[]): string[] =>
  outputs.map((output) => (output.kind === "compute" ? output.operation.kind : output.kind));
const refused = (reason: string) => ({ kind: "refused", reason }) as const;

describe("a place for an announced tensor", () => {
  test("is the slot of its sequence number", () => {
    const machine = started();
    expect(machine.placeFor(activation(0, 0))).toEqual({ kind: "slot", slot: 0 });
    machine.handle(activation(0, 0));
    expect(machine.placeFor(activation(0, 1))).toEqual({ kind: "slot", slot: 1 });
  });

  test.each([
    ["the same again", activation(0, 0)],
    ["one left out", activation(1, 0)],
    ["another step", activation(2, 1)],
    ["a micro-batch that a step does not have", activation(0, 2)],
  ])("is refused for an activation out of order: %s", (_, announced) => {
    const machine = started();
    machine.handle(activation(0, 0));
    const reason = `activation ${announced.step}/${announced.microBatch} is out of order`;
    expect(machine.placeFor(announced)).toEqual(refused(reason));
    expect(machine.handle(announced)).toEqual([{ kind: "violation", from: "predecessor", reason }]);
  });

  test("is refused for an activation without credit: every slot holds one", () => {
    const machine = started();
    feed(machine, [activation(0, 0), activation(0, 1)]);
    const reason = "activation 1/0 comes without credit";
    expect(machine.placeFor(activation(1, 0))).toEqual(refused(reason));
    expect(machine.handle(activation(1, 0))).toEqual([{ kind: "violation", from: "predecessor", reason }]);
  });

  test("is refused for a gradient before its activation was computed, and out of order", () => {
    const machine = started();
    machine.handle(activation(0, 0));
    expect(machine.placeFor(gradient(0, 0))).toEqual(refused("gradient 0/0 comes before its activation"));
    machine.handle(computed);
    expect(machine.placeFor(gradient(0, 0))).toEqual({ kind: "slot", slot: 0 });
    expect(machine.placeFor(gradient(0, 1))).toEqual(refused("gradient 0/1 is out of order"));
    expect(machine.placeFor(gradient(1, 0))).toEqual(refused("gradient 1/0 is out of order"));
    machine.handle(gradient(0, 0));
    expect(machine.handle(gradient(0, 0))).toEqual([
      { kind: "violation", from: "successor", reason: "gradient 0/0 is out of order" },
    ]);
  });

  test("is refused for tensors over the closure edge, which carries none", () => {
    const first = started({ stage: 0 });
    const last = started({ stage: 2 });
    const sequence = activation(0, 1);
    expect(first.placeFor(sequence)).toEqual(refused("no activation comes here"));
    expect(first.handle(sequence)).toEqual([
      { kind: "violation", from: "predecessor", reason: "no activation comes here" },
    ]);
    expect(first.placeFor({ kind: "evaluation", index: 0 })).toEqual(refused("no evaluation comes here"));
    feed(last, [activation(0, 0), { kind: "labels", step: stepIndex(0) }, computed]);
    expect(last.placeFor(gradient(0, 0))).toEqual(refused("no gradient comes here"));
    expect(last.handle(gradient(0, 0))).toEqual([
      { kind: "violation", from: "successor", reason: "no gradient comes here" },
    ]);
  });

  test("is refused for an evaluation out of order, beyond the last, without credit, or during a step", () => {
    const evaluation = (index: number) => ({ kind: "evaluation", index }) as const;
    const machine = started();
    expect(machine.placeFor(evaluation(0))).toEqual({ kind: "slot", slot: 0 });
    expect(machine.placeFor(evaluation(1))).toEqual(refused("evaluation 1 is out of order"));
    machine.handle(evaluation(0));
    machine.handle(evaluation(1));
    expect(machine.placeFor(evaluation(2))).toEqual(refused("evaluation 2 comes without credit"));
    expect(machine.placeFor(evaluation(3))).toEqual(refused("evaluation 3 is out of order"));
    expect(started({ evaluationMicroBatches: 0 }).placeFor(evaluation(0))).toEqual(
      refused("evaluation 0 is out of order"),
    );
    const training = started();
    training.handle(activation(0, 0));
    expect(training.placeFor(evaluation(0))).toEqual(refused("evaluation 0 comes without credit"));
  });
});

describe("a violation", () => {
  const violates = (machine: StageMachine, input: StageInput, from: string, reason: string): void => {
    expect(machine.handle(input)).toEqual([{ kind: "violation", from, reason }]);
  };

  test("is a label of another step, twice, too early, or at a stage that needs none", () => {
    const labels = (step: number) => ({ kind: "labels", step: stepIndex(step) }) as const;
    const last = started({ stage: 2 });
    violates(last, labels(1), "successor", "labels of step 1 are out of order");
    expect(last.handle(labels(0))).toEqual([]);
    violates(last, labels(0), "successor", "labels of step 0 are out of order");
    // Step 0 still reads the one buffer that there is.
    violates(last, labels(1), "successor", "labels of step 1 are out of order");
    violates(started({ stage: 1 }), labels(0), "successor", "labels of step 0 are out of order");
  });

  test("is a credit for a place that the successor does not have", () => {
    const machine = started();
    feed(machine, [activation(0, 0), computed]);
    violates(machine, gradient(0, 0, Number.NaN, 2), "successor", "more credits than places");
  });

  test("is a loss where none is due, and none where one is", () => {
    const machine = started();
    feed(machine, [activation(0, 0), activation(0, 1), computed, computed]);
    const reason = "a step's loss comes with its last gradient";
    violates(machine, gradient(0, 0, 0.5), "successor", reason);
    feed(machine, [gradient(0, 0), computed]);
    violates(machine, gradient(0, 1), "successor", reason);
  });

  test("is an end to the first stage, before its step is over, twice, or of a step that is past", () => {
    const end = (step: number) => ({ kind: "end", lastStep: stepIndex(step) }) as const;
    const reason = "an end of the run out of order";
    violates(started({ stage: 0 }), end(0), "predecessor", reason);
    const machine = started();
    violates(machine, end(0), "predecessor", reason);
    machine.handle(activation(0, 0));
    violates(machine, end(0), "predecessor", reason);
    machine.handle(activation(0, 1));
    violates(machine, end(1), "predecessor", reason);
    expect(shown(machine.handle(end(0)))).toEqual(["sendEnd"]);
    violates(machine, end(0), "predecessor", reason);
  });

  test("is a credit outside an evaluation, or labels of the test set that nobody awaits", () => {
    violates(started(), { kind: "evaluationCredit" }, "successor", "a credit that nobody used");
    violates(started(), { kind: "evaluationLabels" }, "successor", "labels that nobody awaits");
    const last = started({ stage: 2 });
    expect(last.handle({ kind: "evaluationLabels" })).toEqual([]);
    violates(last, { kind: "evaluationLabels" }, "successor", "labels that nobody awaits");
  });
});

describe("a stage", () => {
  test("does one operation at a time, in the order of its schedule", () => {
    const machine = started();
    expect(shown(feed(machine, [activation(0, 0), activation(0, 1)]))).toEqual(["forward"]);
    expect(shown(machine.handle(computed))).toEqual(["sendActivation", "forward"]);
    // The gradient of 0/0 is there, but 1F1B's second forward runs: it waits its turn.
    expect(shown(machine.handle(gradient(0, 0)))).toEqual([]);
    expect(shown(machine.handle(computed))).toEqual(["sendActivation", "backward"]);
    expect(shown(machine.handle(computed))).toEqual(["sendGradient"]);
    expect(shown(machine.handle(gradient(0, 1, 0.25)))).toEqual(["committed", "backward"]);
    expect(shown(machine.handle(computed))).toEqual(["sendGradient", "update"]);
  });

  test("keeps to its schedule also where the next forward could start before the gradient comes", () => {
    const machine = started({ microBatches: 3 });
    feed(machine, [activation(0, 0), activation(0, 1), activation(0, 2), computed]);
    // Two are held, as many as the stage may: the third waits for the first one's backward.
    expect(shown(machine.handle(computed))).toEqual(["sendActivation"]);
    expect(shown(machine.handle(gradient(0, 0)))).toEqual(["backward"]);
  });

  test("waits for a credit before it computes what it could not send", () => {
    const machine = started({ stage: 0, schedule: "1f1b", microBatches: 8, stages: 2, evaluationMicroBatches: 0 });
    // The successor has two places: two forwards, then backward is next in the list in any case.
    expect(shown(machine.handle(computed))).toEqual(["sendActivation", "forward"]);
    expect(shown(machine.handle(computed))).toEqual(["sendActivation"]);
    expect(machine.describe()).toEqual({ step: 0, phase: "training", credits: 0 });
    // A gradient that brings no credit lets the backward run, but not the next forward.
    expect(shown(machine.handle(gradient(0, 0, Number.NaN, 0)))).toEqual(["backward"]);
    expect(shown(machine.handle(computed))).toEqual([]);
    expect(shown(machine.handle(gradient(0, 1, Number.NaN, 2)))).toEqual(["forward"]);
  });

  test("computes no loss but at the end: the mean over the batch, in float64", () => {
    const last = started({ stage: 2, batch: 3, microBatches: 2 });
    feed(last, [{ kind: "labels", step: stepIndex(0) }, activation(0, 0), activation(0, 1)]);
    feed(last, [{ kind: "computed", loss: 0.1, correct: 0 }, computed]);
    const outputs = last.handle({ kind: "computed", loss: 0.2, correct: 0 });
    expect(outputs[0]).toEqual({ kind: "committed", step: 0, loss: (0.1 + 0.2) / 3 });
  });

  test("that is resumed begins with the checkpoint's step", () => {
    const machine = started({ stage: 0, firstStep: 3 });
    expect(machine.describe().step).toBe(3);
    expect(started({ firstStep: 3 }).placeFor(activation(0, 0))).toEqual(refused("activation 0/0 is out of order"));
    expect(started({ firstStep: 3 }).placeFor(activation(3, 0))).toEqual({ kind: "slot", slot: 0 });
  });
});
