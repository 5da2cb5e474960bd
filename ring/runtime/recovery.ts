/**
 * @file What lets a ring go on without a node: watch, council, keeper, store and streams of copies of one member, joined. Views come and go here;
 * training begins and ends with them. All decisions are the machines'.
 */
import { nowMs } from "../../src/runtime/clock.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { StateDigest } from "../../src/nn/held-state.ts";
import { unreachable } from "../../src/types/assert.ts";
import type { NodeTraffic } from "../core/copies.ts";
import { Keeper } from "../core/keeper.ts";
import type { KeeperInput, KeeperOutput } from "../core/keeper-messages.ts";
import { Membership } from "../core/membership.ts";
import type { MembershipInput } from "../core/membership-messages.ts";
import { Quarantine } from "../core/quarantine.ts";
import { StallClock } from "../core/stall.ts";
import { isMember, memberOf, ownedBy, peersOf, type RingView } from "../core/view.ts";
import type { ControlMessage } from "./control-messages.ts";
import { Control } from "./control.ts";
import { CopyStreams } from "./copy-streams.ts";
import { Council } from "./council.ts";
import { Fence } from "./fence.ts";
import { InstallWatch } from "./install-watch.ts";
import { Lookout } from "./lookout.ts";
import { Outside } from "./outside.ts";
import type { RecoveryInit } from "./recovery-init.ts";
import { loadedFrom, Store } from "./store.ts";

const TICK_MS = 50;
/** An edge that breaks between two that live: the view change that a death would bring has come by then. */
const BROKEN_EDGE_MS = 300;
const GOODBYE_MS = 1_000;

export class Recovery {
  readonly #init: RecoveryInit;
  readonly #control: Control;
  readonly #council: Council;
  readonly #keeper: Keeper;
  readonly #store: Store;
  readonly #copies: CopyStreams;
  readonly #fence: Fence;
  readonly #lookout: Lookout;
  readonly #timer: NodeJS.Timeout;
  /** The step that the last session was in. */
  #begun: number | undefined;
  readonly #quarantine = new Quarantine();
  readonly #stall = new StallClock(nowMs());
  readonly #outside = new Outside();
  readonly #installs: InstallWatch;

