/** @file One stage machine by hand: what it refuses of its neighbours, and in which words. Whole rings: test/property. */
import { describe, expect, test } from "vitest";
import type { AnnouncedTensor, StageInput } from "../../ring/core/stage-messages.ts";
import type { StageMachine } from "../../ring/core/stage.ts";
import { stepIndex } from "../../src/types/ids.ts";
import {
  activation,
  computed,
  credits,
  feed,
  gradient,
  gradientLeft,
  labels,
  opened,
  shown,
  started,
} from "../helpers/one-stage.ts";

const refused = (reason: string) => ({ kind: "refused", reason }) as const;
const slot = (index: number) => ({ kind: "slot", slot: index }) as const;

function violates(machine: StageMachine, input: StageInput, from: string, reason: string): void {
  expect(machine.handle(input)).toEqual([{ kind: "violation", from, reason }]);
}

/** Both before its bytes are read and after. */
function refuses(machine: StageMachine, input: StageInput & AnnouncedTensor, reason: string): void {
  expect(machine.placeFor(input)).toEqual(refused(reason));
  violates(machine, input, input.kind === "gradient" ? "successor" : "predecessor", reason);
}

describe("a place for an announced tensor", () => {
  test("is the same until the tensor is there, then the next", () => {
    const machine = opened();
    expect(machine.placeFor(activation(0, 0))).toEqual(slot(0));
    expect(machine.placeFor(activation(0, 0))).toEqual(slot(0));
    machine.handle(activation(0, 0));
    expect(machine.placeFor(activation(0, 1))).toEqual(slot(1));
  });

  test.each([
    ["the same again", 0, 0],
    ["one left out", 1, 0],
    ["another step", 2, 1],
    ["a micro-batch that a step does not have", 0, 2],
  ])("is refused for an activation out of order: %s", (_, step, microBatch) => {
    const machine = opened();
    machine.handle(activation(0, 0));
    refuses(machine, activation(step, microBatch), `activation ${step}/${microBatch} of lap 0 is out of order`);
  });

  test("is refused for an activation without credit: every slot holds one", () => {
    const machine = opened();
    feed(machine, activation(0, 0), activation(0, 1));
    refuses(machine, activation(1, 0), "activation 1/0 of lap 0 comes without credit");
  });

  test("is refused also behind a finished W, as long as its gradient has not left", () => {
    const machine = opened();
    feed(machine, activation(0, 0), activation(0, 1), computed(), computed(), gradient(0, 0));
    expect(shown(machine.handle(computed()))).toEqual(["sendGradient"]);
    expect(machine.placeFor(activation(1, 0))).toEqual(refused("activation 1/0 of lap 0 comes without credit"));
    expect(shown(machine.handle(gradientLeft()))).toEqual(["sendCredits 1"]);
    expect(machine.placeFor(activation(1, 0))).toEqual(slot(0));
  });

  test("is refused for a gradient before its activation was computed, and out of order", () => {
    const machine = opened();
    machine.handle(activation(0, 0));
    refuses(machine, gradient(0, 0), "gradient 0/0 of lap 0 comes before its activation");
    machine.handle(computed());
    expect(machine.placeFor(gradient(0, 0))).toEqual(slot(0));
    refuses(machine, gradient(0, 1), "gradient 0/1 of lap 0 is out of order");
    refuses(machine, gradient(1, 0), "gradient 1/0 of lap 0 is out of order");
    machine.handle(gradient(0, 0));
    refuses(machine, gradient(0, 0), "gradient 0/0 of lap 0 is out of order");
  });

  test("is refused over the closure edge where the model begins and ends", () => {
    refuses(opened({ node: 0 }), activation(0, 0), "no activation 0/0 of lap 0 comes here");
    expect(opened({ node: 0 }).placeFor({ kind: "evaluation", lap: 0, index: 0 })).toEqual(
      refused("no evaluation comes here"),
    );
    const last = opened({ node: 2 });
    feed(last, activation(0, 0), labels(0), computed());
    refuses(last, gradient(0, 0), "no gradient 0/0 of lap 0 comes here");
  });

  test("is refused for a lap that there is not", () => {
    for (const lap of [1, 7]) {
      refuses(opened(), activation(0, 0, { lap }), `no activation 0/0 of lap ${lap} comes here`);
      refuses(opened(), gradient(0, 0, { lap }), `no gradient 0/0 of lap ${lap} comes here`);
    }
  });

  test("with laps, is there over the closure edge in all but the first and the last", () => {
    const shape = { kind: "interleaved", nodes: 2, laps: 2, microBatches: 2 } as const;
    const first = opened({ shape, node: 0 });
    expect(first.placeFor(activation(0, 0, { lap: 1 }))).toEqual(slot(0));
    refuses(first, activation(0, 0, { lap: 0 }), "no activation 0/0 of lap 0 comes here");
    const last = opened({ shape, node: 1 });
    feed(last, activation(0, 0), computed());
    expect(last.placeFor(gradient(0, 0, { lap: 0 }))).toEqual(slot(0));
    refuses(last, gradient(0, 0, { lap: 1 }), "no gradient 0/0 of lap 1 comes here");
  });

  test("is refused for an evaluation out of order, beyond the last, of another lap, or without credit", () => {
    const evaluation = (index: number, lap = 0) => ({ kind: "evaluation", lap, index }) as const;
    const machine = opened();
    // Behind the two slots of training: a predecessor may already evaluate during a step.
    expect(machine.placeFor(evaluation(0))).toEqual(slot(2));
    refuses(machine, evaluation(1), "evaluation 1 is out of order");
    refuses(machine, evaluation(0, 1), "evaluation 0 is out of order");
    machine.handle(evaluation(0));
    expect(machine.placeFor(evaluation(1))).toEqual(slot(3));
    machine.handle(evaluation(1));
    refuses(machine, evaluation(2), "evaluation 2 comes without credit");
    refuses(machine, evaluation(3), "evaluation 3 is out of order");
    refuses(opened({ evaluationMicroBatches: 0 }), evaluation(0), "evaluation 0 is out of order");
  });
});

