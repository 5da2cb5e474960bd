/**
 * @file A whole ring of stage machines in one thread: links are FIFO queues, and a checker looks at every event. Without
 * `timing` the seed picks which queue goes on next; with it everything takes its time, and the outcome has the tasks' times. The
 * losses are made up but differ by micro-batch: all a loss has to do is travel.
 */
import type {
  SegmentsInit,
  StageInit,
  StageInput,
  StageOperation,
  StageOutput,
} from "../../ring/core/stage-messages.ts";
import { StageMachine } from "../../ring/core/stage.ts";
import { RandomStream } from "../../src/types/random.ts";
import { InvariantBroken, StageChecker } from "./stage-checker.ts";

const EVENTS_MAX = 2_000_000;
const SLOW_ONE_IN = 16;

interface Event {
  readonly to: number;
  readonly input: StageInput;
  readonly atMs: number;
}

export interface RingTiming {
  /** Of a micro-batch in all laps together; a slice of W takes its part. */
  readonly forward: number;
  readonly backward: number;
  readonly weight: number;
  readonly hopLatency: number;
  /** Coefficient of variation of every operation's time. */
  readonly jitter: number;
  /** Whether nodes are told their costs, and so size their windows by what they measure. */
  readonly measures: boolean;
}

export interface TimedTask {
  readonly node: number;
  readonly task: string;
  readonly step: number;
  readonly start: number;
  readonly end: number;
}

export interface RingOutcome {
  readonly finishedSteps: readonly number[];
  readonly losses: readonly (readonly number[])[];
  readonly updates: readonly number[];
  readonly saves: readonly (readonly number[])[];
  readonly evaluations: readonly number[];
  readonly moves: readonly (readonly number[])[];
  readonly tasks: readonly TimedTask[];
}

export interface RingScenario extends Omit<StageInit, "node" | "segments"> {
  readonly seed: number;
  readonly slots: number;
  readonly slices: number;
  /** Event number at which node 0 is asked to stop, if ever. */
  readonly stopAtEvent?: number;
  /** Event numbers at which the ring agrees on a plan to move layers before node 0's next step. */
  readonly plansAtEvents?: readonly number[];
  readonly timing?: RingTiming;
  /** Without timing: the queues that mostly wait while others go on, by name: `0>1`, `1<0`, `compute 0`, `left 0/1`, … */
  readonly slow?: RegExp;
}

