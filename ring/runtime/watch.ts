/**
 * @file The detector of one view in real time: heartbeats go out from the protocol thread, and what is heard, closed or silent goes into the
 * machine. It tells whom this node suspects; what follows from that is the membership's business.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import { unreachable } from "../../src/types/assert.ts";
import {
  DetectorMachine,
  HEARTBEAT_INTERVAL_MS,
  PROBE_WAIT_MS,
  type DetectorInput,
  type DetectorOutput,
  type SuspicionCause,
} from "../core/detector.ts";
import { memberOf, replicaHolders, type RingMember, type RingView } from "../core/view.ts";
import type { Control } from "./control.ts";

/** Programs and data are still being loaded, and nobody knows yet what this machine stalls for. */
const COLD_LAG_MS = 2_000;

export interface Suspicion {
  readonly node: number;
  readonly cause: SuspicionCause;
  readonly lastHeardMs: number;
}

export interface WatchInit {
  readonly view: RingView;
  readonly node: number;
  readonly control: Control;
  /** Of the machine's load, from the view before. */
  readonly lagMs: number;
  /** Somebody in this view has only just started: until the first commit, silence says little. */
  readonly isCold: boolean;
  /** Told after each change. */
  readonly suspicions: (suspicions: readonly Suspicion[]) => void;
  /** This process stood still: it must not act on what it believes of its view before others have confirmed it. */
  readonly overslept: (sleptMs: number) => void;
}

export class Watch {
  readonly #init: WatchInit;
  #machine: DetectorMachine;
  #isCold: boolean;
  readonly #suspicions = new Map<number, Suspicion>();
  /** Whom others asked about, and who asked, until an answer is due. */
  readonly #probed = new Map<number, Set<number>>();
  readonly #heardMs = new Map<number, number>();
  readonly #closedMs = new Map<number, number>();
  #beatMs = 0;
  #isOver = false;

  constructor(init: WatchInit) {
    this.#init = init;
    this.#isCold = init.isCold;
    this.#machine = this.#newMachine(init.isCold ? Math.max(init.lagMs, COLD_LAG_MS) : init.lagMs);
  }

  #newMachine(lagMs: number): DetectorMachine {
    const { view, node } = this.#init;
    const members = view.members.map((member) => member.node);
    return new DetectorMachine({ node, members, watched: watchedBy(view, node), lagMs, nowMs: nowMs() });
  }

  /** The ring commits: from now on it is to be judged by what it does. */
  warm(): void {
    if (!this.#isCold || this.#suspicions.size > 0) return;
    this.#isCold = false;
    this.#machine = this.#newMachine(this.#init.lagMs);
  }

  get lagMs(): number {
    return this.#isCold ? this.#init.lagMs : this.#machine.lagMs;
  }

  /**
   * The last sign of life that this node can tell of: of a member whose heartbeats come here the last one, of others, who say little to it,
   * the end of their stream. Undefined where there was none.
   */
  lastHeardMs(node: number): number | undefined {
    const isWatched = watchedBy(this.#init.view, this.#init.node).includes(node);
    if (!isWatched) return this.#closedMs.get(node);
    return this.#heardMs.get(node) ?? this.#suspicions.get(node)?.lastHeardMs;
  }

  /** Any frame of a member's present process. */
  heard(node: number): void {
    this.#heardMs.set(node, nowMs());
    this.#answerProbes(node);
    this.#take({ kind: "heard", node, nowMs: nowMs() });
  }

  /** One of its streams has ended without GOODBYE. */
  closed(node: number): void {
    this.#closedMs.set(node, nowMs());
    this.#take({ kind: "closed", node, nowMs: nowMs() });
  }

  accused(node: number, by: number): void {
    this.#take({ kind: "accused", node, by, nowMs: nowMs() });
  }

  probed(node: number, by: number, alive: boolean): void {
    this.#take({ kind: "probed", node, by, alive, nowMs: nowMs() });
  }

  /** `by` asks whether `node` is alive: it is if it says anything soon. */
  probe(node: number, by: number): void {
    const asking = this.#probed.get(node) ?? new Set();
    this.#probed.set(node, asking.add(by));
    this.#say(node, { say: "probe", node });
    setTimeout(() => {
      // What has arrived meanwhile is read first.
      setImmediate(() => {
        if (this.#probed.get(node)?.delete(by) === true) this.#tell(by, node, false);
      });
    }, PROBE_WAIT_MS).unref();
  }

  /** About twice in a heartbeat's interval. */
  tick(): void {
    const at = nowMs();
    this.#take({ kind: "tick", nowMs: at });
    if (at - this.#beatMs < HEARTBEAT_INTERVAL_MS - 5) return;
    this.#beatMs = at;
    const { view, node } = this.#init;
    for (const { node: other } of view.members) {
      if (other !== node && watchedBy(view, other).includes(node)) this.#say(other, { say: "alive" });
    }
  }

  /** The view is over. */
  stop(): void {
    this.#isOver = true;
  }

  #answerProbes(node: number): void {
    for (const by of this.#probed.get(node) ?? []) this.#tell(by, node, true);
    this.#probed.delete(node);
  }

  #tell(by: number, node: number, alive: boolean): void {
    if (by === this.#init.node) this.probed(node, by, alive);
    else this.#say(by, { say: "probed", node, alive });
  }

  #say(node: number, message: Parameters<Control["send"]>[1]): void {
    const member = memberOf(this.#init.view, node);
    if (member !== undefined) this.#init.control.send(member.peerId, message);
  }

  #take(input: DetectorInput): void {
    if (this.#isOver) return;
    for (const output of this.#machine.handle(input)) this.#act(output);
  }

  #act(output: DetectorOutput): void {
    const { control, view, node, overslept } = this.#init;
    switch (output.kind) {
      case "redial": {
        // The answer belongs to the machine that asked.
        const machine = this.#machine;
        void control.dial(memberOf(view, output.node)!.peerId).then((outcome) => {
          if (machine !== this.#machine) return;
          this.#take({ kind: "redialed", node: output.node, outcome, nowMs: nowMs() });
        });
        return;
      }
      case "probe":
        if (output.by === node) this.probe(output.target, node);
        else this.#say(output.by, { say: "probe", node: output.target });
        return;
      case "suspect":
        this.#suspicions.set(output.node, output);
        this.#accuse(output.node);
        if (output.cause !== "closed") control.renew(memberOf(view, output.node)!.peerId);
        return this.#init.suspicions([...this.#suspicions.values()]);
      case "trust":
        this.#suspicions.delete(output.node);
        return this.#init.suspicions([...this.#suspicions.values()]);
      case "overslept":
        return overslept(output.sleptMs);
    }
    unreachable(output);
  }

  /** A hint for others, who look for themselves. */
  #accuse(accused: number): void {
    for (const { node } of this.#init.view.members) {
      if (node !== this.#init.node && node !== accused) this.#say(node, { say: "accuse", node: accused });
    }
  }
}

/** Both neighbours on the ring, and the predecessors whose layers a node keeps copies of. */
function watchedBy(view: RingView, node: number): readonly number[] {
  const { members } = view;
  const place = members.findIndex((member) => member.node === node);
  const neighbour = (offset: number): RingMember => members[(place + offset + members.length) % members.length]!;
  const keptFor = members.filter(({ node: owner }) => replicaHolders(view, owner).includes(node));
  const watched = new Set([neighbour(1), neighbour(-1), ...keptFor].map((member) => member.node));
  watched.delete(node);
  return [...watched];
}
