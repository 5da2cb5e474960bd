/** @file Where the payload of a frame may go: wrong kind, type, shape and turn are refused before any memory is named. */
import { beforeEach, describe, expect, test } from "vitest";
import { StageMachine } from "../../ring/core/stage.ts";
import { StageTensors } from "../../ring/runtime/tensors.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { planSegment, segmentMemory, type SegmentLayout } from "../../src/nn/layout.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { microBatchIndex, stepIndex } from "../../src/types/ids.ts";
import { DataType, FrameKind, frameFields, type FrameFields, type FrameHeader } from "../../src/wire/header.ts";

const BATCH = 6;
const ROWS = 3;
const TEST_COUNT = 7;

function header(fields: Partial<FrameFields> & Pick<FrameFields, "kind">): FrameHeader {
  const elements = (fields.shape ?? []).reduce((product, size) => product * size, 1);
  const link = { sequence: 0, grantedBytes: 0, payloadBytes: 4 * elements, payloadChecksum: 0 };
  return { ...frameFields(fields), ...link };
}

/** Stage `stage` of two, each with one layer of mlp:5-4-3. */
class Stage {
  readonly machine: StageMachine;
  readonly layout: SegmentLayout;
  readonly memory: EngineMemory;
  readonly tensors: StageTensors;

  constructor(stage: number) {
    const slotsOf = { stage, stages: 2, schedule: "1f1b", microBatches: BATCH / ROWS, batch: BATCH } as const;
    const ends = { checkpointEvery: 0, validateEvery: 0, evaluationMicroBatches: 3, stopAtLoss: null };
    this.machine = new StageMachine({ ...slotsOf, ...ends, firstStep: 0, steps: 4 });
    this.machine.handle({ kind: "start" });
    const shared = { model: "mlp:5-4-3", rows: ROWS, slots: this.machine.slots, optimizer: "sgd", rate: 0.1 };
    const segment = { ...shared, layers: [stage, stage + 1] as const, seed: 1, batch: BATCH };
    this.layout = planSegment(segment, loadKernels("wasm-exact", new EngineMemory(0).memory));
    this.memory = segmentMemory([this.layout]);
    const { machine, layout, memory } = this;
    this.tensors = new StageTensors({
      ...{ machine, layout, memory },
      ...{ batch: BATCH, testCount: TEST_COUNT, feeder: undefined },
    });
  }
}

let first: Stage;
let last: Stage;
beforeEach(() => {
  first = new Stage(0);
  last = new Stage(1);
});

const activation = { kind: FrameKind.activation, dtype: DataType.float32, shape: [ROWS, 4] } as const;
const gradient = { kind: FrameKind.gradient, dtype: DataType.float32, shape: [ROWS, 4] } as const;
const labels = { kind: FrameKind.labels, dtype: DataType.int32, shape: [BATCH] } as const;
const testLabels = { kind: FrameKind.evaluation, dtype: DataType.int32, shape: [TEST_COUNT] } as const;

const refusal = (place: () => unknown): string => {
  try {
    place();
  } catch (error) {
    if (error instanceof ProtocolError) return error.message;
    throw error;
  }
  throw new Error("it was not refused");
};

describe("what is expected", () => {
  test("activations and evaluations go to the input of their slot", () => {
    const { offsetBytes } = last.layout.slots[0]!.input;
    for (const kind of [FrameKind.activation, FrameKind.evaluation]) {
      const place = last.tensors.placeForward(header({ ...activation, kind }));
      expect([place.byteOffset, place.byteLength]).toEqual([offsetBytes, 4 * ROWS * 4]);
      expect(place.buffer).toBe(last.memory.memory.buffer);
    }
    last.machine.handle({ kind: "activation", step: stepIndex(0), microBatch: microBatchIndex(0) });
    const next = last.tensors.placeForward(header({ ...activation, microBatch: 1 }));
    expect(next.byteOffset).toBe(last.layout.slots[1]!.input.offsetBytes);
  });

  test("gradients go to the output's gradient of their slot", () => {
    first.machine.handle({ kind: "computed", loss: Number.NaN, correct: 0 });
    const place = first.tensors.placeBackward(header(gradient));
    expect(place.byteOffset).toBe(first.layout.slots[0]!.outputGradient.offsetBytes);
    expect(place.byteLength).toBe(4 * ROWS * 4);
  });

  test("labels of a step and of the test set go to buffers of their own, and from there to the slot's rows", () => {
    const step = last.tensors.placeBackward(header(labels));
    new Int32Array(step.buffer, step.byteOffset, BATCH).set([0, 1, 2, 2, 1, 0]);
    last.tensors.fillTraining(0, 0, 1);
    const rows = last.layout.slots[0]!.labels!;
    expect([...last.memory.i32(rows)]).toEqual([2, 1, 0]);
    const all = last.tensors.placeBackward(header(testLabels));
    new Int32Array(all.buffer, all.byteOffset, TEST_COUNT).set([1, 1, 1, 2, 2, 2, 0]);
    last.tensors.fillEvaluation(0, 2);
    // The last micro-batch of the test set is not full: its other rows do not count.
    expect([...last.memory.i32(rows)]).toEqual([0, -1, -1]);
  });
});

