/**
 * @file What a scenario does to a simulated ring, and whether the ring can bear it: a fault that would take the last copy of a layer, or the
 * majority of the voters for good, does not happen within the budget; beyond it only safety is demanded.
 */
import { holdsLayers, type RingView } from "../../ring/core/view.ts";
import { RandomStream } from "../../src/types/random.ts";
import { SimulatedPeer, type VoteRecord } from "./recovery-simulation-peer.ts";
import { RecoveryProcess } from "./recovery-simulation-process.ts";
import type { CrashPoint, Fault } from "./recovery-simulation-scenario.ts";
import { Crashed, type RecoverySimulation } from "./recovery-simulation.ts";
import { InvariantBroken } from "./stage-checker.ts";

/** How long a process that has left stays, so that others may fetch from it. */
const LINGER_MS = 3_000;
const NEW_DISK_MS = 300;
/** A view is decided in less, whatever the seed. */
const DECIDING_MS = 1_500;

type Armed = Extract<Fault, { readonly kind: "crashPoint" }> & { left: number };

export class Faults {
  /** More was lost than replicas and voters can bear: only safety counts from then on. */
  isExceeded = false;
  readonly crashes: Record<string, number> = {};
  restarts = 0;
  readonly #world: RecoverySimulation;
  #armed: Armed[] = [];

  constructor(world: RecoverySimulation) {
    this.#world = world;
  }

  happen(fault: Fault): void {
    const world = this.#world;
    world.note(() => `FAULT ${JSON.stringify(fault)}`);
    const untilMs = "forMs" in fault ? world.nowMs + fault.forMs : 0;
    if (fault.kind === "join") return this.#join();
    if (fault.kind === "recut") return this.#recut(fault.choice);
    if (fault.kind === "cut") {
      for (const index of fault.from) this.#silence(world.peers[index]!, untilMs);
      for (const from of fault.from)
        for (const to of fault.to) {
          world.network.cut(from, to, untilMs, fault.drops);
          if (!fault.isOneWay) world.network.cut(to, from, untilMs, fault.drops);
        }
      return;
    }
    const peer = world.peers[fault.peer];
    if (peer !== undefined && !peer.isGone) this.#befall(peer, fault, untilMs);
  }