describe("a violation", () => {
  test("is a label of another step, twice, too early, or at a node that needs none", () => {
    const last = opened({ node: 2 });
    violates(last, labels(1), "successor", "labels of step 1 are out of order");
    expect(last.acceptsLabels(0)).toBe(true);
    expect(last.handle(labels(0))).toEqual([]);
    violates(last, labels(0), "successor", "labels of step 0 are out of order");
    // Step 0 still reads the one buffer that there is.
    violates(last, labels(1), "successor", "labels of step 1 are out of order");
    feed(last, activation(0, 0), computed({ loss: 1 }), computed());
    violates(last, labels(1), "successor", "labels of step 1 are out of order");
    feed(last, activation(0, 1), computed({ loss: 1 }));
    expect(last.acceptsLabels(1)).toBe(true);
    expect(last.acceptsLabels(2)).toBe(false);
    violates(opened(), labels(0), "successor", "labels of step 0 are out of order");
  });

  test("is a credit for a place that the successor does not have", () => {
    const machine = opened();
    violates(machine, credits(1, null), "successor", "more credits than places");
    feed(machine, activation(0, 0), computed());
    violates(machine, gradient(0, 0, { credits: 2 }), "successor", "more credits than places");
  });

  test("is a credit before any place was told of, or of a lap that has no successor", () => {
    violates(started(), credits(1, null), "successor", "credits before any place was told of");
    violates(started(), credits(1, 0, 1), "successor", "lap 1 sends nothing to a successor");
    violates(opened({ node: 2 }), credits(1, 0), "successor", "lap 0 sends nothing to a successor");
  });

  test("is a last gradient without the step's loss", () => {
    const machine = opened();
    feed(machine, activation(0, 0), activation(0, 1), computed(), computed());
    // A micro-batch's time with the others is no duty.
    expect(shown(machine.handle(gradient(0, 0, { value: Number.NaN })))).toEqual(["BW0/0"]);
    machine.handle(computed());
    expect(machine.handle(gradient(0, 1, { value: Number.NaN }))).toContainEqual({
      kind: "violation",
      from: "successor",
      reason: "a step's loss comes with its last gradient",
    });
  });

  test("is an end to the first node, before its step is over, twice, or of a step that is past", () => {
    const end = (step: number) => ({ kind: "end", lastStep: stepIndex(step) }) as const;
    const reason = "an end of the run out of order";
    violates(opened({ node: 0 }), end(0), "predecessor", reason);
    const machine = opened();
    violates(machine, end(0), "predecessor", reason);
    machine.handle(activation(0, 0));
    violates(machine, end(0), "predecessor", reason);
    machine.handle(activation(0, 1));
    violates(machine, end(1), "predecessor", reason);
    expect(shown(machine.handle(end(0)))).toEqual(["sendEnd"]);
    violates(machine, end(0), "predecessor", reason);
  });

  test("with laps, is an end before every lap has all of the step", () => {
    const shape = { kind: "interleaved", nodes: 2, laps: 2, microBatches: 2 } as const;
    const last = opened({ shape, node: 1 });
    feed(last, labels(0), activation(0, 0), activation(0, 1));
    violates(last, { kind: "end", lastStep: stepIndex(0) }, "predecessor", "an end of the run out of order");
  });

  test("is a credit outside an evaluation, or labels of the test set that nobody awaits", () => {
    violates(opened(), { kind: "evaluationCredit", lap: 0 }, "successor", "a credit that nobody used");
    violates(opened(), { kind: "evaluationCredit", lap: 1 }, "successor", "a credit that nobody used");
    violates(opened(), { kind: "evaluationLabels" }, "successor", "labels that nobody awaits");
    const last = opened({ node: 2 });
    expect(last.handle({ kind: "evaluationLabels" })).toEqual([]);
    violates(last, { kind: "evaluationLabels" }, "successor", "labels that nobody awaits");
  });
});

test("a version that not all copies have is awaited by who would make the next one, and by who has finished", () => {
  const alone = { node: 0, shape: { nodes: 1, microBatches: 1 }, steps: 1, evaluationMicroBatches: 0 };
  const machine = started({ ...alone, isReplicated: true });
  feed(machine, computed({ loss: 1 }), computed());
  expect(machine.describe()).toMatchObject({ phase: "updating", awaitsFrontier: 0 });
  expect(shown(machine.handle({ kind: "frontier", version: 0 }))).toEqual(["update"]);
  expect(machine.describe().awaitsFrontier).toBeNull();
  expect(shown(machine.handle(computed()))).toEqual(["save"]);
  expect(machine.describe().awaitsFrontier, "a save takes as long as it takes").toBeNull();
  machine.handle(computed());
  expect(machine.describe()).toMatchObject({ phase: "finished", awaitsFrontier: 1 });
  machine.handle({ kind: "frontier", version: 1 });
  expect(machine.describe().awaitsFrontier).toBeNull();
});