describe("a wrong shape or type is refused", () => {
  const wrong: [string, Partial<FrameFields>][] = [
    ["another width", { shape: [ROWS, 5] }],
    ["other rows", { shape: [ROWS + 1, 4] }],
    ["the same number of elements", { shape: [4, ROWS] }],
    ["one dimension less", { shape: [ROWS * 4] }],
    ["one more", { shape: [1, ROWS, 4] }],
    ["nothing", { shape: [], dtype: DataType.bytes }],
    ["integers", { dtype: DataType.int32 }],
    ["2^32 elements, before anything is allocated", { shape: [65_536, 65_536] }],
  ];

  test.each(wrong)("of an activation: %s", (_, change) => {
    expect(refusal(() => last.tensors.placeForward(header({ ...activation, ...change })))).toContain(
      `not ${DataType.float32} and [3, 4]`,
    );
  });

  test.each(wrong)("of an evaluation: %s", (_, change) => {
    const frame = header({ ...activation, kind: FrameKind.evaluation, ...change });
    expect(refusal(() => last.tensors.placeForward(frame))).toContain("and [3, 4]");
  });

  test.each(wrong)("of a gradient: %s", (_, change) => {
    first.machine.handle({ kind: "computed", loss: Number.NaN, correct: 0 });
    expect(refusal(() => first.tensors.placeBackward(header({ ...gradient, ...change })))).toContain("and [3, 4]");
  });

  test.each([
    [{ shape: [BATCH + 1] }, "not 2 and [6]"],
    [{ shape: [ROWS] }, "not 2 and [6]"],
    [{ dtype: DataType.float32 }, "has type 1 and shape [6]"],
  ])("of labels: %j", (change, text) => {
    expect(refusal(() => last.tensors.placeBackward(header({ ...labels, ...change })))).toContain(text);
  });

  test("of the test set's labels, and of any labels where the model does not end", () => {
    expect(refusal(() => last.tensors.placeBackward(header({ ...testLabels, shape: [TEST_COUNT - 1] })))).toContain(
      "not 2 and [7]",
    );
    expect(refusal(() => first.tensors.placeBackward(header(testLabels)))).toContain("not 2 and [0]");
    expect(refusal(() => first.tensors.placeBackward(header(labels)))).toBe("labels of step 0 are out of order");
  });
});

describe("a wrong kind or turn is refused", () => {
  test.each(Object.entries(FrameKind))("%s from the wrong side", (name, kind) => {
    const frame = header({ ...activation, kind });
    if (name !== "activation" && name !== "evaluation") {
      expect(refusal(() => last.tensors.placeForward(frame))).toBe(`kind ${kind} does not come from a predecessor`);
    }
    if (name !== "gradient" && name !== "labels" && name !== "evaluation") {
      expect(refusal(() => last.tensors.placeBackward(frame))).toBe(`kind ${kind} does not come from a successor`);
    }
  });

  test("out of order", () => {
    expect(refusal(() => last.tensors.placeForward(header({ ...activation, microBatch: 1 })))).toBe(
      "activation 0/1 is out of order",
    );
    expect(refusal(() => last.tensors.placeForward(header({ ...activation, step: 1 })))).toBe(
      "activation 1/0 is out of order",
    );
    expect(refusal(() => first.tensors.placeBackward(header(gradient)))).toBe(
      "gradient 0/0 comes before its activation",
    );
    expect(refusal(() => last.tensors.placeBackward(header({ ...labels, step: 1 })))).toBe(
      "labels of step 1 are out of order",
    );
    expect(
      refusal(() => last.tensors.placeForward(header({ ...activation, kind: FrameKind.evaluation, microBatch: 1 }))),
    ).toBe("evaluation 1 is out of order");
  });
});
