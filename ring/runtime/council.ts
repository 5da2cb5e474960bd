/**
 * @file A node's part in the views, in real time: what members say goes into the membership machine, what it decides comes out. Votes are
 * durable before they are told; what a node votes on is small, so they are written one after the other.
 */
import { unreachable } from "../../src/types/assert.ts";
import { DataError } from "../../src/types/errors.ts";
import type { Vote } from "../core/agreement.ts";
import type { Membership } from "../core/membership.ts";
import type { MembershipInput, MembershipOutput } from "../core/membership-messages.ts";
import { peersOf, type RingView } from "../core/view.ts";
import type { Control } from "./control.ts";
import type { MembershipWord } from "./control-messages.ts";
import type { NodeState } from "./node-state.ts";

/** Who is answered is answered at once: older ones are forgotten. */
const STRANGERS_MAX = 64;

export interface CouncilEvents {
  readonly seal: () => void;
  readonly install: (view: RingView) => void;
  readonly outside: (view: RingView) => void;
  readonly start: (view: RingView) => void;
  readonly lost: (layers: readonly number[]) => void;
  /** A vote could not be made durable: this node abstains. */
  readonly notDurable: (reason: string) => void;
  /** What follows from a durable vote could not be done. */
  readonly failed: (error: unknown) => void;
}

export interface CouncilInit {
  readonly peerId: string;
  readonly membership: Membership;
  readonly state: NodeState;
  readonly control: Control;
  readonly events: CouncilEvents;
}

interface Save {
  readonly view: RingView;
  readonly id: number;
  readonly vote: Vote<RingView> | null;
}

export class Council {
  readonly #init: CouncilInit;
  /** Peers that the view does not know, by negative number less one. */
  readonly #strangers: string[] = [];
  #strangersMet = 0;
  readonly #inputs: MembershipInput[] = [];
  #isHandling = false;
  #save: Save | undefined;
  #isSaving = false;

  constructor(init: CouncilInit) {
    this.#init = init;
  }

  get membership(): Membership {
    return this.#init.membership;
  }

  /** A word of the peer with this id. */
  hear(peerId: string, { view, message }: MembershipWord, nowMs: number): void {
    this.handle({ kind: "message", from: this.nodeOf(peerId), view, message, nowMs });
  }

  /** Strangers have negative numbers. */
  nodeOf(peerId: string): number {
    const known = peersOf(this.membership.view).find((peer) => peer.peerId === peerId);
    if (known !== undefined) return known.node;
    if (!this.#strangers.includes(peerId)) {
      this.#strangers[this.#strangersMet % STRANGERS_MAX] = peerId;
      this.#strangersMet += 1;
    }
    return -1 - this.#strangers.indexOf(peerId);
  }

  peerOf(node: number): string | undefined {
    if (node < 0) return this.#strangers[-1 - node];
    return peersOf(this.membership.view).find((peer) => peer.node === node)?.peerId;
  }

  /** One input after the other: acting on outputs makes new ones. What acting on one throws is the caller's. */
  handle(input: MembershipInput): void {
    this.#inputs.push(input);
    if (this.#isHandling) return;
    this.#isHandling = true;
    try {
      for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
        for (const output of this.membership.handle(next)) this.#act(output, "nowMs" in next ? next.nowMs : undefined);
      }
    } finally {
      // Else this node would live on, and never vote again.
      this.#isHandling = false;
    }
  }

  #act(output: MembershipOutput, nowMs: number | undefined): void {
    const { events } = this.#init;
    switch (output.kind) {
      case "send":
        return this.#send(output, nowMs);
      case "persist":
        return this.#persist(output);
      case "seal":
        return events.seal();
      case "install":
        return events.install(output.view);
      case "outside":
        return events.outside(output.view);
      case "start":
        return events.start(output.view);
      case "lost":
        return events.lost(output.layers);
    }
    unreachable(output);
  }

  /** This node hears itself at once. */
  #send({ to, view, message }: Extract<MembershipOutput, { kind: "send" }>, nowMs = 0): void {
    const peerId = this.peerOf(to);
    if (peerId === this.#init.peerId) this.#inputs.push({ kind: "message", from: to, view, message, nowMs });
    else if (peerId !== undefined) this.#init.control.send(peerId, { say: "membership", view, message });
  }

  /** The newest vote is written, those before it with it. */
  #persist(save: Save): void {
    this.#save = save;
    if (!this.#isSaving) this.#saveAll().catch((error: unknown) => this.#init.events.failed(error));
  }

  async #saveAll(): Promise<void> {
    this.#isSaving = true;
    try {
      for (let save = this.#save; save !== undefined; save = this.#save) {
        this.#save = undefined;
        const isDurable = await this.#isDurable(save);
        this.handle({ kind: isDurable ? "persisted" : "notPersisted", view: save.view.view, id: save.id });
      }
    } finally {
      this.#isSaving = false;
    }
  }

  /** A node abstains for want of a disk; any other error is none that waiting would mend. */
  async #isDurable({ view, vote }: Save): Promise<boolean> {
    try {
      await this.#init.state.save(view, vote);
      return true;
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      this.#init.events.notDurable(error.message);
      return false;
    }
  }
}
