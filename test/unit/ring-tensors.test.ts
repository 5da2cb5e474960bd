/** @file Where the payload of a frame may go: wrong kind, type, shape and turn are refused before any memory is named. */
import { beforeEach, describe, expect, test } from "vitest";
import { EVALUATION_PLACES } from "../../ring/core/evaluation.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { StageTensors } from "../../ring/runtime/tensors.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { planSegments, segmentMemory, type SegmentLayout, type SlotLayout } from "../../src/nn/layout.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { microBatchIndex, stepIndex } from "../../src/types/ids.ts";
import { DataType, FrameKind, frameFields, type FrameFields, type FrameHeader } from "../../src/wire/header.ts";

const BATCH = 6;
const ROWS = 3;
const TEST_COUNT = 7;
const SLOTS = 2;

function header(fields: Partial<FrameFields> & Pick<FrameFields, "kind">): FrameHeader {
  const elements = (fields.shape ?? []).reduce((product, size) => product * size, 1);
  const link = { sequence: 0, grantedBytes: 0, payloadBytes: 4 * elements, payloadChecksum: 0 };
  return { ...frameFields(fields), ...link };
}

/** Node `node` of two, one layer a stage: of mlp:5-4-3, or with two laps of mlp:5-4-3-6-2. */
class Stage {
  readonly machine: StageMachine;
  readonly layouts: readonly SegmentLayout[];
  readonly memory: EngineMemory;
  readonly tensors: StageTensors;

  constructor(node: number, laps = 1) {
    const model = laps === 1 ? "mlp:5-4-3" : "mlp:5-4-3-6-2";
    const shape = { kind: "zero-bubble", nodes: 2, laps, microBatches: BATCH / ROWS } as const;
    const segments = { plan: 0, slots: SLOTS, slices: Array<number>(laps).fill(1) };
    const ends = { checkpointEvery: 0, validateEvery: 0, evaluationMicroBatches: 3, stopAtLoss: null };
    this.machine = new StageMachine({
      ...{ shape, node, canSplit: true, segments, batch: BATCH },
      ...{ ...ends, firstStep: 0, steps: 4 },
    });
    this.machine.handle({ kind: "start" });
    const shared = { model, rows: ROWS, slots: SLOTS + EVALUATION_PLACES, optimizer: "sgd", rate: 0.1 };
    const inits = Array.from({ length: laps }, (_, lap) => {
      const layer = 2 * lap + node;
      return { ...shared, layers: [layer, layer + 1] as const, seed: 1, batch: BATCH };
    });
    this.layouts = planSegments(inits, loadKernels("wasm-exact", new EngineMemory(0).memory));
    this.memory = segmentMemory(this.layouts);
    this.tensors = this.tensorsAfter(undefined);
  }

  tensorsAfter(before: StageTensors | undefined): StageTensors {
    const { machine, layouts, memory } = this;
    const init = { machine, layouts, memory, batch: BATCH, testCount: TEST_COUNT, feeder: undefined };
    return new StageTensors(init, before);
  }

  get slots(): readonly SlotLayout[] {
    return this.layouts[0]!.slots;
  }

  /** The successor's places: the first forward may start. */
  open(): void {
    this.machine.handle({ kind: "credits", lap: 0, credits: SLOTS, opensPlan: 0 });
  }

  computed(): void {
    this.machine.handle({ kind: "computed", loss: Number.NaN, correct: 0, nowMs: 0 });
  }

