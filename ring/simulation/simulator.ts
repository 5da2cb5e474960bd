/**
 * @file The ring in virtual time: every node's `Pipeline`, the same that decides in a real node, under models of compute and
 * links. Events of one instant are all told before anybody decides, as a real node empties its inbox before it starts a W. Memory is
 * bounded by nodes and windows, not by steps.
 */
import { EventQueue } from "../../src/sim/event-queue.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { KIND, Pipeline, stepOrders } from "../core/pipeline.ts";
import type { ScheduleShape, Task } from "../core/schedule.ts";
import { splitsWeight, windowFor, type OperationCosts } from "../core/window.ts";
import { SimulatedLinks, type LinkModel } from "./links.ts";

/** One node's time for one micro-batch in each lap, and for its update: any unit, the same for all. */
export interface NodeCosts {
  readonly laps: readonly OperationCosts[];
  readonly update: number;
}

export interface SimulationInit {
  readonly shape: ScheduleShape;
  readonly steps: number;
  readonly costs: readonly NodeCosts[];
  /** Of each node, in order, in place of the shape's list. */
  readonly tasks?: readonly (readonly Task[])[];
  /** Slices of a W, by node and lap. Default 1. */
  readonly slices?: readonly (readonly number[])[];
  /** What handing an operation to the compute thread and back takes, before each operation. Default 0. */
  readonly operationOverhead?: number;
  /** Multiplies it; default 1. */
  readonly overheadFactor?: (node: number) => number;
  /** Default: messages take no time. */
  readonly link?: LinkModel;
  /** Multiplies an operation's time, a fused one's as a whole; default 1. */
  readonly factor?: (node: number) => number;
  /** Most micro-batches held by each node, under a memory limit. */
  readonly heldMax?: readonly number[];
  readonly canSplit?: boolean;
  /** Windows other than those that the costs and the latency give: for comparison. */
  readonly window?: (node: number) => { readonly inFlight: number; readonly held: number };
  /** Told of every operation. */
  readonly onTask?: (task: SimulatedTask) => void;
  /** Told of every message. */
  readonly onMessage?: (message: SimulatedMessage) => void;
  /** Told now and then how many operations are done. */
  readonly onProgress?: (tasks: number) => void;
}

export interface SimulatedTask {
  readonly node: number;
  readonly kind: "F" | "B" | "W" | "update";
  readonly step: number;
  readonly lap: number;
  readonly microBatch: number;
  readonly start: number;
  readonly end: number;
}

export interface SimulatedMessage {
  /** Stages. */
  readonly from: number;
  readonly to: number;
  readonly step: number;
  readonly microBatch: number;
  readonly sent: number;
  readonly received: number;
}

/** Times of one node. */
export interface NodeOutcome {
  /** When each step's first operation began. */
  readonly stepStarts: Float64Array;
  /** Time in operations, up to each step's end. */
  readonly busyUntil: Float64Array;
  readonly end: number;
  readonly messages: number;
  /** Time in which operations were handed over, or messages handled while none ran, up to each step's end. */
  readonly communicationUntil: Float64Array;
}

export interface SimulationOutcome {
  readonly nodes: readonly NodeOutcome[];
  /** Operations in all: F, B, W (a fused one counts as two), updates. */
  readonly tasks: number;
}

/** Events, in the last three bits of a payload: the other bits are a node, or the stage that a message is for. */
const [COMPUTED, ACTIVATION, GRADIENT] = [0, 1, 2];
/** Out of the wire, and not yet handled. */
const ARRIVED = 4;
const PROGRESS_TASKS = 500_000;

class SimulatedNode {
  readonly pipeline: Pipeline;
  readonly stepStarts: Float64Array;
  readonly busyUntil: Float64Array;
  readonly communicationUntil: Float64Array;
  /** Code of the operation that runs; -1 for none, -2 for the update. */
  running = -1;
  start = 0;
  busy = 0;
  end = 0;
  messages = 0;
  /** Time in which the main thread was busy and the compute thread free. */
  communication = 0;
  /** CPU of messages that may have been part of it. */
  unaccounted = 0;
  freeSince = 0;
  isDirty = true;

  constructor(pipeline: Pipeline, steps: number) {
    this.pipeline = pipeline;
    this.stepStarts = new Float64Array(steps);
    this.busyUntil = new Float64Array(steps);
    this.communicationUntil = new Float64Array(steps);
  }
}

export class RingSimulator {
  readonly #init: SimulationInit;
  readonly #nodes: readonly SimulatedNode[];
  readonly #queue = new EventQueue();
  readonly #links: SimulatedLinks;
  /** By node, four a lap: F, B, a slice of W, B and W fused. */
  readonly #durations: readonly Float64Array[];
  readonly #dirty: Int32Array;
  #dirtyCount = 0;
  /** Where somebody wants to hear of messages: by payload. */
  readonly #underWay = new Map<number, Omit<SimulatedMessage, "received">[]>();
  #now = 0;
  #tasks = 0;
  #toldTasks = 0;

