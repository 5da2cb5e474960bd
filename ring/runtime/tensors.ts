/**
 * @file The arrays of one node's segments: which memory a frame's payload goes to or comes from. Shapes are compared with the plan of the
 * edge before a byte of the payload is read.
 */
import type { View as ArrayView } from "../../src/engine/contract.ts";
import type { EngineMemory } from "../../src/engine/memory.ts";
import type { SegmentLayout, SlotLayout } from "../../src/nn/layout.ts";
import type { Feeder } from "../../src/runtime/feeder.ts";
import { defined } from "../../src/types/assert.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { microBatchIndex, stepIndex } from "../../src/types/ids.ts";
import { DataType, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { StageMachine } from "../core/stage.ts";

const REMEDY = "run the same build on every node";

export interface StageTensorsInit {
  readonly memory: EngineMemory;
  /** By lap. */
  readonly layouts: readonly SegmentLayout[];
  readonly machine: StageMachine;
  readonly batch: number;
  readonly testCount: number;
  /** At the first stage only. */
  readonly feeder: Feeder | undefined;
}

export class StageTensors {
  readonly #init: StageTensorsInit;
  /** Labels of one step, int32 [batch], and of the test set, where they come from the first stage. */
  readonly #stepLabels: Int32Array;
  readonly #testLabels: Int32Array;

  /** @param before those under another cut: labels may have come already */
  constructor(init: StageTensorsInit, before?: StageTensors) {
    this.#init = init;
    const endsModel = init.layouts.at(-1)?.slots[0]?.labels != null;
    this.#stepLabels = before?.stepLabels ?? new Int32Array(endsModel ? init.batch : 0);
    this.#testLabels = before?.testLabels ?? new Int32Array(endsModel ? init.testCount : 0);
  }

  get stepLabels(): Int32Array {
    return this.#stepLabels;
  }

  get testLabels(): Int32Array {
    return this.#testLabels;
  }

  /** Memory for the payload that a frame from the predecessor announces. Throws ProtocolError where it is not expected. */
  placeForward(header: FrameHeader): Uint8Array {
    const { machine } = this.#init;
    if (header.kind === FrameKind.activation)
      return this.#input(header, machine.placeFor({ kind: "activation", ...keyOf(header) }));
    if (header.kind === FrameKind.evaluation)
      return this.#input(header, machine.placeFor({ kind: "evaluation", lap: header.lap, index: header.microBatch }));
    throw new ProtocolError(`kind ${header.kind} does not come from a predecessor`, REMEDY);
  }

  /** The same for a frame from the successor. */
  placeBackward(header: FrameHeader): Uint8Array {
    const { machine } = this.#init;
    switch (header.kind) {
      case FrameKind.gradient: {
        const place = machine.placeFor({ kind: "gradient", ...keyOf(header) });
        if (place.kind === "refused") throw new ProtocolError(place.reason, REMEDY);
        return this.#tensor(header, this.#slot(header.lap, place.slot).outputGradient);
      }
      case FrameKind.labels:
        if (!machine.acceptsLabels(header.step))
          throw new ProtocolError(`labels of step ${header.step} are out of order`, REMEDY);
        return integers(header, this.#stepLabels);
      case FrameKind.evaluation:
        return integers(header, this.#testLabels);
      default:
        throw new ProtocolError(`kind ${header.kind} does not come from a successor`, REMEDY);
    }
  }

  #input(header: FrameHeader, place: ReturnType<StageMachine["placeFor"]>): Uint8Array {
    if (place.kind === "refused") throw new ProtocolError(place.reason, REMEDY);
    return this.#tensor(header, this.#slot(header.lap, place.slot).input);
  }

  #tensor(header: FrameHeader, view: ArrayView): Uint8Array {
    expectShape(header, DataType.float32, view.shape);
    return this.#init.memory.bytes(view);
  }

  /** What a slot of `lap` sends to the successor: activations [rows, width]. */
  output(lap: number, slot: number): OutgoingTensor {
    return this.#outgoing(this.#slot(lap, slot).output);
  }

  /** What it sends to the predecessor: the gradient of its input [rows, width]. */
  inputGradient(lap: number, slot: number): OutgoingTensor {
    return this.#outgoing(defined(this.#slot(lap, slot).inputGradient ?? undefined, "a gradient that is sent exists"));
  }

  #outgoing(view: ArrayView): OutgoingTensor {
    return { bytes: this.#init.memory.bytes(view), shape: view.shape };
  }

  #slot(lap: number, slot: number): SlotLayout {
    return defined(this.#init.layouts[lap]?.slots[slot], "slot");
  }

  /** Fills a slot for a forward pass: from the data where the model begins, the labels that arrived where it ends. */
  fillTraining(lap: number, slot: number, step: number, microBatch: number): void {
    const { feeder, memory } = this.#init;
    if (feeder !== undefined && lap === 0) return feeder.fillTraining(memory, this.#slot(lap, slot), step, microBatch);
    this.#fillLabels(lap, slot, this.#stepLabels, microBatch);
  }

  /** The same for micro-batch `index` of the test set. */
  fillEvaluation(lap: number, slot: number, index: number): void {
    const { feeder, memory } = this.#init;
    if (feeder !== undefined && lap === 0) return feeder.fillEvaluation(memory, this.#slot(lap, slot), index);
    this.#fillLabels(lap, slot, this.#testLabels, index);
  }

  #fillLabels(lap: number, slot: number, all: Int32Array, index: number): void {
    const { labels } = this.#slot(lap, slot);
    if (labels === null) return;
    const target = this.#init.memory.i32(labels);
    for (let row = 0; row < target.length; row += 1) target[row] = all[index * target.length + row] ?? -1;
  }
}

export interface OutgoingTensor {
  readonly bytes: Uint8Array;
  readonly shape: readonly number[];
}

/** The micro-batch that a frame speaks of, and this node's lap. */
export function keyOf(header: FrameHeader) {
  return { step: stepIndex(header.step), microBatch: microBatchIndex(header.microBatch), lap: header.lap };
}

function integers(header: FrameHeader, target: Int32Array): Uint8Array {
  expectShape(header, DataType.int32, [target.length]);
  return new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
}

function expectShape(header: FrameHeader, dtype: DataType, shape: readonly number[]): void {
  const fits =
    header.dtype === dtype &&
    header.shape.length === shape.length &&
    shape.every((size, axis) => header.shape[axis] === size);
  if (fits) return;
  throw new ProtocolError(
    `a frame of kind ${header.kind} has type ${header.dtype} and shape [${header.shape.join(", ")}], not ${dtype} and [${shape.join(", ")}]`,
    REMEDY,
  );
}
