/** @file The pipeline of one view at one simulated node: a step goes along the stages and back, and ends with the update of own layers. */
import { ownedBy, replicaHolders, type RingView } from "../../ring/core/view.ts";
import { firstActivation, lastGradient, lossOf, mix } from "./recovery-simulation-model.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";

/** Frames of the data plane. */
export type Frame = { readonly view: number } & (
  | { readonly kind: "forward"; readonly stage: number; readonly step: number; readonly value: number }
  | {
      readonly kind: "backward";
      readonly stage: number;
      readonly step: number;
      readonly value: number;
      readonly loss: number;
    }
  | {
      readonly kind: "gradient";
      readonly owner: number;
      readonly step: number;
      readonly loss: number;
      readonly gradients: ReadonlyMap<number, number>;
    }
  | { readonly kind: "applied"; readonly version: number; readonly digests: readonly string[] }
  | { readonly kind: "token"; readonly version: number; readonly count: number }
  | { readonly kind: "frontier"; readonly version: number }
);
type StageFrame = Extract<Frame, { readonly kind: "forward" | "backward" }>;

/** Faster steps would only make a run longer. */
const STEP_MS_MIN = 40;

export class Session {
  readonly #process: RecoveryProcess;
  readonly #view: RingView;
  readonly #place: number;
  readonly #stages: number;
  #isOver = false;
  #nextMs = 0;
  /** Of own layers. */
  #version: number;
  /** Of the next step, while this one's update is not done. */
  #held: StageFrame[] = [];
  #gradients = new Map<number, number>();
  #backwardsLeft: number;
  /** All that the update needs is here. */
  #due: { readonly step: number; readonly loss: number } | undefined;

  constructor(process: RecoveryProcess, view: RingView) {
    this.#process = process;
    this.#view = view;
    this.#place = view.owners.indexOf(process.node);
    this.#stages = view.cut.length;
    this.#version = view.restoreStep;
    this.#backwardsLeft = this.#laps;
  }

  get #laps(): number {
    return this.#stages / this.#view.owners.length;
  }

  end(): void {
    this.#isOver = true;
  }

  begin(): void {
    if (this.#place !== 0) return;
    const step = this.#version;
    const { world } = this.#process;
    const waitMs = Math.max(0, this.#nextMs - world.nowMs);
    this.#nextMs = world.nowMs + waitMs + STEP_MS_MIN;
    const frame = { kind: "forward", view: this.#view.view, stage: 0, step, value: firstActivation(step) } as const;
    if (waitMs === 0) this.hear(frame);
    else this.#process.later(waitMs, () => !this.#isOver && this.hear(frame));
  }

  hear(frame: StageFrame): void {
    if (frame.step !== this.#version) {
      this.#held.push(frame);
      return;
    }
    const delayMs = 1 + this.#process.world.random.nextBelow(this.#process.world.scenario.stageMs);
    const run = (): void => {
      if (this.#isOver) return;
      if (frame.kind === "forward") this.#forward(frame);
      else this.#backward(frame.stage, frame.step, frame.value, frame.loss);
    };
    this.#process.compute(delayMs, () => !this.#isOver, run);
  }

  #values(stage: number): readonly number[] {
    return this.#process.memory.current(this.#view.cut[stage]!)!.values;
  }

  #forward({ stage, step, value }: Extract<Frame, { readonly kind: "forward" }>): void {
    const activation = this.#values(stage).reduce(mix, value);
    if (stage + 1 === this.#stages) this.#backward(stage, step, lastGradient(activation), lossOf(activation));
    else this.#pass({ kind: "forward", view: this.#view.view, stage: stage + 1, step, value: activation });
  }

  #backward(stage: number, step: number, value: number, loss: number): void {
    const [start, end] = this.#view.cut[stage]!;
    const values = this.#values(stage);
    let gradient = value;
    for (let layer = end - 1; layer >= start; layer -= 1) {
      this.#gradients.set(layer, gradient);
      gradient = mix(gradient, values[layer - start]!);
    }
    if (stage > 0)
      this.#pass({ kind: "backward", view: this.#view.view, stage: stage - 1, step, value: gradient, loss });
    this.#backwardsLeft -= 1;
    if (this.#backwardsLeft > 0) return;
    this.#process.toKeeper({ kind: "loss", view: this.#view.view, step, loss });
    this.#due = { step, loss };
    this.update();
  }

  #pass(frame: StageFrame): void {
    const { owners } = this.#view;
    const to = owners[frame.stage % owners.length]!;
    if (to === this.#process.node) this.hear(frame);
    else this.#process.sendFrame(to, frame);
  }

  /** As soon as every copy in the ring has the present version. */
  update(): void {
    const due = this.#due;
    if (due === undefined || this.#isOver || this.#process.keeper!.frontier < due.step) return;
    this.#due = undefined;
    const { node, world, memory } = this.#process;
    const view = this.#view.view;
    const gradients = this.#gradients;
    this.#gradients = new Map();
    this.#backwardsLeft = this.#laps;
    const send = (): void => {
      for (const to of replicaHolders(this.#view, node)) {
        if (this.#isOver) return;
        this.#process.sendFrame(to, { kind: "gradient", view, owner: node, ...due, gradients });
        world.faults.reached(this.#process, "gradientSent");
      }
    };
    // Copies may be behind their owner, or before it.
    const isSentFirst = world.random.nextBelow(2) === 0;
    if (isSentFirst) send();
    const own = ownedBy(this.#view, node);
    const begin = (): boolean => {
      if (this.#isOver) return false;
      world.faults.reached(this.#process, "updating");
      this.#process.toKeeper({ kind: "updating", view, step: due.step });
      for (const layers of own) memory.beginUpdate(layers);
      return true;
    };
    this.#process.compute(world.delay(), begin, () => {
      for (const layers of own) memory.endUpdate(layers, gradients);
      world.checker.holds(this.#process, this.#view, own, due.step + 1);
      world.faults.reached(this.#process, "updated");
      const segments = own.map((layers) => ({ layers, digests: memory.digests(layers) }));
      this.#process.toKeeper({ kind: "updated", view, step: due.step, segments });
      if (!isSentFirst) send();
      if (!this.#isOver) this.#goOn();
    });
  }

  #goOn(): void {
    this.#version += 1;
    const held = this.#held;
    this.#held = [];
    for (const frame of held) this.hear(frame);
    this.begin();
  }
}