  constructor(init: SimulationInit) {
    const { shape, costs, steps } = init;
    assert(costs.length === shape.nodes && steps >= 1, "costs for each node, at least one step");
    this.#init = init;
    this.#links = new SimulatedLinks(shape.nodes, init.link);
    const orders = stepOrders(shape);
    const canSplit = init.canSplit ?? true;
    const slicesOf = (node: number): readonly number[] => init.slices?.[node] ?? Array<number>(shape.laps).fill(1);
    this.#nodes = costs.map((cost, node) => {
      const tasks = init.tasks?.[node];
      const given = tasks === undefined ? {} : { tasks };
      const pipeline = new Pipeline({ shape, node, slices: slicesOf(node), canSplit, ...given }, orders);
      pipeline.startAt(0, steps);
      // Places and credits never bind here: what memory allows is a window.
      for (let lap = 0; lap < shape.laps; lap += 1) pipeline.setCredits(lap, Infinity);
      pipeline.setPlaces(Infinity);
      pipeline.setWindow(this.#windowOf(node, cost));
      return new SimulatedNode(pipeline, steps);
    });
    this.#durations = costs.map(({ laps }, node) => {
      const slices = slicesOf(node);
      const ofLap = ({ forward, backward, weight }: OperationCosts, lap: number): number[] => [
        ...[forward, backward, weight / slices[lap]!, backward + weight],
      ];
      return Float64Array.from(laps.flatMap(ofLap));
    });
    this.#dirty = new Int32Array(shape.nodes);
  }

  #windowOf(node: number, { laps }: NodeCosts): { readonly inFlight: number; readonly held: number } {
    const { shape, window, heldMax, canSplit = true } = this.#init;
    if (window !== undefined) return window(node);
    const mean = (kind: keyof OperationCosts): number => laps.reduce((sum, cost) => sum + cost[kind], 0) / laps.length;
    const costs = { forward: mean("forward"), backward: mean("backward"), weight: mean("weight") };
    const hop = 2 * this.#links.latency;
    const trips = [(shape.nodes - 1 - node) * hop, (shape.nodes - 1) * hop] as const;
    const { inFlight, held } = windowFor(shape, node, splitsWeight(shape, canSplit), costs, ...trips);
    return { inFlight, held: Math.min(held, heldMax?.[node] ?? Infinity) };
  }

  /** Runs every step. Throws where the ring stands still: that would be a defect of the schedule. */
  run(): SimulationOutcome {
    const { steps } = this.#init;
    for (const node of this.#nodes.keys()) this.#decide(node);
    const queue = this.#queue;
    while (queue.size > 0) {
      this.#now = queue.time;
      do this.#take(queue.pop());
      while (queue.size > 0 && queue.time === this.#now);
      const count = this.#dirtyCount;
      this.#dirtyCount = 0;
      for (let index = 0; index < count; index += 1) this.#decide(this.#dirty[index]!);
      if (this.#tasks - this.#toldTasks >= PROGRESS_TASKS) {
        this.#toldTasks = this.#tasks;
        this.#init.onProgress?.(this.#tasks);
      }
    }
    for (const [node, { pipeline }] of this.#nodes.entries()) {
      assert(pipeline.step === steps, `node ${node} stands still at step ${pipeline.step}`);
    }
    return { nodes: this.#nodes, tasks: this.#tasks };
  }

  #take(payload: number): void {
    const { nodes } = this.#init.shape;
    const stage = payload >> 3;
    const node = stage % nodes;
    if ((payload & ARRIVED) !== 0) {
      const handled = this.#links.receive(node, this.#now);
      if (handled > this.#now) return this.#queue.push(handled, payload - ARRIVED);
    }
    const simulated = this.#nodes[node]!;
    const kind = payload & 3;
    if (kind === COMPUTED) this.#computed(node, simulated);
    else {
      simulated.unaccounted += this.#init.link?.receiveCpu ?? 0;
      if (simulated.running === -1) this.#account(simulated);
      const lap = (stage - node) / nodes;
      if (kind === ACTIVATION) simulated.pipeline.activationArrived(lap);
      else simulated.pipeline.gradientArrived(lap);
      if (this.#init.onMessage !== undefined) this.#tellMessage(8 * stage + kind);
    }
    this.#touch(node);
  }

  /** The main thread's messages since the compute thread was free, or since they were last booked, are communication. */
  #account(simulated: SimulatedNode): void {
    simulated.communication += Math.min(simulated.unaccounted, this.#now - simulated.freeSince);
    simulated.unaccounted = 0;
    simulated.freeSince = this.#now;
  }

  #touch(node: number): void {
    const simulated = this.#nodes[node]!;
    if (simulated.isDirty) return;
    simulated.isDirty = true;
    this.#dirty[this.#dirtyCount] = node;
    this.#dirtyCount += 1;
  }

  #decide(node: number): void {
    const simulated = this.#nodes[node]!;
    simulated.isDirty = false;
    if (simulated.running !== -1 || simulated.pipeline.step === this.#init.steps) return;
    const { pipeline } = simulated;
    const isFirst = !pipeline.hasBegun;
    const code = pipeline.next(true);
    if (code < 0) return;
    if (isFirst) simulated.stepStarts[pipeline.step] = this.#now;
    const kind = code & 3;
    const lap = pipeline.laps === 1 ? 0 : Math.floor((code >> 2) / this.#init.shape.microBatches);
    this.#tasks += kind === KIND.fused ? 2 : 1;
    this.#run(node, simulated, code, this.#durations[node]![4 * lap + kind]!);
  }

  #run(node: number, simulated: SimulatedNode, code: number, cost: number): void {
    const { factor, operationOverhead = 0, overheadFactor } = this.#init;
    const duration = factor === undefined ? cost : cost * factor(node);
    simulated.running = code;
    const overhead = overheadFactor === undefined ? operationOverhead : operationOverhead * overheadFactor(node);
    if (simulated.unaccounted > 0) this.#account(simulated);
    simulated.communication += overhead;
    simulated.start = this.#now + overhead;
    simulated.end = simulated.start + duration;
    simulated.busy += duration;
    this.#queue.push(simulated.end, 8 * node + COMPUTED);
  }

  #computed(node: number, simulated: SimulatedNode): void {
    const { pipeline, running: code } = simulated;
    const { shape, costs, onTask } = this.#init;
    simulated.running = -1;
    simulated.unaccounted = 0;
    simulated.freeSince = this.#now;
    if (code === -2) {
      onTask?.(this.#task(node, simulated, "update", 0, 0));
      simulated.busyUntil[pipeline.step] = simulated.busy;
      simulated.communicationUntil[pipeline.step] = simulated.communication;
      return pipeline.beginStep(pipeline.step + 1);
    }
    const kind = code & 3;
    const lap = pipeline.laps === 1 ? 0 : Math.floor((code >> 2) / shape.microBatches);
    if (onTask !== undefined) this.#tell(node, simulated, code);
    pipeline.done(code);
    const stage = lap * shape.nodes + node;
    if (kind === KIND.forward) this.#send(stage, stage + 1, code >> 2);
    else if (kind !== KIND.weight) this.#send(stage, stage - 1, code >> 2);
    if (!pipeline.isStepDone) return;
    this.#tasks += 1;
    this.#run(node, simulated, -2, costs[node]!.update);
  }

  /** An activation to the stage behind, a gradient to the one before; nowhere where the model begins or ends. */
  #send(from: number, to: number, sequence: number): void {
    const { onMessage, shape } = this.#init;
    if (to < 0 || to === shape.nodes * shape.laps) return;
    const node = from % shape.nodes;
    this.#nodes[node]!.messages += 1;
    this.#nodes[node]!.unaccounted += this.#init.link?.sendCpu ?? 0;
    const payload = 8 * to + (to > from ? ACTIVATION : GRADIENT);
    if (onMessage !== undefined) {
      const { step } = this.#nodes[node]!.pipeline;
      const message = { from, to, step, microBatch: sequence % shape.microBatches, sent: this.#now };
      const others = this.#underWay.get(payload);
      if (others === undefined) this.#underWay.set(payload, [message]);
      else others.push(message);
    }
    const arrival = this.#links.send(from, to, this.#now);
    if (arrival === this.#now) this.#take(payload + ARRIVED);
    else this.#queue.push(arrival, payload + ARRIVED);
  }

  /** Messages of one stage and direction are handled in the order in which they were sent. */
  #tellMessage(payload: number): void {
    const message = defined(this.#underWay.get(payload)?.shift(), "a message was sent");
    this.#init.onMessage?.({ ...message, received: this.#now });
  }

  #task(node: number, { start, end, pipeline }: SimulatedNode, kind: "F" | "update", lap: number, microBatch: number) {
    return { node, kind, step: pipeline.step, lap, microBatch, start, end };
  }

  #tell(node: number, simulated: SimulatedNode, code: number): void {
    const { shape, onTask } = this.#init;
    const lap = Math.floor((code >> 2) / shape.microBatches);
    const microBatch = (code >> 2) - lap * shape.microBatches;
    const task = this.#task(node, simulated, "F", lap, microBatch);
    switch (code & 3) {
      case KIND.forward:
        return onTask?.(task);
      case KIND.backward:
        return onTask?.({ ...task, kind: "B" });
      case KIND.weight:
        return onTask?.({ ...task, kind: "W" });
    }
    // A fused operation's two parts, one after the other.
    const { backward, weight } = this.#init.costs[node]!.laps[lap]!;
    const work = backward + weight;
    const boundary = work > 0 ? task.start + ((task.end - task.start) * backward) / work : task.end;
    onTask?.({ ...task, kind: "B", end: boundary });
    onTask?.({ ...task, kind: "W", start: boundary });
  }
}