  constructor(init: RecoveryInit) {
    const { job, settings, self, node, view, transport, events } = init;
    this.#init = init;
    this.#keeper = new Keeper(node, init.state.reported);
    this.#store = new Store({
      ...{ node: () => this.#council.membership.node, settings, engine: init.engine, pace: init.pace },
      ...{ files: init.files, segments: init.segments, failed: events.failed, worked: events.worked },
      tell: (input) => this.#keep(input),
    });
    const membership = new Membership({
      ...{ self, node, view, isMember: init.isMember, replicas: settings.replicas },
      vote: init.state.voteFor(view.view),
      holdings: (of) => this.#keeper.evidence(of),
    });
    this.#control = new Control({
      ...{ job, self, transport, inbox: init.control, invite: init.invite },
      addressesOf: (peerId) => peersOf(this.#view).find((peer) => peer.peerId === peerId)?.addresses,
      receive: (peerId, boot, message) => this.#receive(peerId, boot, message),
      closed: (peerId, boot, isOrderly) => this.#closed(peerId, boot, isOrderly),
      dialled: (peerId, outcome) => this.#outside.dialled(peerId, outcome, nowMs()),
      failed: events.failed,
    });
    this.#council = new Council({
      ...{ peerId: self.peerId, membership, state: init.state, control: this.#control },
      events: {
        seal: () => this.#seal(),
        install: (next) => this.#install(next),
        outside: (next) => this.#install(next),
        start: (next) => this.#start(next),
        lost: events.lost,
        notDurable: (reason) => events.note("voteNotDurable", { reason }),
        failed: events.failed,
      },
    });
    this.#copies = new CopyStreams({
      ...{ job, settings, transport, inbox: init.replicas, store: this.#store },
      mayReceive: (owner, step) => this.#keeper.mayReceive(owner, step),
      arrived: () => this.#installs.arrived(),
      ended: (of, other) => this.edgeBroken(of, other),
      tell: (input) => this.#keep(input),
    });
    this.#fence = new Fence({
      node: () => this.node,
      voters: () => this.#view.voters,
      ask: (voter, sleep) => this.send({ say: "confirm", view: this.#view.view, sleep }, voter),
      shut: (sleptMs) => events.note("overslept", { sleptMs }),
    });
    this.#lookout = new Lookout({
      ...{ control: this.#control, note: events.note },
      suspicions: (held) => {
        // 1. All have the summary and go. 2. Who goes last would wish for a view without the others, and wait for a majority that is gone.
        if (!events.isOver()) this.#council.handle({ kind: "suspicions", ...held });
      },
      overslept: (sleptMs) => {
        this.#fence.overslept(sleptMs);
        this.#installs.overslept();
      },
    });
    this.#installs = new InstallWatch({
      tell: (of, progress) => this.send({ say: "installing", view: of, progress }),
      still: (forMs) => {
        events.note("still", { view: this.#view.view, forMs, ready: this.#council.membership.describe().ready });
        this.wish({ kind: "still" });
      },
    });
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    if (init.isMember) this.#install(view);
  }

  get #view(): RingView {
    return this.#council.membership.view;
  }

  get view(): RingView {
    return this.#view;
  }

  get node(): number {
    return this.#council.membership.node;
  }

  /** Members but this node that are not known to be dead. */
  get others(): readonly number[] {
    const dead = this.#lookout.suspected;
    return this.#view.members.map(({ node }) => node).filter((node) => node !== this.node && !dead.includes(node));
  }

  get compute(): ComputeThread {
    return this.#store.compute;
  }

  describe() {
    const { view } = this;
    const keeper = this.#keeper.describe();
    const isCommitting = keeper.frontier >= view.restoreStep;
    return {
      ...this.#council.membership.describe(),
      keeper,
      /** Ready, and no copy is missing. */
      isWhole: isCommitting && this.#council.membership.describe().phase === "running",
      isFenced: this.#fence.isShut,
      suspected: this.#lookout.suspected,
    };
  }

  /** To one peer, which may be a stranger, or to all other members. */
  send(message: ControlMessage, to?: number): void {
    const peerIds =
      to === undefined ? this.#view.members.map(({ peerId }) => peerId) : [this.#council.peerOf(to) ?? []].flat();
    for (const peerId of peerIds) if (peerId !== this.#init.self.peerId) this.#control.send(peerId, message);
  }

  /** Who is in the ring no more, and answers. Nobody is waited for longer than a dial takes. */
  async callDeparted(): Promise<readonly number[]> {
    const { departed } = this.#view;
    const outcomes = await Promise.all(departed.map(({ peerId }) => this.#control.dial(peerId)));
    return departed.filter((_, index) => outcomes[index] === "answered").map(({ node }) => node);
  }

  /** A machine's input that is not a message. */
  wish(input: Extract<MembershipInput, { kind: "leave" | "recut" | "stalled" | "still" }>): void {
    if (!this.#init.events.isOver()) this.#council.handle(input);
  }

  loss(step: number, loss: number): void {
    this.#keep({ kind: "loss", view: this.#view.view, step, loss });
  }

  updating(view: RingView, step: number): void {
    this.#keep({ kind: "updating", view: view.view, step });
  }

  /** Own layers have a new version: their gradient goes to the copies. */
  updated(view: RingView, step: number, loss: number, states: readonly StateDigest[]): void {
    const segments = ownedBy(view, this.node).map((layers) => loadedFrom(layers, states));
    this.#keep({ kind: "updated", view: view.view, step, segments });
    if (view === this.#view) this.#copies.send(step, loss);
  }

  token(version: number, count: number): void {
    this.#keep({ kind: "token", view: this.#view.view, version, count });
  }

  /** Steps so many were told to a user, and the disk has it. */
  reported(version: number): void {
    this.#keep({ kind: "reported", version });
  }

  /**
   * A stream of tensors or of copies broke. Where its peer is dead, the watch will see it; else the view must open new ones: what was on its way
   * is lost, a gradient for a copy as well.
   */
  edgeBroken(view: RingView, other: number): void {
    this.#lookout.watch?.closed(other);
    setTimeout(() => {
      if (view === this.#view && !this.#council.membership.describe().isSealed) this.wish({ kind: "stalled" });
    }, BROKEN_EDGE_MS).unref();
  }

  /** Undefined where this process may act on what it believes; else resolves when others have confirmed its view. */
  gate(): Promise<void> | undefined {
    return this.#fence.gate();
  }

  get copiesTraffic(): NodeTraffic {
    return this.#copies.traffic;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#lookout.watch?.stop();
    this.#endSession();
    await Promise.all([this.#control.close(GOODBYE_MS), this.#store.close()]);
  }

  #tick(): void {
    this.#fence.tick();
    this.#lookout.watch?.tick();
    this.#council.handle({ kind: "tick", nowMs: nowMs() });
    if (!isMember(this.#view, this.node)) this.#lookOutside();
    const { isTraining, stepMs, steps } = this.#init.events.pace();
    const { phase, isSealed } = this.#council.membership.describe();
    const isInstalling = phase === "installing";
    if ((isInstalling || phase === "ready") && !isSealed) this.#installs.tick(this.node, isInstalling, steps);
    if (!isTraining) return this.#stall.reset(nowMs());
    const afterMs = this.#stall.stalledMs(nowMs(), stepMs);
    if (afterMs === undefined) return;
    this.#init.events.note("stalled", { view: this.#view.view, afterMs });
    this.wish({ kind: "stalled" });
  }

  #lookOutside(): void {
    const { peerId } = this.#init.self;
    for (const silent of this.#outside.unheard(this.#view, peerId, nowMs())) this.#control.renew(silent);
    const error = this.#outside.forsaken(this.#view, peerId, nowMs());
    if (error !== undefined) this.#init.events.failed(error);
  }

  #receive(peerId: string, boot: number, message: ControlMessage): void {
    const node = this.#council.nodeOf(peerId);
    this.#outside.heard(peerId, nowMs());
    const isPresent = memberOf(this.#view, node)?.boot === boot && node !== this.node;
    if (isPresent) this.#lookout.watch?.heard(node);
    else if (node !== this.node) this.#init.events.met(node);
    switch (message.say) {
      case "alive":
        return;
      case "membership":
        if (message.message.kind === "join" && !this.#mayJoin(peerId)) return;
        return this.#council.hear(peerId, message, nowMs());
      case "probe":
        if (message.node === this.node) this.#control.send(peerId, { say: "alive" });
        else if (isPresent && isMember(this.#view, message.node)) this.#lookout.watch?.probe(message.node, node);
        return;
      case "probed":
        if (isPresent) this.#lookout.watch?.probed(message.node, node, message.alive);
        return;
      case "accuse":
        if (isPresent && message.node !== this.node) this.#lookout.watch?.accused(message.node, node);
        return;
      case "installing":
        if (isPresent) this.#installs.heard(node, message.view, message.progress);
        return;
      case "confirm": {
        const { view, sleep } = message;
        const isSame = view === this.#view.view && !this.#council.membership.describe().isSealed;
        if (isSame) this.#control.send(peerId, { say: "confirmed", view, sleep });
        return;
      }
      case "confirmed":
        if (message.view === this.#view.view) this.#fence.confirmed(node, message.sleep);
        return;
      default:
        return this.#init.events.hear(message, { node, isMember: isPresent });
    }
  }

  /** A run that is over takes nobody in: the others may be gone before the view begins. */
  #mayJoin(peerId: string): boolean {
    return !this.#init.events.isOver() && this.#quarantine.refusedUntilMs(peerId, nowMs()) === undefined;
  }

  #closed(peerId: string, boot: number, isOrderly: boolean): void {
    const member = memberOf(this.#view, this.#council.nodeOf(peerId));
    if (member?.boot === boot && !isOrderly) this.#lookout.watch?.closed(member.node);
  }

  #seal(): void {
    this.#keep({ kind: "seal" });
    this.#endSession();
    this.#store.seal();
  }

  /** Nothing of the view is sent or handled any more. */
  #endSession(): void {
    this.#begun = this.#init.events.end() ?? this.#begun;
    this.#copies.close();
    this.#fence.open();
  }

  #install(view: RingView): void {
    this.#endSession();
    for (const { node, cause } of view.removed) {
      const peerId = peersOf(view).find((peer) => peer.node === node)?.peerId;
      if (peerId !== undefined && cause !== "left") this.#quarantine.evicted(peerId, cause, nowMs());
    }
    this.#init.events.viewed(view, (node) => this.#lookout.lastHeardMs(node), this.#begun);
    this.#begun = undefined;
    this.#lookout.begin(view, this.node);
    this.#stall.reset(nowMs());
    this.#installs.begin(view.view);
    void this.#init.events.catchUp(view).then((step) => {
      if (view !== this.#view) return;
      this.#keep({ kind: "caughtUp", step });
      this.#keep({ kind: "install", view, node: this.node });
    });
  }

  #start(view: RingView): void {
    this.#stall.reset(nowMs());
    this.#init.events.note("ready", { view: view.view });
    this.#init.events.begin(view, this.#store.compute);
  }

  #keep(input: KeeperInput): void {
    this.#installs.arrived();
    for (const output of this.#keeper.handle(input)) this.#act(output);
  }

  #act(output: KeeperOutput): void {
    const { events } = this.#init;
    switch (output.kind) {
      case "keep":
        return this.#store.keep(this.#view, output.version, output.layers);
      case "fetch":
        return void this.#copies.fetch(this.#view, output);
      case "load":
        return this.#store.load(this.#view, output.version, output.isOrigin);
      case "fill":
        return this.#store.fill(output.view, output.version, output.layers);
      case "installed":
        return this.#installed();
      case "apply":
        return void this.#store.apply(this.#view.view, output.owner, output.step);
      case "sendApplied":
        return this.#init.replicas.tell(output.to, { version: output.version, digests: output.digests });
      case "sendToken":
        return events.sendToken(output.version, output.count);
      case "frontier":
        return this.#reached(output.version);
      case "committed":
        this.#stall.committed(nowMs());
        return events.committed(output.step, output.loss);
      case "drop":
        return this.#store.drop();
      case "unavailable":
      case "mismatch":
      case "violation":
        events.note(output.kind, { ...output });
        return this.wish({ kind: "stalled" });
    }
    unreachable(output);
  }

  #reached(version: number): void {
    const { view } = this.#view;
    this.#init.events.frontier(version);
    this.#copies.tellFrontier(version);
    if (version === this.#view.restoreStep) this.#init.events.note("whole", { view });
    if (version !== this.#view.restoreStep + 1) return;
    this.#lookout.watch?.warm();
    this.#store.prepare();
    this.#council.handle({ kind: "settled", view });
  }

  /** Own layers are here: copies of them may be made, and copies of others' be fed. */
  #installed(): void {
    this.#copies.open(this.#view, this.node);
    this.#council.handle({ kind: "installed", view: this.#view.view });
  }
}
