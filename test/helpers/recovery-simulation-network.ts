/**
 * @file The ways between simulated peers. Control frames between two keep their order, and may be lost or come twice where a connection was made
 * anew; a stream keeps its order until it breaks; different streams overtake each other.
 */
import { peersOf } from "../../ring/core/view.ts";
import type { Packet } from "./recovery-simulation-fetches.ts";
import type { SimulatedPeer } from "./recovery-simulation-peer.ts";
import { STRANGERS, type RecoveryProcess } from "./recovery-simulation-process.ts";
import type { Frame } from "./recovery-simulation-session.ts";
import { nothing, type RecoverySimulation } from "./recovery-simulation.ts";

const PEERS_MAX = 64;
const LATE_MS = 1_000;

/** One direction between two peers. `target`: the process that a stream leads to; undefined: whichever runs on arrival. */
interface Way {
  readonly from: RecoveryProcess;
  readonly to: SimulatedPeer;
  readonly channel: "control" | "bulk" | "data";
  readonly target: RecoveryProcess | undefined;
  readonly hear: (process: RecoveryProcess) => void;
  readonly onLost: () => void;
}

export class Network {
  readonly #world: RecoverySimulation;
  readonly #arrivals = new Map<string, number>();
  readonly #cuts = new Map<number, { readonly untilMs: number; readonly drops: boolean }>();
  /** Streams of which something was lost: nothing more arrives. */
  readonly #broken = new Set<string>();

  constructor(world: RecoverySimulation) {
    this.#world = world;
  }

  isOpen(from: number, to: number): boolean {
    return (this.#cuts.get(from * PEERS_MAX + to)?.untilMs ?? 0) <= this.#world.nowMs;
  }

  cut(from: number, to: number, untilMs: number, drops: boolean): void {
    if (from !== to) this.#cuts.set(from * PEERS_MAX + to, { untilMs, drops });
  }

  mend(): void {
    this.#cuts.clear();
  }

  #peerAt(process: RecoveryProcess, node: number): SimulatedPeer {
    if (node >= STRANGERS) return this.#world.peers[node - STRANGERS]!;
    return this.#world.peerOf(peersOf(process.view).find((member) => member.node === node)!.peerId);
  }

  send(from: RecoveryProcess, node: number, packet: Packet): void {
    this.sendTo(from, this.#peerAt(from, node), packet);
  }

  sendTo(from: RecoveryProcess, to: SimulatedPeer, packet: Packet): void {
    const world = this.#world;
    world.note(() => `${from.peer.peerId} > ${to.peerId}: ${describePacket(packet)}`);
    const hear = (process: RecoveryProcess): void => process.hear(from.peer, packet);
    if (packet.kind !== "membership") {
      return this.#carry({ from, to, channel: "bulk", target: to.process, hear, onLost: nothing });
    }
    const way: Way = { from, to, channel: "control", target: undefined, hear, onLost: nothing };
    const { lossPermille, duplicatePermille } = world.scenario;
    const isShaky = !world.isHealed && from.peer !== to;
    if (isShaky && world.random.nextBelow(1_000) < lossPermille) return;
    this.#carry(way);
    if (!isShaky || world.random.nextBelow(1_000) >= duplicatePermille) return;
    // Sent again over a new connection, or read late from the old one.
    world.later(from, world.random.nextBelow(2) === 0 ? 0 : world.random.nextFloat() * LATE_MS, () => this.#carry(way));
  }

  sendFrame(from: RecoveryProcess, node: number, frame: Frame): void {
    const to = this.#peerAt(from, node);
    this.#world.checker.sent(from, frame.view);
    this.#world.note(() => `${from.peer.peerId} > ${to.peerId}: ${JSON.stringify(frame)}`);
    const key = `${frame.view}:${from.peer.index}:${to.index}`;
    if (this.#broken.has(key)) return;
    const sender = from.node;
    const hear = (process: RecoveryProcess): void => process.hearFrame(sender, frame);
    const way: Way = { from, to, channel: "data", target: to.process, hear, onLost: () => this.#broken.add(key) };
    this.#carry(way);
    const { duplicatePermille } = this.#world.scenario;
    if (frame.kind === "gradient" && this.#world.random.nextBelow(1_000) < duplicatePermille) this.#carry(way);
  }

  #carry(way: Way): void {
    const { from, to, channel } = way;
    const world = this.#world;
    const lane = `${from.peer.index} ${to.index} ${channel}`;
    const earliestMs = from.peer === to ? world.nowMs : world.nowMs + world.delay();
    const arriveMs = Math.max(earliestMs, this.#arrivals.get(lane) ?? 0);
    this.#arrivals.set(lane, arriveMs);
    const sentMs = world.nowMs;
    world.at(arriveMs, () => this.#arrive(way, lane, sentMs));
  }

  #arrive(way: Way, lane: string, sentMs: number): void {
    const { from, to, target, hear, onLost } = way;
    const world = this.#world;
    if (from.isDead && sentMs > from.lostAfterMs) return onLost();
    const cut = this.#cuts.get(from.peer.index * PEERS_MAX + to.index);
    if (cut !== undefined && cut.untilMs > world.nowMs) {
      if (cut.drops) return onLost();
      const againMs = cut.untilMs + 0.1;
      this.#arrivals.set(lane, Math.max(againMs, this.#arrivals.get(lane)!));
      return world.at(againMs, () => this.#arrive(way, lane, sentMs));
    }
    const process = way.channel === "control" ? to.process : target;
    if (process !== undefined) world.dispatch(process, () => hear(process));
  }
}

function describePacket(packet: Packet): string {
  if (packet.kind !== "membership") return JSON.stringify(packet);
  const { view, message } = packet;
  const text = JSON.stringify(message, (key, value: unknown) => (key === "value" || key === "held" ? "…" : value));
  return `[${view}] ${text}`;
}