  activation(microBatch: number, lap = 0): void {
    const key = { step: stepIndex(0), microBatch: microBatchIndex(microBatch), lap };
    this.machine.handle({ kind: "activation", ...key, value: Number.NaN, nowMs: 0 });
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
    // Those of evaluation lie behind those of training.
    for (const [kind, slot] of [
      [FrameKind.activation, 0],
      [FrameKind.evaluation, SLOTS],
    ] as const) {
      const place = last.tensors.placeForward(header({ ...activation, kind }));
      expect([place.byteOffset, place.byteLength]).toEqual([last.slots[slot]!.input.offsetBytes, 4 * ROWS * 4]);
      expect(place.buffer).toBe(last.memory.memory.buffer);
    }
    last.activation(0);
    const next = last.tensors.placeForward(header({ ...activation, microBatch: 1 }));
    expect(next.byteOffset).toBe(last.slots[1]!.input.offsetBytes);
  });

  test("gradients go to the output's gradient of their slot", () => {
    first.open();
    first.computed();
    const place = first.tensors.placeBackward(header(gradient));
    expect(place.byteOffset).toBe(first.slots[0]!.outputGradient.offsetBytes);
    expect(place.byteLength).toBe(4 * ROWS * 4);
  });

  test("with laps, everything goes to its own lap's segment", () => {
    const lapped = new Stage(0, 2);
    const over = header({ ...activation, shape: [ROWS, 3], lap: 1 });
    const place = lapped.tensors.placeForward(over);
    expect(place.byteOffset).toBe(lapped.layouts[1]!.slots[0]!.input.offsetBytes);
    const evaluation = lapped.tensors.placeForward({ ...over, kind: FrameKind.evaluation });
    expect(evaluation.byteOffset).toBe(lapped.layouts[1]!.slots[SLOTS]!.input.offsetBytes);
    expect(refusal(() => lapped.tensors.placeForward({ ...over, lap: 0 }))).toBe(
      "no activation 0/0 of lap 0 comes here",
    );
    lapped.open();
    lapped.computed();
    const back = lapped.tensors.placeBackward(header(gradient));
    expect(back.byteOffset).toBe(lapped.layouts[0]!.slots[0]!.outputGradient.offsetBytes);
  });

  test("labels that came before layers moved are still there", () => {
    const step = last.tensors.placeBackward(header(labels));
    new Int32Array(step.buffer, step.byteOffset, BATCH).set([0, 1, 2, 2, 1, 0]);
    last.tensorsAfter(last.tensors).fillTraining(0, 0, 0, 1);
    expect([...last.memory.i32(last.slots[0]!.labels!)]).toEqual([2, 1, 0]);
  });

  test("labels of a step and of the test set go to buffers of their own, and from there to the slot's rows", () => {
    const step = last.tensors.placeBackward(header(labels));
    new Int32Array(step.buffer, step.byteOffset, BATCH).set([0, 1, 2, 2, 1, 0]);
    last.tensors.fillTraining(0, 0, 0, 1);
    const rows = last.slots[0]!.labels!;
    expect([...last.memory.i32(rows)]).toEqual([2, 1, 0]);
    const all = last.tensors.placeBackward(header(testLabels));
    new Int32Array(all.buffer, all.byteOffset, TEST_COUNT).set([1, 1, 1, 2, 2, 2, 0]);
    last.tensors.fillEvaluation(0, 0, 2);
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
    first.open();
    first.computed();
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

  test.each([1, 2, 255])("of lap %i, which the ring has not", (lap) => {
    const frame = header({ ...activation, lap });
    expect(refusal(() => last.tensors.placeForward(frame))).toBe(`no activation 0/0 of lap ${lap} comes here`);
    expect(refusal(() => first.tensors.placeBackward({ ...frame, kind: FrameKind.gradient }))).toBe(
      `no gradient 0/0 of lap ${lap} comes here`,
    );
    expect(refusal(() => last.tensors.placeForward({ ...frame, kind: FrameKind.evaluation }))).toContain(
      "evaluation 0",
    );
  });

  test("without a free slot", () => {
    for (const microBatch of [0, 1]) last.activation(microBatch);
    const next = header({ ...activation, step: 1 });
    expect(refusal(() => last.tensors.placeForward(next))).toBe("activation 1/0 of lap 0 comes without credit");
  });

  test("out of order", () => {
    expect(refusal(() => last.tensors.placeForward(header({ ...activation, microBatch: 1 })))).toBe(
      "activation 0/1 of lap 0 is out of order",
    );
    expect(refusal(() => last.tensors.placeForward(header({ ...activation, step: 1 })))).toBe(
      "activation 1/0 of lap 0 is out of order",
    );
    expect(refusal(() => first.tensors.placeBackward(header(gradient)))).toBe(
      "gradient 0/0 of lap 0 comes before its activation",
    );
    expect(refusal(() => last.tensors.placeBackward(header({ ...labels, step: 1 })))).toBe(
      "labels of step 1 are out of order",
    );
    expect(
      refusal(() => last.tensors.placeForward(header({ ...activation, kind: FrameKind.evaluation, microBatch: 1 }))),
    ).toBe("evaluation 1 is out of order");
  });
});
