/**
 * @file The product's failure detector at one simulated node in one view. Heartbeats are not frames here: at each tick a node hears those of the
 * peers it watches that live, run and can reach it.
 */
import {
  DetectorMachine,
  PROBE_WAIT_MS,
  type DetectorInput,
  type DetectorOutput,
  type SuspicionCause,
} from "../../ring/core/detector.ts";
import { memberOf, type RingView } from "../../ring/core/view.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";

type WithoutTime<Input> = Input extends unknown ? Omit<Input, "nowMs"> : never;

export class Watch {
  readonly #process: RecoveryProcess;
  readonly #view: RingView;
  readonly #watched: readonly number[];
  readonly #machine: DetectorMachine;
  readonly #suspected = new Map<number, SuspicionCause>();

  constructor(process: RecoveryProcess, view: RingView) {
    this.#process = process;
    this.#view = view;
    const members = view.members.map(({ node }) => node);
    const place = members.indexOf(process.node);
    const near = Array.from({ length: view.replicas + 1 }, (_, index) => place - 1 - index).concat(place + 1);
    const watched = near.map((index) => members[(index + 2 * members.length) % members.length]!);
    this.#watched = [...new Set(watched)].filter((node) => node !== process.node);
    this.#machine = new DetectorMachine({
      node: process.node,
      members,
      watched: this.#watched,
      nowMs: process.world.nowMs,
      lagMs: 0,
    });
  }

  get isQuiet(): boolean {
    return this.#suspected.size === 0;
  }

  tick(): void {
    for (const node of this.#watched) if (this.#isHeard(node)) this.#take({ kind: "heard", node });
    this.#take({ kind: "tick" });
  }

  /** A stream of this member's process ended. */
  closed(peerId: string, boot: number): void {
    const member = this.#view.members.find((each) => each.peerId === peerId && each.boot === boot);
    if (member !== undefined) this.#take({ kind: "closed", node: member.node });
  }

  accused(node: number, by: number): void {
    if (node !== this.#process.node && memberOf(this.#view, node) !== undefined)
      this.#take({ kind: "accused", node, by });
  }

  #processOf(node: number): RecoveryProcess | undefined {
    const member = memberOf(this.#view, node)!;
    const process = this.#process.world.peerOf(member.peerId).process;
    return process?.boot === member.boot ? process : undefined;
  }

  /** Whether its frames get here. */
  #isHeard(node: number): boolean {
    const other = this.#processOf(node);
    if (other === undefined || other.backlog !== undefined) return false;
    return this.#process.world.network.isOpen(other.peer.index, this.#process.peer.index);
  }

  #answers(node: number): boolean {
    const { world, peer } = this.#process;
    return this.#isHeard(node) && world.network.isOpen(peer.index, this.#processOf(node)!.peer.index);
  }

  #take(input: WithoutTime<DetectorInput>): void {
    // The view may be over: what was asked for in it is answered to nobody.
    if (this.#process.watch !== this) return;
    const { nowMs } = this.#process.world;
    const outputs = this.#machine.handle({ ...input, nowMs });
    for (const output of outputs) this.#act(output);
  }

  #act(output: DetectorOutput): void {
    const { world } = this.#process;
    switch (output.kind) {
      case "redial":
        return this.#redial(output.node);
      case "probe":
        return this.#probe(output.target, output.by);
      case "suspect":
        this.#suspected.set(output.node, output.cause);
        this.#tell();
        for (const { node } of this.#view.members) {
          if (node === output.node || node === this.#process.node || !this.#answers(node)) continue;
          world.later(this.#processOf(node)!, world.delay(), () =>
            this.#processAt(node)?.watch?.accused(output.node, this.#process.node),
          );
        }
        return;
      case "trust":
        this.#suspected.delete(output.node);
        return this.#tell();
      case "overslept":
        return;
    }
  }

  #processAt(node: number): RecoveryProcess | undefined {
    const process = this.#processOf(node);
    return process?.view.view === this.#view.view ? process : undefined;
  }

  #tell(): void {
    const suspected = [...this.#suspected.keys()];
    const of = (cause: SuspicionCause): readonly number[] =>
      suspected.filter((node) => this.#suspected.get(node) === cause);
    this.#process.toMembership({ kind: "suspicions", suspected, dead: of("closed"), severed: of("severed") });
  }

  #redial(node: number): void {
    const { world, peer } = this.#process;
    const other = world.peerOf(memberOf(this.#view, node)!.peerId);
    const isOpen = world.network.isOpen(peer.index, other.index) && world.network.isOpen(other.index, peer.index);
    this.#process.later(isOpen ? 2 * world.delay() : 500, () => {
      const outcome = !isOpen ? "silent" : other.process === undefined ? "refused" : "answered";
      this.#take({ kind: "redialed", node, outcome });
    });
  }

  #probe(node: number, by: number): void {
    const isOwn = by === this.#process.node;
    if (!isOwn && !this.#answers(by)) return;
    const alive = isOwn ? this.#answers(node) : this.#processAt(by)?.watch?.answersOf(node) === true;
    this.#process.later(alive ? 2 * this.#process.world.delay() : PROBE_WAIT_MS, () =>
      this.#take({ kind: "probed", node, by, alive }),
    );
  }

  answersOf(node: number): boolean {
    return node !== this.#process.node && memberOf(this.#view, node) !== undefined && this.#answers(node);
  }
}
