/** @file One stage machine by hand: a short way to say what its neighbours send, and to read what it answers. */
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { microBatchIndex, stepIndex, type MicroBatchKey } from "../../src/types/ids.ts";

interface Changes extends Partial<Omit<StageInit, "shape" | "segments">> {
  readonly shape?: Partial<StageInit["shape"]>;
  readonly segments?: Partial<StageInit["segments"]>;
}

/** By default the middle of three nodes, two micro-batches, 1F1B, two slots. */
export function stageInit({ shape, segments, ...changes }: Changes = {}): StageInit {
  const laps = shape?.laps ?? 1;
  return {
    shape: { kind: "1f1b", nodes: 3, laps, microBatches: 2, ...shape },
    segments: { plan: 0, slots: 2, slices: Array<number>(laps).fill(1), ...segments },
    node: 1,
    canSplit: true,
    batch: 4,
    firstStep: 0,
    steps: 5,
    checkpointEvery: 0,
    validateEvery: 0,
    evaluationMicroBatches: 3,
    stopAtLoss: null,
    ...changes,
  };
}

export function started(changes: Changes = {}): StageMachine {
  const machine = new StageMachine(stageInit(changes));
  machine.handle({ kind: "start" });
  return machine;
}

/** Started, and its successor has opened as many places as it has itself, in every lap. */
export function opened(changes: Changes = {}): StageMachine {
  const { shape, segments, node } = stageInit(changes);
  const machine = started(changes);
  for (let lap = 0; lap < shape.laps; lap += 1) {
    const endsModel = node === shape.nodes - 1 && lap === shape.laps - 1;
    if (!endsModel) machine.handle(credits(segments.slots, segments.plan, lap));
  }
  return machine;
}

export const key = (step: number, microBatch: number): MicroBatchKey => ({
  step: stepIndex(step),
  microBatch: microBatchIndex(microBatch),
});

type Rest<Kind> = Partial<Extract<StageInput, { readonly kind: Kind }>>;

export const activation = (step: number, microBatch: number, rest: Rest<"activation"> = {}) =>
  ({ kind: "activation", lap: 0, value: Number.NaN, nowMs: 0, ...rest, ...key(step, microBatch) }) as const;

/** By default one that brings a place back. */
export const gradient = (step: number, microBatch: number, rest: Rest<"gradient"> = {}) =>
  ({ kind: "gradient", lap: 0, value: 0, credits: 1, nowMs: 0, ...rest, ...key(step, microBatch) }) as const;

export const credits = (count: number, opensPlan: number | null, lap = 0) =>
  ({ kind: "credits", lap, credits: count, opensPlan }) as const;

export const computed = (rest: Rest<"computed"> = {}) =>
  ({ kind: "computed", loss: Number.NaN, correct: 0, nowMs: 0, ...rest }) as const;

export const labels = (step: number) => ({ kind: "labels", step: stepIndex(step) }) as const;
export const gradientLeft = (lap = 0) => ({ kind: "gradientLeft", lap }) as const;
export const drained = { kind: "drained" } as const;

export function feed(machine: StageMachine, ...inputs: readonly StageInput[]): StageOutput[] {
  return inputs.flatMap((input) => machine.handle(input));
}

/** Operations as `F0/1`, `W0/1.2` with the slice, behind the stage's lap where there are several; other words by name. */
export function shown(outputs: readonly StageOutput[], laps = 1): string[] {
  const letters = { forward: "F", backward: "B", fused: "BW", weight: "W" };
  return outputs.map((output) => {
    if (output.kind === "sendCredits") return `sendCredits ${output.credits}`;
    if (output.kind !== "compute") return output.kind;
    const { operation } = output;
    if (!("microBatch" in operation)) return operation.kind;
    const slice = operation.kind === "weight" ? `.${operation.slice}` : "";
    const name = `${letters[operation.kind]}${operation.step}/${operation.microBatch}${slice}`;
    return laps === 1 ? name : `${operation.lap}${name}`;
  });
}
