/**
 * @file A whole ring of stage machines in one thread: links are FIFO queues, operations end when the seed says so, and a
 * checker looks at every event. The losses are made up but differ by micro-batch: all a loss has to do is travel.
 */
import type { StageInit, StageInput, StageOutput } from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { RandomStream } from "../../src/types/random.ts";
import { InvariantBroken, StageChecker } from "./stage-checker.ts";

const EVENTS_MAX = 1_000_000;

interface Event {
  readonly to: number;
  readonly input: StageInput;
}

export interface RingOutcome {
  readonly finishedSteps: readonly number[];
  readonly losses: readonly (readonly number[])[];
  readonly updates: readonly number[];
  readonly saves: readonly (readonly number[])[];
  readonly evaluations: readonly number[];
}

export interface RingScenario extends Omit<StageInit, "stage"> {
  readonly seed: number;
  /** Event number at which stage 0 is asked to stop, if ever. */
  readonly stopAtEvent?: number;
}

/** Sum of the samples' losses that the last stage says of a micro-batch: exact in any order of additions. */
export const simulatedLoss = (step: number, microBatch: number): number => 1 + step + microBatch / 1024;

/** Runs until nothing is left to happen. Throws InvariantBroken at the first broken rule, or when the ring stands still. */
export function simulateRing(scenario: RingScenario): RingOutcome {
  return new RingSimulation(scenario).run();
}

class RingSimulation {
  readonly #scenario: RingScenario;
  readonly #machines: readonly StageMachine[];
  readonly #checkers: readonly StageChecker[];
  /** One queue for each directed link and one for each node's compute worker: order is kept within a queue only. */
  readonly #queues = new Map<string, Event[]>();
  readonly #finishedSteps: number[];
  readonly #losses: number[][];
  readonly #updates: number[];
  readonly #saves: number[][];
  readonly #evaluations: number[] = [];

  constructor(scenario: RingScenario) {
    const inits = Array.from({ length: scenario.stages }, (_, stage): StageInit => ({ ...scenario, stage }));
    this.#scenario = scenario;
    this.#machines = inits.map((init) => new StageMachine(init));
    this.#checkers = inits.map((init, stage) => new StageChecker(init, this.#machines[stage]!.slots));
    this.#finishedSteps = inits.map(() => -1);
    this.#losses = inits.map(() => []);
    this.#updates = inits.map(() => 0);
    this.#saves = inits.map(() => []);
  }

  run(): RingOutcome {
    const random = new RandomStream(this.#scenario.seed, 77);
    for (const stage of this.#machines.keys()) this.#post(`start ${stage}`, stage, { kind: "start" });
    for (let event = 0; this.#queues.size > 0; event += 1) {
      if (event > EVENTS_MAX) throw new InvariantBroken("the ring never ends");
      if (event === this.#scenario.stopAtEvent) this.#deliver({ to: 0, input: { kind: "stopRequested" } });
      const names = [...this.#queues.keys()];
      const name = names[random.nextBelow(names.length)]!;
      const events = this.#queues.get(name)!;
      const next = events.shift()!;
      if (events.length === 0) this.#queues.delete(name);
      this.#deliver(next);
    }
    if (this.#finishedSteps.includes(-1))
      throw new InvariantBroken(`the ring stands still: finished ${this.#finishedSteps.join(",")}`);
    return {
      finishedSteps: this.#finishedSteps,
      losses: this.#losses,
      updates: this.#updates,
      saves: this.#saves,
      evaluations: this.#evaluations,
    };
  }

  #post(queue: string, to: number, input: StageInput): void {
    const events = this.#queues.get(queue) ?? [];
    events.push({ to, input });
    this.#queues.set(queue, events);
  }

  #deliver({ to, input }: Event): void {
    const { stages } = this.#scenario;
    this.#checkers[to]!.before(input);
    const outputs = this.#machines[to]!.handle(input);
    this.#checkers[to]!.after(outputs, to + 1 < stages ? this.#machines[to + 1]!.slots : 0);
    for (const output of outputs) this.#act(to, output);
  }

  #act(stage: number, output: StageOutput): void {
    const { stages } = this.#scenario;
    const [next, previous] = [(stage + 1) % stages, (stage + stages - 1) % stages];
    const forward = (input: StageInput): void => this.#post(`${stage}>${next}`, next, input);
    const backward = (input: StageInput): void => this.#post(`${stage}<${previous}`, previous, input);
    switch (output.kind) {
      case "compute":
        return this.#compute(stage, output);
      case "sendActivation":
        return forward({ kind: "activation", step: output.step, microBatch: output.microBatch });
      case "sendGradient":
        return backward({ ...output, kind: "gradient" });
      case "sendLabels":
        return backward({ kind: "labels", step: output.step });
      case "sendEnd":
        return forward({ kind: "end", lastStep: output.lastStep });
      case "sendEvaluationLabels":
        return backward({ kind: "evaluationLabels" });
      case "sendEvaluation":
        forward({ kind: "evaluation", index: output.index });
        return this.#post(`flush ${stage}`, stage, { kind: "evaluationSent", index: output.index });
      case "sendEvaluationCredit":
        return backward({ kind: "evaluationCredit" });
      case "committed":
        this.#losses[stage]!.push(output.loss);
        return;
      case "evaluated":
        this.#evaluations.push(output.completedSteps);
        return;
      case "finished":
        this.#finishedSteps[stage] = output.completedSteps;
        return;
      case "violation":
        throw new InvariantBroken(`stage ${stage} refused its ${output.from}: ${output.reason}`);
    }
  }

  #compute(stage: number, { operation }: Extract<StageOutput, { kind: "compute" }>): void {
    if (operation.kind === "update") this.#updates[stage]! += 1;
    if (operation.kind === "save") this.#saves[stage]!.push(operation.completedSteps);
    const isLast = stage === this.#scenario.stages - 1;
    const isLoss = isLast && operation.kind === "forward";
    const loss = isLoss ? simulatedLoss(operation.step, operation.microBatch) : Number.NaN;
    this.#post(`compute ${stage}`, stage, { kind: "computed", loss, correct: 1 });
  }
}
