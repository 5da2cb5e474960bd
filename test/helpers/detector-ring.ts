/** @file A simulated ring of detectors: heartbeats, probes, stalls of the nodes' loops, and faults, in virtual time. */
import {
  HEARTBEAT_INTERVAL_MS,
  PROBE_WAIT_MS,
  TICK_INTERVAL_MS,
  type DetectorInput,
  type DetectorOutput,
  type SuspicionCause,
} from "../../ring/core/detector.ts";
import { EventQueue } from "../../src/sim/event-queue.ts";
import type { RandomStream } from "../../src/types/random.ts";
import { CheckedDetector } from "./checked-detector.ts";

export type Fault = "kill" | "freeze" | "cut";

export interface Load {
  /** Mean of the time for which a node's loop has the processor, and for which it then waits for it. */
  readonly runMsMean: number;
  readonly waitMsMean: number;
  readonly waitMsMax: number;
}

/** Of a machine that is not busy. */
export const NORMAL: Load = { runMsMean: 200, waitMsMean: 2, waitMsMax: 30 };

export interface Suspicion {
  readonly nowMs: number;
  readonly by: number;
  readonly node: number;
  readonly cause: SuspicionCause;
}

/** A ring in virtual time: what comes to a node whose loop waits for the processor comes after the wait, timers first. */
export class DetectorRing {
  readonly #random: RandomStream;
  readonly #load: Load;
  readonly #queue = new EventQueue();
  readonly #actions = new Map<number, () => void>();
  readonly #detectors: readonly CheckedDetector[];
  readonly #stalledUntilMs: number[];
  readonly #faults = new Map<number, Fault>();
  /** Pairs of nodes between which nothing passes. */
  readonly #cutLines: (readonly [number, number])[] = [];
  readonly watchers: readonly (readonly number[])[];
  readonly suspicions: Suspicion[] = [];
  #actionsMade = 0;
  #nowMs = 0;

