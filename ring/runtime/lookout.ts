/**
 * @file Whom this node suspects, view after view. Each view has a watch of its own, which begins with what the one before has learnt of the
 * machine's load. What was suspected in one view is void in the next, but whose stream had ended is looked at again at once.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import { LAG_MS_START, type SuspicionCause } from "../core/detector.ts";
import type { MembershipInput } from "../core/membership-messages.ts";
import { isMember, type RingView } from "../core/view.ts";
import type { Control } from "./control.ts";
import { Watch, type Suspicion } from "./watch.ts";

/** By what is known of them. */
type Suspicions = Omit<Extract<MembershipInput, { kind: "suspicions" }>, "kind">;

export interface LookoutInit {
  readonly control: Control;
  /** After each change, all that hold at present. */
  readonly suspicions: (suspicions: Suspicions) => void;
  readonly overslept: (sleptMs: number) => void;
  readonly note: (kind: string, fields: Readonly<Record<string, unknown>>) => void;
}

export class Lookout {
  readonly #init: LookoutInit;
  #watch: Watch | undefined;
  #suspicions: readonly Suspicion[] = [];
  #lagMs = LAG_MS_START;
  /** Processes of the view's members. */
  #present: ReadonlySet<string> = new Set();

  constructor(init: LookoutInit) {
    this.#init = init;
  }

  /** Undefined where this node is not in the view. */
  get watch(): Watch | undefined {
    return this.#watch;
  }

  get suspected(): readonly number[] {
    return this.#suspicions.map(({ node }) => node);
  }

  #suspectedAs(wanted: SuspicionCause): readonly number[] {
    return this.#suspicions.filter(({ cause }) => cause === wanted).map(({ node }) => node);
  }

  /** Of a member of the view; now, where nothing is known. */
  lastHeardMs(node: number): number {
    return this.#watch?.lastHeardMs(node) ?? nowMs();
  }

  /** A view takes the place of the one before. */
  begin(view: RingView, node: number): void {
    this.#lagMs = this.#watch?.lagMs ?? this.#lagMs;
    this.#watch?.stop();
    const ended = this.#suspectedAs("closed");
    this.#suspicions = [];
    const processes = view.members.map(({ peerId, boot }) => `${peerId} ${boot}`);
    const known = this.#present;
    const isCold = view.view === 0 || processes.some((each) => !known.has(each));
    this.#present = new Set(processes);
    const watch = isMember(view, node) ? this.#createWatch(view, node, isCold) : undefined;
    this.#watch = watch;
    // 1. Two nodes die. 2. One of them had promised before: the view that goes on without the other has it as a member.
    for (const member of view.members) {
      if (ended.includes(member.node) && known.has(`${member.peerId} ${member.boot}`)) watch?.closed(member.node);
    }
  }

  #createWatch(view: RingView, node: number, isCold: boolean): Watch {
    const { control, overslept, note } = this.#init;
    return new Watch({
      ...{ view, node, control, lagMs: this.#lagMs, isCold, overslept },
      suspicions: (suspicions) => {
        for (const suspicion of suspicions) {
          if (!this.#suspicions.includes(suspicion)) {
            const { node: suspected, cause, lastHeardMs } = suspicion;
            note("suspected", { view: view.view, node: suspected, cause, lastHeardMs });
          }
        }
        this.#suspicions = suspicions;
        const { suspected } = this;
        this.#init.suspicions({ suspected, dead: this.#suspectedAs("closed"), severed: this.#suspectedAs("severed") });
      },
    });
  }
}
