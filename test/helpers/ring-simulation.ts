/**
 * @file A whole ring of stage machines in one thread: links are FIFO queues, operations end when the seed says so, and a
 * checker looks at every event. Losses are made up: `step + 1` shrinks nothing, it only has to travel.
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

/** Runs until nothing is left to happen. Throws InvariantBroken at the first broken rule, or when the ring stands still. */
export function simulateRing(scenario: RingScenario): RingOutcome {
  const { stages } = scenario;
  const inits = Array.from({ length: stages }, (_, stage): StageInit => ({ ...scenario, stage }));
  const machines = inits.map((init) => new StageMachine(init));
  const checkers = inits.map((init, stage) => new StageChecker(init, machines[stage]!.slots));
  // One queue for each directed link and one for each node's compute worker: order is kept within a queue only.
  const queues = new Map<string, Event[]>();
  const random = new RandomStream(scenario.seed, 77);
  const finishedSteps = Array<number>(stages).fill(-1);
  const losses = inits.map((): number[] => []);
  const updates = Array<number>(stages).fill(0);
  const saves = inits.map((): number[] => []);
  const evaluations: number[] = [];

  const post = (queue: string, to: number, input: StageInput): void => {
    const events = queues.get(queue) ?? [];
    events.push({ to, input });
    queues.set(queue, events);
  };
  const act = (stage: number, output: StageOutput): void => {
    const [next, previous] = [(stage + 1) % stages, (stage + stages - 1) % stages];
    const forward = (input: StageInput): void => post(`${stage}>${next}`, next, input);
    const backward = (input: StageInput): void => post(`${stage}<${previous}`, previous, input);
    switch (output.kind) {
      case "compute": {
        if (output.operation.kind === "update") updates[stage]! += 1;
        if (output.operation.kind === "save") saves[stage]!.push(output.operation.completedSteps);
        const isLoss = output.operation.kind === "forward" || output.operation.kind === "evaluate";
        return post(`compute ${stage}`, stage, { kind: "computed", loss: isLoss ? 1 : Number.NaN, correct: 1 });
      }
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
        return post(`flush ${stage}`, stage, { kind: "evaluationSent", index: output.index });
      case "sendEvaluationCredit":
        return backward({ kind: "evaluationCredit" });
      case "committed":
        losses[stage]!.push(output.loss);
        return;
      case "evaluated":
        evaluations.push(output.completedSteps);
        return;
      case "finished":
        finishedSteps[stage] = output.completedSteps;
        return;
      case "violation":
        throw new InvariantBroken(`stage ${stage} refused its ${output.from}: ${output.reason}`);
    }
  };
  const deliver = ({ to, input }: Event): void => {
    checkers[to]!.before(input);
    const outputs = machines[to]!.handle(input);
    checkers[to]!.after(outputs, to + 1 < stages ? machines[to + 1]!.slots : 0);
    for (const output of outputs) act(to, output);
  };

  for (let stage = 0; stage < stages; stage += 1) post(`start ${stage}`, stage, { kind: "start" });
  for (let event = 0; queues.size > 0; event += 1) {
    if (event > EVENTS_MAX) throw new InvariantBroken("the ring never ends");
    if (event === scenario.stopAtEvent) deliver({ to: 0, input: { kind: "stopRequested" } });
    const names = [...queues.keys()];
    const name = names[random.nextBelow(names.length)]!;
    const events = queues.get(name)!;
    const next = events.shift()!;
    if (events.length === 0) queues.delete(name);
    deliver(next);
  }
  if (finishedSteps.includes(-1))
    throw new InvariantBroken(`the ring stands still: finished ${finishedSteps.join(",")}`);
  return { finishedSteps, losses, updates, saves, evaluations };
}