  /** @param lagMs what the nodes remember of the view before */
  constructor(random: RandomStream, size: number, replicas: number, load: Load, lagMs: number) {
    [this.#random, this.#load] = [random, load];
    const members = Array.from({ length: size }, (_, node) => node);
    const hears = (node: number, other: number): boolean => {
      const ahead = (node - other + size) % size;
      return node !== other && (ahead <= Math.max(1, replicas) || ahead === size - 1);
    };
    this.watchers = members.map((other) => members.filter((node) => hears(node, other)));
    this.#detectors = members.map((node) => {
      return new CheckedDetector({
        node,
        members,
        watched: members.filter((other) => hears(node, other)),
        lagMs,
        nowMs: 0,
      });
    });
    this.#stalledUntilMs = members.map(() => 0);
    for (const node of members) {
      this.#repeat(node, TICK_INTERVAL_MS / 2, () => this.#give(node, { kind: "tick", nowMs: this.#nowMs }));
      this.#repeat(node, HEARTBEAT_INTERVAL_MS, () => this.#beat(node));
      this.#stalls(node);
    }
  }

  run(untilMs: number): void {
    while (this.#queue.size > 0 && this.#queue.time <= untilMs) {
      this.#nowMs = this.#queue.time;
      const number = this.#queue.pop();
      const action = this.#actions.get(number)!;
      this.#actions.delete(number);
      action();
    }
    this.#nowMs = untilMs;
  }

  fail(node: number, fault: Fault): void {
    this.#faults.set(node, fault);
    if (fault !== "kill") return;
    for (const other of this.#detectors.keys()) {
      if (other !== node)
        this.#arrive(other, 4 + this.#random.nextBelow(79), () =>
          this.#give(other, { kind: "closed", node, nowMs: this.#nowMs }),
        );
    }
  }

  heal(node: number): void {
    this.#faults.delete(node);
  }

  cutLine(a: number, b: number): void {
    this.#cutLines.push([a, b]);
  }

  /** Who suspects whom now. */
  suspected(): readonly (readonly [by: number, node: number])[] {
    return this.#detectors.flatMap((detector, by) => detector.suspected().map((node) => [by, node] as const));
  }

  #at(delayMs: number, action: () => void): void {
    const number = (this.#actionsMade += 1);
    this.#actions.set(number, action);
    this.#queue.push(this.#nowMs + delayMs, number);
  }

  /** Runs on the node's loop, once it has the processor. */
  #arrive(node: number, delayMs: number, action: () => void, isTimer = false): void {
    this.#at(delayMs, () => {
      const fault = this.#faults.get(node);
      if (fault === "kill" || fault === "freeze") return;
      const stalledMs = this.#stalledUntilMs[node]! - this.#nowMs;
      if (stalledMs <= 0) action();
      else this.#arrive(node, isTimer ? stalledMs : stalledMs + 0.01, action, isTimer);
    });
  }

  #repeat(node: number, intervalMs: number, action: () => void): void {
    const again = (): void => {
      action();
      this.#arrive(node, intervalMs, again, true);
    };
    this.#arrive(node, this.#random.nextBelow(intervalMs), again, true);
  }

  /** Waits are log-normal: most are short, the longest take seconds. */
  #stalls(node: number): void {
    const uniform = (): number => (this.#random.nextUint32() + 1) / 2 ** 32;
    const { runMsMean, waitMsMean, waitMsMax } = this.#load;
    this.#at(-Math.log(uniform()) * runMsMean, () => {
      const normal = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
      const waitMs = Math.min(waitMsMax, waitMsMean * Math.exp(normal - 0.5));
      this.#stalledUntilMs[node] = this.#nowMs + waitMs;
      this.#at(waitMs, () => this.#stalls(node));
    });
  }

  #send(from: number, to: number, action: () => void): void {
    if (this.#faults.get(from) === "cut" || this.#faults.get(to) === "cut") return;
    if (from !== to && this.#cutLines.some((line) => line.includes(from) && line.includes(to))) return;
    this.#arrive(to, 0.2 + this.#random.nextFloat() * 2, action);
  }

  #beat(node: number): void {
    for (const to of this.watchers[node]!) {
      this.#send(node, to, () => this.#give(to, { kind: "heard", node, nowMs: this.#nowMs }));
    }
  }

  #give(node: number, input: DetectorInput): void {
    for (const output of this.#detectors[node]!.handle(input)) this.#apply(node, output);
  }

  #apply(node: number, output: DetectorOutput): void {
    if (output.kind === "redial") {
      const { node: peer } = output;
      const outcome = this.#faults.get(peer) === "kill" ? "refused" : "answered";
      this.#arrive(node, 1, () => this.#give(node, { kind: "redialed", node: peer, outcome, nowMs: this.#nowMs }));
    } else if (output.kind === "probe") this.#askToProbe(node, output.target, output.by);
    else if (output.kind === "suspect") {
      this.suspicions.push({ nowMs: this.#nowMs, by: node, node: output.node, cause: output.cause });
      for (const to of this.#detectors.keys()) {
        if (to === node || to === output.node) continue;
        this.#send(node, to, () =>
          this.#give(to, { kind: "accused", node: output.node, by: node, nowMs: this.#nowMs }),
        );
      }
    }
  }

  #askToProbe(node: number, target: number, by: number): void {
    const answer = (alive: boolean): void => {
      const give = (): void => this.#give(node, { kind: "probed", node: target, by, alive, nowMs: this.#nowMs });
      if (by === node) give();
      else this.#send(by, node, give);
    };
    if (by === node) this.#probe(node, target, answer);
    else this.#send(node, by, () => this.#probe(by, target, answer));
  }

  #probe(by: number, target: number, answer: (alive: boolean) => void): void {
    let isOpen = true;
    const end = (alive: boolean): void => {
      if (isOpen) answer(alive);
      isOpen = false;
    };
    this.#send(by, target, () => this.#send(target, by, () => end(true)));
    // A turn of the loop after the timer.
    this.#arrive(by, PROBE_WAIT_MS, () => this.#arrive(by, 0.1, () => end(false)), true);
  }
}
