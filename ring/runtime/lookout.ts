/**
 * @file Whom this node suspects, view after view. Each view has a watch of its own, which begins with what the one before has learnt of the
 * machine's load; what was suspected in one view is void in the next.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import { LAG_MS_START } from "../core/detector.ts";
import { isMember, type RingView } from "../core/view.ts";
import type { Control } from "./control.ts";
import { Watch, type Suspicion } from "./watch.ts";

export interface LookoutInit {
  readonly control: Control;
  /** After each change, all that hold at present. */
  readonly suspicions: (suspicions: readonly Suspicion[]) => void;
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

  /** Of a member of the view; now, where nothing is known. */
  lastHeardMs(node: number): number {
    const suspicion = this.#suspicions.find((each) => each.node === node);
    return this.#watch?.lastHeardMs(node) ?? suspicion?.lastHeardMs ?? nowMs();
  }

  /** A view takes the place of the one before. */
  begin(view: RingView, node: number): void {
    this.#lagMs = this.#watch?.lagMs ?? this.#lagMs;
    this.#watch?.stop();
    this.#suspicions = [];
    const processes = view.members.map(({ peerId, boot }) => `${peerId} ${boot}`);
    const isCold = view.view === 0 || processes.some((each) => !this.#present.has(each));
    this.#present = new Set(processes);
    this.#watch = isMember(view, node) ? this.#createWatch(view, node, isCold) : undefined;
  }

  #createWatch(view: RingView, node: number, isCold: boolean): Watch {
    const { control, overslept, note } = this.#init;
    return new Watch({
      ...{ view, node, control, lagMs: this.#lagMs, isCold, overslept },
      suspicions: (suspicions) => {
        for (const suspicion of suspicions) {
          if (!this.#suspicions.includes(suspicion)) note("suspected", { view: view.view, ...suspicion });
        }
        this.#suspicions = suspicions;
        this.#init.suspicions(suspicions);
      },
    });
  }
}
