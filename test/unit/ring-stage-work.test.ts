/** @file One stage machine by hand: what it does next, what it says of its places, what it measures. Whole rings: test/property. */
import { describe, expect, test } from "vitest";
import type { StageOutput } from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import {
  activation,
  computed,
  credits,
  drained,
  feed,
  gradient,
  gradientLeft,
  labels,
  opened,
  shown,
  stageInit,
  started,
} from "../helpers/one-stage.ts";

const ruled = (changes: Parameters<typeof opened>[0] = {}) =>
  opened({ ...changes, shape: { kind: "zero-bubble", ...changes.shape }, segments: { slots: 4, ...changes.segments } });
const sent = (outputs: readonly StageOutput[], kind: StageOutput["kind"]) =>
  outputs.find((output) => output.kind === kind);

describe("a stage under a list", () => {
  test("does one operation at a time, in the order of its schedule", () => {
    const machine = opened();
    expect(shown(feed(machine, activation(0, 0), activation(0, 1)))).toEqual(["F0/0"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "F0/1"]);
    // The gradient of 0/0 is there, but 1F1B's second forward runs: it waits its turn.
    expect(shown(machine.handle(gradient(0, 0)))).toEqual([]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "BW0/0"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendGradient"]);
    expect(shown(machine.handle(gradient(0, 1, { value: 0.25 })))).toEqual(["loss", "BW0/1"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendGradient", "update"]);
  });

  test("keeps to it also where the next forward could start before the gradient comes", () => {
    const machine = opened({ shape: { microBatches: 3 }, segments: { slots: 3 } });
    feed(machine, activation(0, 0), activation(0, 1), activation(0, 2), computed());
    // Two are held, as many as the node may: the third waits for the first one's backward.
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation"]);
    expect(machine.describe().lacks).toEqual([{ kind: "gradient", lap: 0, microBatch: 0 }]);
    expect(shown(machine.handle(gradient(0, 0)))).toEqual(["BW0/0"]);
  });

  test("waits for a credit before it computes what it could not send", () => {
    const machine = started({ node: 0, shape: { nodes: 2, microBatches: 8 }, segments: { slots: 4 } });
    expect(machine.describe().lacks).toEqual([{ kind: "credit", lap: 0, microBatch: 0 }]);
    expect(shown(machine.handle(credits(2, 0)))).toEqual(["sendLabels", "F0/0"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "F0/1"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation"]);
    expect(machine.describe().counts.credits).toEqual([0]);
    // A gradient that brings no credit lets the backward run, but not the next forward.
    expect(shown(machine.handle(gradient(0, 0, { credits: 0 })))).toEqual(["BW0/0"]);
    expect(shown(machine.handle(computed()))).toEqual([]);
    expect(shown(machine.handle(credits(1, null)))).toEqual(["F0/2"]);
  });

  test("computes no loss but at the end: the mean over the batch, in float64", () => {
    const last = opened({ node: 2, batch: 3 });
    feed(last, labels(0), activation(0, 0), activation(0, 1), computed({ loss: 0.1 }), computed());
    expect(last.handle(computed({ loss: 0.2 }))[0]).toEqual({ kind: "loss", step: 0, loss: (0.1 + 0.2) / 3 });
  });

  test("waits for its labels where the model ends", () => {
    const last = opened({ node: 2 });
    expect(shown(last.handle(activation(0, 0)))).toEqual([]);
    expect(last.describe().lacks).toEqual([{ kind: "labels" }]);
    expect(shown(last.handle(labels(0)))).toEqual(["F0/0"]);
  });

  test("that is resumed begins with the checkpoint's step", () => {
    expect(opened({ node: 0, firstStep: 3 }).describe().step).toBe(3);
    const stopped = new StageMachine(stageInit({ node: 0, firstStep: 3 }));
    stopped.handle({ kind: "stopRequested" });
    expect(stopped.handle({ kind: "start" }), "no step more than was told").toContainEqual({
      kind: "sendEnd",
      lastStep: 2,
    });
    expect(opened({ firstStep: 3 }).placeFor(activation(0, 0)).kind).toBe("refused");
    expect(opened({ firstStep: 3 }).placeFor(activation(3, 0))).toEqual({ kind: "slot", slot: 0 });
  });
});

describe("a stage under the local rule", () => {
  test("takes a backward before a forward, and a W last: slice by slice, each behind what has arrived", () => {
    const machine = ruled({ shape: { microBatches: 4 }, segments: { slices: [2] } });
    expect(shown(feed(machine, activation(0, 0), computed(), gradient(0, 0), activation(0, 1)))).toEqual([
      "F0/0",
      "sendActivation",
      "B0/0",
    ]);
    expect(shown(machine.handle(computed()))).toEqual(["sendGradient", "F0/1"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "drain"]);
    expect(shown(machine.handle(drained))).toEqual(["W0/0.0"]);
    expect(shown(machine.handle(activation(0, 2)))).toEqual([]);
    // What came during the slice goes before the next one.
    expect(shown(machine.handle(computed()))).toEqual(["F0/2"]);
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "drain"]);
    expect(shown(machine.handle(gradient(0, 1)))).toEqual(["B0/1"]);
    expect(shown(feed(machine, drained, computed()))).toEqual(["sendGradient", "drain"]);
    expect(shown(machine.handle(drained))).toEqual(["W0/0.1"]);
    expect(shown(feed(machine, computed(), drained, computed(), drained))).toEqual([
      "drain",
      "W0/1.0",
      "drain",
      "W0/1.1",
    ]);
  });

  test("takes a forward before a backward that includes its W", () => {
    const machine = ruled({ canSplit: false, shape: { microBatches: 4 } });
    feed(machine, activation(0, 0), computed());
    expect(shown(machine.handle(activation(0, 1)))).toEqual(["F0/1"]);
    feed(machine, gradient(0, 0), activation(0, 2));
    // Two in flight, p-i: the third forward waits although its activation is here.
    expect(shown(machine.handle(computed()))).toEqual(["sendActivation", "BW0/0"]);
    machine.handle(gradient(0, 1));
    expect(shown(machine.handle(computed()))).toEqual(["sendGradient", "F0/2"]);
  });

  test("asks once for what has arrived, however many other words come before the answer", () => {
    const machine = ruled({ shape: { microBatches: 4 } });
    expect(shown(feed(machine, activation(0, 0), computed(), gradient(0, 0), computed())).at(-1)).toBe("drain");
    expect(shown(feed(machine, gradientLeft(), credits(0, null)))).toEqual([]);
    expect(shown(machine.handle(drained))).toEqual(["W0/0.0"]);
  });

  test("under laps goes backward through the last lap first", () => {
    const shape = { kind: "zero-bubble", nodes: 2, laps: 2, microBatches: 2 } as const;
    const first = opened({ node: 0, shape, segments: { slots: 4 } });
    const laps = (outputs: readonly StageOutput[]): string[] => shown(outputs, 2);
    expect(laps(feed(first, computed(), computed())).slice(-1)).toEqual(["sendActivation"]);
    feed(first, activation(0, 0, { lap: 1 }), activation(0, 1, { lap: 1 }));
    expect(laps(feed(first, computed(), computed()))).toEqual(["sendActivation", "1F0/1", "sendActivation"]);
    expect(laps(first.handle(gradient(0, 0, { lap: 0 })))).toEqual([]);
    expect(first.describe().lacks).toEqual([{ kind: "gradient", lap: 1, microBatch: 0 }]);
    expect(laps(first.handle(gradient(0, 0, { lap: 1 })))).toEqual(["1B0/0"]);
  });
});

describe("places", () => {
  test("are told to the predecessor at the start, in each lap that has one", () => {
    const starting = (changes: Parameters<typeof stageInit>[0]) =>
      new StageMachine(stageInit(changes)).handle({ kind: "start" });
    const told = (toLap: number) => ({ kind: "sendCredits", toLap, credits: 3, opensPlan: 2 });
    const segments = { slots: 3, plan: 2 };
    expect(starting({ segments })).toEqual([told(0)]);
    expect(starting({ segments, node: 0 })).toEqual([]);
    const shape = { kind: "zero-bubble", nodes: 3, laps: 3, microBatches: 3 } as const;
    expect(starting({ segments, shape })).toEqual([told(0), told(1), told(2)]);
    // Over the closure edge a lap's places are the ones that the lap before sends to.
    expect(starting({ segments, shape, node: 0 })).toEqual([told(0), told(1)]);
  });

  test("that are free again ride on the next gradient", () => {
    const machine = ruled({ shape: { microBatches: 4 } });
    feed(machine, activation(0, 0), computed(), activation(0, 1), computed(), gradient(0, 0));
    expect(sent(machine.handle(computed()), "sendGradient")).toMatchObject({ credits: 0, toLap: 0, slot: 0 });
    expect(shown(feed(machine, gradientLeft(), drained, computed()))).toEqual(["W0/0.0"]);
    machine.handle(gradient(0, 1));
    expect(sent(machine.handle(computed()), "sendGradient")).toMatchObject({ credits: 1, slot: 1 });
  });

  test("are told at once where half are owed, so that a ring with few never stands still", () => {
    const machine = ruled({ segments: { slots: 2 } });
    feed(machine, activation(0, 0), computed(), gradient(0, 0), computed(), drained);
    expect(shown(machine.handle(computed()))).toEqual([]);
    // The W is done: the place is free when the gradient has left too.
    expect(shown(machine.handle(gradientLeft()))).toEqual(["sendCredits 1"]);
  });
});

describe("the round trip", () => {
  const timed = () => ruled({ node: 0, shape: { nodes: 2, microBatches: 6 } });

  test("is from F's end to the gradient, less what the others took: the least seen, told with each activation", () => {
    const first = timed();
    const value = (outputs: readonly StageOutput[]) =>
      (sent(outputs, "sendActivation") as { value: number } | undefined)?.value;
    expect(value(first.handle(computed({ nowMs: 10 })))).toBe(0);
    first.handle(gradient(0, 0, { nowMs: 40, value: 23 }));
    expect(value(first.handle(computed({ nowMs: 41 })))).toBe(7);
    feed(first, computed({ nowMs: 42 }), gradient(0, 1, { nowMs: 60, value: 10 }));
    // 60 - 41 - 10 = 9 is more than 7.
    expect(value(first.handle(computed({ nowMs: 61 })))).toBe(7);
  });

  test("of the ring is passed on as it came; each node adds its own time to the gradient", () => {
    const middle = ruled({ shape: { microBatches: 4 } });
    const outputs = feed(middle, activation(0, 0, { value: 7, nowMs: 100 }), computed({ nowMs: 110 }));
    expect(sent(outputs, "sendActivation")).toMatchObject({ value: 7 });
    middle.handle(gradient(0, 0, { nowMs: 140, value: 25 }));
    // Its own round trip is 140 - 110 - 25 = 5: of 150 - 100 ms all but these 5 were work or waiting.
    expect(sent(middle.handle(computed({ nowMs: 150 })), "sendGradient")).toMatchObject({ value: 45 });
  });

  test("begins where the model ends: all of the time is work or waiting", () => {
    const last = ruled({ node: 2, shape: { microBatches: 4 } });
    feed(last, labels(0), activation(0, 0, { nowMs: 100 }), computed({ nowMs: 108, loss: 1 }));
    expect(sent(last.handle(computed({ nowMs: 120 })), "sendGradient")).toMatchObject({ value: 20 });
  });
});

describe("layers that move", () => {
  const plan = { kind: "plan", plan: 1, step: 1 } as const;
  const moved = { kind: "moved", segments: { plan: 1, slots: 3, slices: [2] } } as const;

  /** One step of one micro-batch is done, but its gradient has not left. */
  function afterStep() {
    const machine = opened({ shape: { microBatches: 1 } });
    feed(machine, plan, activation(0, 0), computed(), gradient(0, 0, { value: 1 }), computed());
    return machine;
  }

  test("wait for the step's end, and for the last gradient to leave", () => {
    const machine = afterStep();
    expect(shown(machine.handle(computed()))).toEqual([]);
    expect(machine.handle(gradientLeft())).toContainEqual({ kind: "move", plan: 1, step: 1 });
    expect(machine.describe().phase).toBe("moving");
    expect(shown(machine.handle(moved))).toEqual(["sendCredits 3"]);
  });

  test("make all places new: credits of the plan before count nothing", () => {
    const machine = afterStep();
    feed(machine, computed(), gradientLeft(), moved);
    expect(shown(feed(machine, activation(1, 0), credits(1, null)))).toEqual([]);
    expect(machine.describe().lacks).toEqual([{ kind: "credit", lap: 0, microBatch: 0 }]);
    expect(shown(machine.handle(credits(1, 1)))).toEqual(["F1/0"]);
  });

  test("are opened by a successor that has moved already: its places are for the new plan alone", () => {
    const machine = afterStep();
    machine.handle(credits(3, 1));
    expect(machine.describe().counts.credits).toEqual([2]);
    feed(machine, computed(), gradientLeft(), moved);
    expect(machine.describe().counts.credits).toEqual([3]);
    expect(shown(machine.handle(activation(1, 0)))).toEqual(["F1/0"]);
  });

  test("before a step that node 0 names itself", () => {
    const first = opened({ node: 0, shape: { microBatches: 1 } });
    feed(first, { ...plan, step: null }, computed(), gradient(0, 0, { value: 1 }), computed());
    expect(first.handle(computed())).toContainEqual({ kind: "move", plan: 1, step: 1 });
  });
});
