/**
 * @file A whole ring of the product's recovery machines in virtual time, with the faults of a scenario. Everything that happens is an event; a
 * checker looks at each. When the faults are over the ring is healed, and must train again within a bounded time.
 */
import { votersOf, type RingView } from "../../ring/core/view.ts";
import { EventQueue } from "../../src/sim/event-queue.ts";
import { RandomStream } from "../../src/types/random.ts";
import { RecoveryChecker } from "./recovery-checker.ts";
import { Reference } from "./recovery-simulation-model.ts";
import { Faults } from "./recovery-simulation-faults.ts";
import { Network } from "./recovery-simulation-network.ts";
import { SimulatedPeer } from "./recovery-simulation-peer.ts";
import { RecoveryProcess } from "./recovery-simulation-process.ts";
import type { RecoveryScenario } from "./recovery-simulation-scenario.ts";
import { InvariantBroken } from "./stage-checker.ts";

const TICK_MS = 50;
const LIMIT_MS = 90_000;
const REST_MS = 1_000;
const EVENTS_MAX = 3_000_000;

export interface RecoveryOutcome {
  readonly events: number;
  readonly views: number;
  readonly steps: number;
  readonly crashes: Readonly<Record<string, number>>;
  readonly restarts: number;
  readonly virtualMs: number;
  /** From the heal to training everywhere; null where nothing was demanded. */
  readonly resumeMs: number | null;
  /** By view change: versions that were held somewhere, and computed again. */
  readonly recomputed: readonly number[];
  readonly isExceeded: boolean;
}

/** Unwinds out of what a process does when it dies at that very place. */
export class Crashed extends Error {}

export const nothing = (): void => {};

export function simulateRecovery(scenario: RecoveryScenario, log?: (line: string) => void): RecoveryOutcome {
  return new RecoverySimulation(scenario, log).run();
}

export class RecoverySimulation {
  readonly scenario: RecoveryScenario;
  readonly random: RandomStream;
  readonly reference: Reference;
  readonly checker: RecoveryChecker;
  readonly peers: SimulatedPeer[] = [];
  nowMs = 0;
  readonly network: Network;
  readonly faults: Faults;
  isHealed = false;
  readonly #log: ((line: string) => void) | undefined;
  readonly #queue = new EventQueue();
  readonly #actions: (() => void)[] = [];
  readonly #recomputed: number[] = [];
  #events = 0;
  #wellSinceMs: number | undefined;
  #resumeMs: number | null = null;
  #goal = Infinity;

  constructor(scenario: RecoveryScenario, log?: (line: string) => void) {
    this.scenario = scenario;
    this.#log = log;
    this.random = new RandomStream(scenario.seed, 4_712);
    this.reference = new Reference(scenario.layers);
    this.network = new Network(this);
    this.faults = new Faults(this);
    const view = this.#firstView();
    this.checker = new RecoveryChecker(this.reference, view);
    for (const peer of this.peers) {
      peer.disk.votes = { view, vote: null };
      peer.process = new RecoveryProcess(this, peer, { view, vote: null, isMember: true });
    }
  }