/** Sum of the samples' losses that the model's end says of a micro-batch: exact in any order of additions. */
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
  readonly #random: RandomStream;
  readonly #finishedSteps: number[];
  readonly #losses: number[][];
  readonly #updates: number[];
  readonly #saves: number[][];
  readonly #moves: number[][];
  readonly #evaluations: number[] = [];
  readonly #tasks: TimedTask[] = [];
  #nowMs = 0;

  constructor(scenario: RingScenario) {
    const segments = this.#segments(scenario, 0);
    const inits = Array.from({ length: scenario.shape.nodes }, (_, node): StageInit => ({
      ...scenario,
      node,
      segments,
    }));
    this.#scenario = scenario;
    this.#random = new RandomStream(scenario.seed, 77);
    this.#machines = inits.map((init) => new StageMachine(init));
    this.#checkers = inits.map((init) => new StageChecker(init));
    if (scenario.timing?.measures === true) for (const checker of this.#checkers) checker.measured();
    this.#finishedSteps = inits.map(() => -1);
    this.#losses = inits.map(() => []);
    this.#updates = inits.map(() => 0);
    this.#saves = inits.map(() => []);
    this.#moves = inits.map(() => []);
  }

  #segments({ slots, slices, shape }: RingScenario, plan: number): SegmentsInit {
    // Another cut: other places, other numbers of layers.
    const count = plan % 2 === 0 ? slices : slices + 1;
    return { plan, slots: slots + (plan % 3), slices: Array<number>(shape.laps).fill(count) };
  }

  run(): RingOutcome {
    let plan = 0;
    for (const node of this.#machines.keys()) this.#post(`start ${node}`, node, { kind: "start" });
    for (let event = 0; this.#queues.size > 0; event += 1) {
      if (event > EVENTS_MAX) throw new InvariantBroken("the ring never ends");
      if (event === this.#scenario.stopAtEvent) this.#deliver({ to: 0, input: { kind: "stopRequested" }, atMs: 0 });
      if (this.#scenario.plansAtEvents?.includes(event) === true && this.#mayPlan()) {
        plan += 1;
        this.#deliver({ to: 0, input: { kind: "plan", plan, step: null }, atMs: 0 });
      }
      this.#deliver(this.#nextEvent());
    }
    if (this.#finishedSteps.includes(-1)) throw new InvariantBroken(`the ring stands still: ${this.#stand()}`);
    return {
      finishedSteps: this.#finishedSteps,
      losses: this.#losses,
      updates: this.#updates,
      saves: this.#saves,
      evaluations: this.#evaluations,
      moves: this.#moves,
      tasks: this.#tasks,
    };
  }

  /** One plan at a time: all nodes have carried out the one before. */
  #mayPlan(): boolean {
    const counts = new Set(this.#moves.map((moves) => moves.length));
    const isMoving = this.#machines.some((machine) => machine.describe().phase === "moving");
    return counts.size === 1 && !isMoving && this.#machines[0]!.describe().phase === "training";
  }

  #stand(): string {
    return JSON.stringify(this.#machines.map((machine) => machine.describe()));
  }

  #nextEvent(): Event {
    const name = this.#scenario.timing === undefined ? this.#randomQueue() : this.#earliestQueue();
    const events = this.#queues.get(name)!;
    const next = events.shift()!;
    if (events.length === 0) this.#queues.delete(name);
    return next;
  }

  #randomQueue(): string {
    const { slow } = this.#scenario;
    const names = [...this.#queues.keys()];
    const quick = slow === undefined ? names : names.filter((name) => !slow.test(name));
    const among = quick.length === 0 || this.#random.nextBelow(SLOW_ONE_IN) === 0 ? names : quick;
    return among[this.#random.nextBelow(among.length)]!;
  }

  /** Those of one instant in the order of `#rank`. */
  #earliestQueue(): string {
    let earliest: string | undefined;
    let [leastMs, leastRank] = [Infinity, Infinity];
    for (const [name, [event]] of this.#queues) {
      const rank = this.#rank(name, event!);
      if (event!.atMs < leastMs || (event!.atMs === leastMs && rank < leastRank)) {
        [earliest, leastMs, leastRank] = [name, event!.atMs, rank];
      }
    }
    return earliest!;
  }

  /**
   * Messages come before what a node decides next, a drain last: it waits for all that has arrived. Of an activation and a
   * gradient in one instant the rule's choice comes first, as if it saw both.
   */
  #rank(queue: string, { input }: Event): number {
    if (queue.startsWith("drain")) return 3;
    if (queue.startsWith("compute")) return 2;
    return input.kind === (this.#scenario.canSplit ? "activation" : "gradient") ? 1 : 0;
  }

  #post(queue: string, to: number, input: StageInput, delayMs = 0): void {
    const events = this.#queues.get(queue) ?? [];
    events.push({ to, input, atMs: this.#nowMs + delayMs });
    this.#queues.set(queue, events);
  }

  #deliver({ to, input, atMs }: Event): void {
    this.#nowMs = Math.max(this.#nowMs, atMs);
    const stamped = "nowMs" in input ? { ...input, nowMs: this.#nowMs } : input;
    this.#checkers[to]!.before(stamped);
    const outputs = this.#machines[to]!.handle(stamped);
    // As the token does: it goes round once, before any activation of the step.
    if (input.kind === "plan" && to > 0) this.#passPlan(to, input);
    this.#checkers[to]!.after(outputs);
    for (const output of outputs) this.#act(to, output);
  }

  #act(node: number, output: StageOutput): void {
    const { nodes } = this.#scenario.shape;
    const hopMs = this.#scenario.timing?.hopLatency ?? 0;
    const [next, previous] = [(node + 1) % nodes, (node + nodes - 1) % nodes];
    const forward = (input: StageInput): void => this.#post(`${node}>${next}`, next, input, hopMs);
    const backward = (input: StageInput): void => this.#post(`${node}<${previous}`, previous, input, hopMs);
    switch (output.kind) {
      case "compute":
        return this.#compute(node, output.operation);
      case "drain":
        return this.#post(`drain ${node}`, node, { kind: "drained" });
      case "sendActivation":
        return forward({ ...output, kind: "activation", lap: output.toLap, nowMs: 0 });
      case "sendGradient":
        this.#post(`left ${node}/${output.lap}`, node, { kind: "gradientLeft", lap: output.lap });
        return backward({ ...output, kind: "gradient", lap: output.toLap, nowMs: 0 });
      case "sendCredits":
        return backward({ ...output, kind: "credits", lap: output.toLap });
      case "sendLabels":
        return backward({ kind: "labels", step: output.step });
      case "sendEnd":
        return forward({ kind: "end", lastStep: output.lastStep });
      case "sendEvaluationLabels":
        return backward({ kind: "evaluationLabels" });
      case "sendEvaluation":
        forward({ kind: "evaluation", lap: output.toLap, index: output.index });
        return this.#post(`flush ${node}/${output.lap}`, node, { kind: "evaluationLeft", lap: output.lap });
      case "sendEvaluationCredit":
        return backward({ kind: "evaluationCredit", lap: output.toLap });
      case "move":
        this.#moves[node]!.push(output.step);
        if (node === 0) this.#passPlan(0, { ...output, kind: "plan" });
        return this.#post(`move ${node}`, node, {
          kind: "moved",
          segments: this.#segments(this.#scenario, output.plan),
        });
      case "loss":
        this.#losses[node]!.push(output.loss);
        return;
      case "evaluated":
        this.#evaluations.push(output.completedSteps);
        return;
      case "finished":
        this.#finishedSteps[node] = output.completedSteps;
        return;
      case "violation":
        throw new InvariantBroken(`node ${node} refused its ${output.from}: ${output.reason}`);
    }
  }

  #passPlan(node: number, input: StageInput): void {
    const next = node + 1;
    if (next < this.#scenario.shape.nodes) this.#post(`${node}>${next}`, next, input);
  }

  #compute(node: number, operation: StageOperation): void {
    const { shape, timing } = this.#scenario;
    if (operation.kind === "update") this.#updates[node]! += 1;
    if (operation.kind === "save") this.#saves[node]!.push(operation.completedSteps);
    const ends = node === shape.nodes - 1 && operation.kind === "forward" && operation.lap === shape.laps - 1;
    const loss = ends ? simulatedLoss(operation.step, operation.microBatch) : Number.NaN;
    const takesMs = timing === undefined ? 0 : this.#durationOf(operation, timing);
    this.#note(node, operation, takesMs);
    if (operation.kind === "update" && timing?.measures === true) {
      const [costs, { laps }] = [timing, shape];
      const perLap = { forward: costs.forward / laps, backward: costs.backward / laps, weight: costs.weight / laps };
      this.#post(`compute ${node}`, node, { kind: "measured", costs: perLap }, takesMs);
    }
    this.#post(`compute ${node}`, node, { kind: "computed", loss, correct: 1, nowMs: 0 }, takesMs);
  }

  #durationOf(operation: StageOperation, timing: RingTiming): number {
    const { laps } = this.#scenario.shape;
    const { forward, backward, weight, jitter } = timing;
    const cost = {
      forward,
      backward,
      fused: backward + weight,
      weight: weight / this.#scenario.slices,
      evaluate: 0,
      update: 0,
      save: 0,
    }[operation.kind];
    // Uniform with the stated variation, never negative for what is asked here.
    const factor = jitter === 0 ? 1 : Math.max(0, 1 + jitter * Math.sqrt(12) * (this.#random.nextFloat() - 0.5));
    return (cost / laps) * factor;
  }

  #note(node: number, operation: StageOperation, takesMs: number): void {
    const { nodes } = this.#scenario.shape;
    if (this.#scenario.timing === undefined || !("microBatch" in operation)) return;
    const letter = { forward: "F", backward: "B", weight: "W", fused: "X" }[operation.kind];
    const task = `${operation.lap * nodes + node}${letter}${operation.microBatch}`;
    this.#tasks.push({ node, task, step: operation.step, start: this.#nowMs, end: this.#nowMs + takesMs });
  }
}