  /** Others may go on without it, and a view that they have begun to decide be without what it holds. */
  #silence(peer: SimulatedPeer, untilMs: number): void {
    peer.silentUntilMs = Math.max(peer.silentUntilMs, untilMs + DECIDING_MS);
  }

  #befall(
    peer: SimulatedPeer,
    fault: Exclude<Fault, { readonly kind: "join" | "recut" | "cut" }>,
    untilMs: number,
  ): void {
    switch (fault.kind) {
      case "crash":
        this.#crash(peer, fault, "any");
        return;
      case "crashPoint":
        this.#armed.push({ ...fault, left: fault.nth });
        return;
      case "pause":
        this.#silence(peer, untilMs);
        return this.#pause(peer, fault.forMs);
      case "leave":
        return this.#leave(peer);
      case "flip":
        return this.#flip(peer, fault.choice);
      case "slowDisk":
        this.#silence(peer, untilMs + fault.delayMs);
        Object.assign(peer.disk, { slowUntilMs: untilMs, slowMs: fault.delayMs });
        return;
      case "badDisk":
        this.#silence(peer, untilMs);
        peer.disk.badUntilMs = untilMs;
        return;
      case "slowCompute":
        Object.assign(peer, { slowComputeUntilMs: untilMs, slowComputeMs: fault.delayMs });
        return;
    }
  }

  heal(): void {
    const world = this.#world;
    this.#armed = [];
    world.network.mend();
    for (const peer of world.peers) {
      Object.assign(peer.disk, { slowUntilMs: 0, badUntilMs: 0 });
      peer.slowComputeUntilMs = 0;
      if (peer.process?.backlog !== undefined) this.#resume(peer.process);
    }
    for (const peer of world.peers) peer.silentUntilMs = 0;
    if (!this.#survives(undefined) || !this.#hasQuorumWithout(undefined)) this.#exceed("at the end");
  }

  #exceed(why: string): void {
    this.#world.note(() => `EXCEEDED ${why}`);
    this.isExceeded = true;
  }

  /** A process comes to a place where a scenario may make it stop. */
  reached(process: RecoveryProcess, point: CrashPoint): void {
    for (const armed of this.#armed) {
      if (armed.peer !== process.peer.index || armed.point !== point) continue;
      armed.left -= 1;
      if (armed.left > 0) continue;
      this.#armed = this.#armed.filter((each) => each !== armed);
      if (this.#crash(process.peer, armed, point)) throw new Crashed();
    }
  }

  /** A process says that layers are lost, and stops. */
  lost(process: RecoveryProcess, layers: readonly number[]): void {
    if (!this.isExceeded) {
      throw new InvariantBroken(
        `L1: layers ${layers.join(", ")} are called lost within the budget: ${process.describe()}`,
      );
    }
    this.#kill(process);
    process.peer.isGone = true;
    throw new Crashed();
  }

  /** Returns whether it happened. */
  #crash(
    peer: SimulatedPeer,
    { restartMs, wipe }: { restartMs: number | null; wipe: boolean },
    point: string,
  ): boolean {
    const world = this.#world;
    const { process } = peer;
    if (process === undefined) return false;
    const { isWithinBudget } = world.scenario;
    if (!this.#survives(peer)) {
      if (isWithinBudget) return false;
      this.#exceed(`by the crash of ${peer.peerId}`);
    }
    world.note(() => `CRASH ${peer.peerId} at ${point}`);
    this.crashes[point] = (this.crashes[point] ?? 0) + 1;
    this.#kill(process);
    const mayGo = !isWithinBudget || this.#hasQuorumWithout(peer);
    if (mayGo && wipe) {
      peer.isGone = true;
      world.at(world.nowMs + (restartMs ?? NEW_DISK_MS), () => this.#join());
    } else if (mayGo && restartMs === null) peer.isGone = true;
    else world.at(world.nowMs + (restartMs ?? NEW_DISK_MS), () => this.#restart(peer));
    return true;
  }

  #kill(process: RecoveryProcess): void {
    const world = this.#world;
    const { peer } = process;
    process.isDead = true;
    process.lostAfterMs = world.nowMs - world.random.nextFloat() * 2 * world.scenario.delayMs;
    peer.process = undefined;
    peer.disk.freeMs = world.nowMs;
    if (process.inRename !== undefined && world.random.nextBelow(2) === 0) process.inRename();
    for (const other of world.peers) {
      const watcher = other.process;
      if (watcher === undefined || !world.network.isOpen(peer.index, other.index)) continue;
      world.later(watcher, world.delay(), () => watcher.watch?.closed(peer.peerId, process.boot));
    }
  }

  #restart(peer: SimulatedPeer): void {
    if (peer.isGone || peer.process !== undefined) return;
    peer.boots += 1;
    this.restarts += 1;
    const { votes } = peer.disk;
    const told = this.#contact();
    // It comes back through somebody who lives, and who may know less than its own disk.
    if (votes !== undefined && votes.view.view >= (told?.view ?? 0)) this.#run(peer, votes.view, votes.vote);
    else if (told !== undefined) this.#run(peer, told, null);
    else this.#world.at(this.#world.nowMs + NEW_DISK_MS, () => this.#restart(peer));
  }

  #run(peer: SimulatedPeer, view: RingView, vote: VoteRecord["vote"]): void {
    const process = new RecoveryProcess(this.#world, peer, { view, vote, isMember: false });
    peer.process = process;
    this.#world.tickOf(process);
  }

  /** The view of somebody who lives. */
  #contact(): RingView | undefined {
    return this.#world.peers.find(({ process }) => process !== undefined)?.process?.view;
  }

  #join(): void {
    const view = this.#contact();
    if (view === undefined) return;
    const peer = new SimulatedPeer(this.#world.peers.length);
    this.#world.peers.push(peer);
    this.#run(peer, view, null);
  }

  #pause(peer: SimulatedPeer, forMs: number): void {
    const { process } = peer;
    if (process === undefined || process.backlog !== undefined) return;
    process.backlog = [];
    this.#world.at(this.#world.nowMs + forMs, () => this.#resume(process));
  }

  #resume(process: RecoveryProcess): void {
    const { backlog } = process;
    process.backlog = undefined;
    for (const action of backlog ?? []) this.#world.dispatch(process, action);
  }

  #leave(peer: SimulatedPeer): void {
    const { process } = peer;
    if (process === undefined || process.isOutside || process.isLeaving) return;
    if (!this.#survives(peer) || !this.#hasQuorumWithout(peer)) return;
    process.isLeaving = true;
    this.#world.later(process, 0, () => process.toMembership({ kind: "leave" }));
  }

  /** It is outside, as it wished: it stays as long as it is needed. */
  left(process: RecoveryProcess): void {
    this.#world.at(this.#world.nowMs + LINGER_MS, () => {
      if (process.isDead) return;
      if (!this.#survives(process.peer) || !this.#hasQuorumWithout(process.peer)) return this.left(process);
      process.peer.isGone = true;
      this.#kill(process);
    });
  }

  /** The same laps on some of the members, with other borders; every member has computed it. */
  #recut(choice: number): void {
    const { newest } = this.#world.checker;
    const random = new RandomStream(choice, 4_713);
    const laps = newest.cut.length / newest.owners.length;
    const layers = newest.cut.at(-1)![1];
    const able = newest.members.map(({ node }) => node).filter(() => random.nextBelow(4) > 0);
    const owners = (able.length === 0 ? newest.owners : able).slice(0, Math.floor(layers / laps));
    const stages = owners.length * laps;
    const borders = Array.from({ length: layers - 1 }, (_, index) => index + 1);
    while (borders.length > stages - 1) borders.splice(random.nextBelow(borders.length), 1);
    const cut = [0, ...borders].map((start, index) => [start, [...borders, layers][index]!] as const);
    for (const { process } of this.#world.peers) {
      if (process?.view.view !== newest.view || process.isOutside) continue;
      const map = { owners, cut };
      this.#world.later(process, this.#world.delay(), () =>
        process.toMembership({ kind: "recut", view: newest.view, map }),
      );
    }
  }

  #flip({ process }: SimulatedPeer, choice: number): void {
    const slots = [...(process?.memory.live.values() ?? [])].flatMap(({ current, previous }) => [current, previous]);
    const present = slots.filter((slot) => slot !== undefined);
    if (present.length === 0) return;
    this.#world.checker.isDamaged = true;
    const { values } = present[choice % present.length]!;
    values[choice % values.length]! ^= 1 << (choice % 32);
  }

  /** Whether what is committed is still in the memories that are left without this peer's, and of those who cannot be reached. */
  #survives(without: SimulatedPeer | undefined): boolean {
    const { peers, checker, scenario, nowMs } = this.#world;
    const left = peers.flatMap(({ process }) =>
      process === undefined || process.peer === without || nowMs < process.peer.silentUntilMs ? [] : [process],
    );
    // Where every member that holds layers has lost its memory nobody knows what was committed last, unless all the others say that they
    // never began. Who was evicted may not have heard of it.
    const { newest } = checker;
    const members = left.filter(({ peer, boot }) => isIn(newest, peer, boot));
    const isKnown = members.some(({ node }) => holdsLayers(newest, node)) || members.length === newest.members.length;
    if (!isKnown) return false;
    const versions = new Set(left.flatMap(({ memory }) => memory.versionsOf(0)));
    const layers = Array.from({ length: scenario.layers }, (_, layer) => layer);
    return [...versions].some(
      (version) =>
        version >= checker.committedVersion &&
        layers.every((layer) => left.some((process) => isHere(process, layer, version))),
    );
  }

  /** Whether the voters of the newest view, and of whatever may follow it, have a majority that will be there. */
  #hasQuorumWithout(without: SimulatedPeer | undefined): boolean {
    const left = this.#world.peers.filter((peer) => !peer.isGone && peer !== without);
    const known = left.flatMap(({ disk, process }) => [
      ...[process?.view, disk.votes?.view, disk.votes?.vote?.accepted?.value],
    ]);
    const views = known.filter((view) => view !== undefined);
    // What was decided counts only where somebody who will be there knows it.
    const newest = Math.max(...left.map(({ disk, process }) => process?.view.view ?? disk.votes?.view.view ?? 0));
    return views
      .filter(({ view }) => view >= newest)
      .every(({ voters, members, departed }) => {
        const names = [...members, ...departed].filter(({ node }) => voters.includes(node)).map(({ peerId }) => peerId);
        return 2 * left.filter(({ peerId }) => names.includes(peerId)).length > voters.length;
      });
  }
}

const isIn = ({ members }: RingView, { peerId }: SimulatedPeer, boot: number): boolean =>
  members.some((member) => member.peerId === peerId && member.boot === boot);

/** While a view trains, others who have come further cannot know that its first version is the newest committed: the vault does not count. */
function isHere({ memory, session }: RecoveryProcess, layer: number, version: number): boolean {
  return (session === undefined ? memory.read(layer, version) : memory.readLive(layer, version)) !== undefined;
}