  #firstView(): RingView {
    const { nodes, owners, laps, layers, replicas } = this.scenario;
    for (let index = 0; index < nodes; index += 1) this.peers.push(new SimulatedPeer(index));
    const stages = owners * laps;
    const starts = Array.from({ length: stages + 1 }, (_, stage) => Math.floor((stage * layers) / stages));
    const numbers = this.peers.map(({ index }) => index);
    return {
      ...{ view: 0, departed: [], voters: votersOf(numbers, [], numbers), owners: numbers.slice(0, owners) },
      members: this.peers.map((peer) => ({ ...peer.candidate, node: peer.index })),
      cut: Array.from({ length: stages }, (_, stage) => [starts[stage]!, starts[stage + 1]!] as const),
      ...{ replicas, restoreStep: 0, sources: [], losses: [], removed: [] },
    };
  }

  run(): RecoveryOutcome {
    for (const peer of this.peers) {
      const process = peer.process!;
      this.later(process, this.delay(), () => process.begin());
      this.tickOf(process);
    }
    for (const fault of this.scenario.faults) this.at(fault.atMs, () => this.faults.happen(fault));
    this.at(this.scenario.healMs, () => this.#heal());
    while (this.#queue.size > 0 && this.#events < EVENTS_MAX && !this.#isOver) {
      this.#events += 1;
      this.nowMs = this.#queue.time;
      const index = this.#queue.pop();
      const action = this.#actions[index]!;
      this.#actions[index] = nothing;
      action();
    }
    this.checker.curveIsWhole();
    return this.#outcome;
  }

  get #outcome(): RecoveryOutcome {
    return {
      ...{ events: this.#events, views: this.checker.newest.view, steps: this.checker.committedVersion },
      ...{
        crashes: this.faults.crashes,
        restarts: this.faults.restarts,
        virtualMs: this.nowMs,
        resumeMs: this.#resumeMs,
      },
      ...{ recomputed: this.#recomputed, isExceeded: this.faults.isExceeded },
    };
  }

  get #isOver(): boolean {
    if (!this.isHealed) return false;
    const { healMs } = this.scenario;
    if (this.faults.isExceeded) return this.nowMs > healMs + 5_000;
    if (this.#wellSinceMs !== undefined && this.nowMs - this.#wellSinceMs > REST_MS) return true;
    if (this.nowMs < healMs + LIMIT_MS) return false;
    const states = this.peers.map(({ process }) => process?.describe() ?? "down").join("\n");
    throw new InvariantBroken(`L1: no training ${LIMIT_MS} ms after the last fault\n${states}`);
  }

  note(line: () => string): void {
    this.#log?.(`${this.nowMs.toFixed(1)} ${line()}`);
  }

  at(timeMs: number, action: () => void): void {
    this.#queue.push(timeMs, this.#actions.length);
    this.#actions.push(action);
  }

  /** Something that happens at a process, if it still lives then. */
  later(process: RecoveryProcess, delayMs: number, action: () => void): void {
    this.at(this.nowMs + delayMs, () => this.dispatch(process, action));
  }

  dispatch(process: RecoveryProcess, action: () => void): void {
    if (process.isDead) return;
    if (process.backlog !== undefined) {
      process.backlog.push(action);
      return;
    }
    try {
      action();
      process.drain();
    } catch (error) {
      if (!(error instanceof Crashed)) throw error;
    }
  }

  tickOf(process: RecoveryProcess): void {
    this.at(this.nowMs + TICK_MS, () => {
      if (process.isDead) return;
      if (process.backlog === undefined) this.dispatch(process, () => process.tick());
      this.tickOf(process);
    });
  }

  delay(): number {
    const { random, scenario } = this;
    const most = scenario.delayMs * (random.nextBelow(50) === 0 ? 10 : 1);
    return 0.1 + random.nextFloat() * most;
  }

  slowness({ peer }: RecoveryProcess): number {
    return this.nowMs < peer.slowComputeUntilMs ? peer.slowComputeMs : 0;
  }

  peerOf(peerId: string): SimulatedPeer {
    return this.peers.find((peer) => peer.peerId === peerId)!;
  }

  noteMismatch(): void {
    if (!this.checker.isDamaged) throw new InvariantBroken("V2: copies differ, but none was damaged");
  }

  /** Faults are over: from now on the ring must find itself. */
  #heal(): void {
    this.isHealed = true;
    this.note(() => "HEAL");
    this.faults.heal();
    this.#goal = this.checker.committedVersion + 3;
    this.#lookAround();
  }

  #lookAround(): void {
    if (!this.#isWell) this.#wellSinceMs = undefined;
    else this.#wellSinceMs ??= this.nowMs;
    if (this.#wellSinceMs !== undefined) this.#resumeMs ??= this.nowMs - this.scenario.healMs;
    this.at(this.nowMs + 100, () => this.#lookAround());
  }

  /** Everybody who wants to be is in one view, and it trains. Where all of them want to go they stay. */
  get #isWell(): boolean {
    const mayLeave = this.peers.some(({ process }) => process?.isOutside === false && !process.isLeaving);
    return this.peers.every((peer) => {
      const { process } = peer;
      if (peer.isGone || (process?.isLeaving === true && process.isOutside)) return true;
      if (process?.session === undefined || process.watch?.isQuiet !== true) return false;
      if (process.isLeaving && mayLeave) return false;
      return process.view.view === this.checker.newest.view && process.keeper!.frontier >= this.#goal;
    });
  }

  /** A vote came to a disk. */
  durable(peer: SimulatedPeer): void {
    const { view } = this.checker.newest;
    this.checker.durable(peer);
    const { newest } = this.checker;
    if (newest.view === view) return;
    this.note(
      () =>
        `CHOSEN ${JSON.stringify({ ...newest, members: newest.members.map((m) => `${m.node}/${m.boot}`), departed: newest.departed.map((m) => m.node), sources: newest.sources.map((x) => x.holders) })}`,
    );
    const held = this.peers.flatMap(({ process }) => process?.memory.versionsOf(0) ?? []);
    this.#recomputed.push(Math.max(0, ...held.map((version) => version - newest.restoreStep)));
  }
}
