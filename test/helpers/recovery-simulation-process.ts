/**
 * @file One process of a simulated ring: the product's membership and keeper, and around them what a runtime does, in its order. What an
 * output brings about is handled after the whole list of outputs, so that nothing overtakes what was said before it.
 */
import type { Vote } from "../../ring/core/agreement.ts";
import { Keeper } from "../../ring/core/keeper.ts";
import type { KeeperInput, KeeperOutput } from "../../ring/core/keeper-messages.ts";
import type { MembershipInput, MembershipMessage, MembershipOutput } from "../../ring/core/membership-messages.ts";
import { Membership } from "../../ring/core/membership.ts";
import type { Claims } from "../../ring/core/restore.ts";
import { isMember, ownedBy, peersOf, replicasAt, type HeldSegment, type RingView } from "../../ring/core/view.ts";
import { writeVote } from "./recovery-simulation-disk.ts";
import { digestOf, Memory } from "./recovery-simulation-model.ts";
import { Session, type Frame } from "./recovery-simulation-session.ts";
import { Fetching, type Packet } from "./recovery-simulation-fetches.ts";
import { User } from "./recovery-simulation-user.ts";
import { Watch } from "./recovery-simulation-watch.ts";
import type { RecoverySimulation } from "./recovery-simulation.ts";
import type { SimulatedPeer } from "./recovery-simulation-peer.ts";

/** No commit for so long: the view is changed. */
const STALL_MS = 3_000;
/** A peer that no view of the receiver names is spoken to by this plus its place among all. */
export const STRANGERS = 900;

/** What changes what a keeper may claim. */
const CLAIMING = new Set<KeeperInput["kind"]>([
  "install",
  "kept",
  "fetched",
  "loaded",
  "updated",
  "gradient",
  "followed",
]);

export class RecoveryProcess {
  readonly world: RecoverySimulation;
  readonly peer: SimulatedPeer;
  readonly boot: number;
  readonly memory = new Memory();
  readonly membership: Membership;
  readonly fetching: Fetching;
  keeper: Keeper | undefined;
  session: Session | undefined;
  watch: Watch | undefined;
  isDead = false;
  isLeaving = false;
  /** A record that is being renamed: if the process dies now, it may be there. */
  inRename: (() => void) | undefined;
  isOutside: boolean;
  /** What it sent later than this was still in its buffers when it died. */
  lostAfterMs = Infinity;
  /** What waits while it is paused. */
  backlog: (() => void)[] | undefined;
  /** The newest view that is over here. */
  sealedView = -1;
  #todo: (() => void)[] = [];
  #early: { readonly from: number; readonly frame: Frame }[] = [];
  #outbox: { readonly to: number; readonly frame: Frame }[] = [];
  readonly #gradients = new Map<number, ReadonlyMap<number, number>>();
  #computeFreeMs = 0;
  #progressMs = 0;
  #isSettled = false;
  readonly #user: User;

  constructor(
    world: RecoverySimulation,
    peer: SimulatedPeer,
    init: { readonly view: RingView; readonly vote: Vote<RingView> | null; readonly isMember: boolean },
  ) {
    this.world = world;
    this.peer = peer;
    this.boot = peer.boots;
    this.isOutside = !init.isMember;
    const node = peersOf(init.view).find(({ peerId }) => peerId === peer.peerId)?.node ?? STRANGERS + peer.index;
    const holdings = (view: RingView): Claims =>
      this.keeper?.evidence(view) ?? { bound: null, committed: peer.disk.reported, losses: [], held: [] };
    const replicas = world.scenario.replicas;
    this.membership = new Membership({ ...init, self: peer.candidate, node, replicas, holdings });
    if (node < STRANGERS) this.keeper = new Keeper(node, peer.disk.reported);
    this.fetching = new Fetching(this);
    this.#user = new User(this);
  }

  get node(): number {
    return this.membership.node;
  }

  get view(): RingView {
    return this.membership.view;
  }

  /** A founding member: everybody has the first view. */
  begin(): void {
    this.#enter(this.view);
    this.drain();
  }

  later(delayMs: number, action: () => void): void {
    this.world.later(this, delayMs, action);
  }

  /** What follows from what has happened, until nothing does. */
  drain(): void {
    for (let next = this.#todo.shift(); next !== undefined; next = this.#todo.shift()) next();
  }

  toMembership(input: MembershipInput): void {
    this.#todo.push(() => {
      for (const output of this.membership.handle(input)) this.#actOnMembership(output);
    });
  }

  toKeeper(input: KeeperInput): void {
    this.#todo.push(() => {
      for (const output of this.keeper?.handle(input) ?? []) this.#actOnKeeper(output);
      if (CLAIMING.has(input.kind)) this.world.checker.claims(this);
    });
  }

  tick(): void {
    this.watch?.tick();
    this.toMembership({ kind: "tick", nowMs: this.world.nowMs });
    if (!this.isOutside && this.world.nowMs - this.#progressMs > STALL_MS) this.#stalled();
  }

  #stalled(): void {
    this.#progressMs = this.world.nowMs;
    this.toMembership({ kind: "stalled" });
  }

  hear(from: SimulatedPeer, packet: Packet): void {
    const number = peersOf(this.view).find(({ peerId }) => peerId === from.peerId)?.node ?? STRANGERS + from.index;
    if (packet.kind === "membership") {
      const { view, message } = packet;
      this.toMembership({ kind: "message", from: number, view, message, nowMs: this.world.nowMs });
    } else this.fetching.hear(from, number, packet);
  }

  /** The gate of data frames: what is not of the view that trains here waits for its begin, or is refused. */
  hearFrame(from: number, frame: Frame): void {
    if (frame.view !== this.view.view || this.isOutside || this.sealedView >= frame.view) return;
    if (this.session === undefined) {
      this.#early.push({ from, frame });
      return;
    }
    this.world.checker.handled(this, frame.view);
    switch (frame.kind) {
      case "forward":
      case "backward":
        return this.session.hear(frame);
      case "gradient":
        if (this.keeper!.mayReceive(frame.owner, frame.step)) this.#gradients.set(frame.owner, frame.gradients);
        return this.toKeeper(frame);
      case "applied":
        return this.toKeeper({ ...frame, from });
      case "token":
      case "frontier":
        return this.toKeeper(frame);
    }
  }

  /** Once the session has begun here; before that the streams are not open. */
  sendFrame(to: number, frame: Frame): void {
    if (this.session === undefined) this.#outbox.push({ to, frame });
    else this.world.network.sendFrame(this, to, frame);
  }

  /** One operation after the other, on the compute thread; one that has begun cannot be stopped. */
  compute(delayMs: number, begin: () => boolean, end: () => void): void {
    const startMs = Math.max(this.world.nowMs, this.#computeFreeMs);
    this.#computeFreeMs = startMs + delayMs;
    let hasBegun = false;
    this.later(startMs - this.world.nowMs, () => {
      hasBegun = begin();
    });
    this.later(startMs + delayMs - this.world.nowMs, () => {
      if (hasBegun) end();
    });
  }

  #actOnMembership(output: MembershipOutput): void {
    switch (output.kind) {
      case "send":
        this.#sendMembership(output.to, output.view, output.message);
        return;
      case "persist": {
        const { view, vote, id } = output;
        if (vote !== null) this.world.checker.promised(this, view.view);
        const point = vote === null ? "view" : vote.accepted?.ballot === vote.promised ? "accept" : "promise";
        writeVote(this, point, { view, vote }, (isDurable) =>
          this.toMembership({ kind: isDurable ? "persisted" : "notPersisted", view: view.view, id }),
        );
        return;
      }
      case "seal":
        return this.#endSession(output.view);
      case "install":
        this.world.checker.decided(this, output.view);
        this.keeper ??= new Keeper(this.node, this.peer.disk.reported);
        return this.#enter(output.view);
      case "outside":
        this.isOutside = true;
        this.world.checker.decided(this, output.view);
        this.watch = undefined;
        this.#user.away();
        if (this.isLeaving) this.world.faults.left(this);
        this.toMembership({ kind: "suspicions", suspected: [], dead: [], severed: [] });
        this.#endSession(output.view.view - 1);
        // What it has of the restored version, members may still fetch.
        return this.toKeeper({ kind: "install", view: output.view, node: this.node });
      case "start":
        return this.#start(output.view);
      case "lost":
        return this.world.faults.lost(this, output.layers);
    }
  }

  #sendMembership(to: number, view: number, message: MembershipMessage): void {
    if (message.kind === "prepare") this.world.faults.reached(this, "prepared");
    if (message.kind === "decided") this.world.faults.reached(this, "decided");
    if (message.kind === "accept") this.world.faults.reached(this, "acceptSent");
    this.world.checker.said(this, view, message);
    this.world.network.send(this, to, { kind: "membership", view, message });
  }

  #endSession(view: number): void {
    this.sealedView = Math.max(this.sealedView, view);
    this.session?.end();
    this.session = undefined;
    this.#outbox = [];
    this.toKeeper({ kind: "seal" });
  }

  #enter(view: RingView): void {
    this.#endSession(view.view - 1);
    this.isOutside = false;
    this.#early = [];
    this.#isSettled = false;
    this.#progressMs = this.world.nowMs;
    this.world.checker.entered(this, view);
    this.watch = new Watch(this, view);
    this.toMembership({ kind: "suspicions", suspected: [], dead: [], severed: [] });
    this.toKeeper({ kind: "install", view, node: this.node });
    // Steps before those that the view knows of were told by others.
    this.toKeeper({ kind: "caughtUp", step: view.losses[0]?.step ?? view.restoreStep });
  }

  #start(view: RingView): void {
    this.world.checker.started(this, view);
    this.world.faults.reached(this, "started");
    this.session = new Session(this, view);
    for (const { to, frame } of this.#outbox.splice(0)) this.sendFrame(to, frame);
    for (const { from, frame } of this.#early.splice(0)) this.hearFrame(from, frame);
    this.#todo.push(() => this.session?.begin());
  }

  #actOnKeeper(output: KeeperOutput): void {
    const { view } = this;
    switch (output.kind) {
      case "keep":
      case "load":
      case "fill":
        return this.#install(output);
      case "fetch":
        return this.fetching.begin(output);
      case "installed":
        this.world.checker.installed(this, view);
        return this.toMembership({ kind: "installed", view: output.view });
      case "unavailable":
        return this.#stalled();
      case "mismatch":
        this.world.noteMismatch();
        return this.#stalled();
      case "apply":
        return this.#apply(output.owner, output.step);
      case "sendApplied": {
        const { to, version, digests } = output;
        return this.sendFrame(to, { kind: "applied", view: view.view, version, digests });
      }
      case "sendToken": {
        const next = view.owners[(view.owners.indexOf(this.node) + 1) % view.owners.length]!;
        this.world.faults.reached(this, "tokenSent");
        return this.sendFrame(next, { ...output, kind: "token", view: view.view });
      }
      case "frontier":
        return this.#reach(output.version);
      case "committed":
        this.world.faults.reached(this, "committed");
        this.world.checker.committed(this, output.step, output.loss);
        return this.#user.committed(output.step, output.loss);
      case "drop":
        this.world.checker.dropping(this);
        this.memory.vault = undefined;
        return;
      case "violation":
        // A stream that was made anew may bring a gradient twice.
        if (this.world.scenario.duplicatePermille === 0) this.world.checker.violation(this, output.reason);
        return;
    }
  }

  #reach(version: number): void {
    const { view } = this;
    this.#progressMs = this.world.nowMs;
    this.world.checker.frontier(this, version);
    if (version > view.restoreStep && !this.#isSettled) {
      this.#isSettled = true;
      this.world.faults.reached(this, "settled");
      this.toMembership({ kind: "settled", view: view.view });
    }
    if (view.owners[0] === this.node) {
      const spares = view.members.filter(({ node }) => !view.owners.includes(node));
      for (const { node } of spares) this.sendFrame(node, { kind: "frontier", view: view.view, version });
    }
    this.#todo.push(() => this.session?.update());
  }

  /** What brings a view's state here; all on the compute thread. */
  #install(output: Extract<KeeperOutput, { readonly kind: "keep" | "load" | "fill" }>): void {
    const { view, version } = output;
    const current = this.view;
    const { memory, world } = this;
    const begin = (point: "keeping" | "loading" | "filling") => (): boolean => {
      world.faults.reached(this, point);
      return true;
    };
    const load = (segments: readonly HeldSegment["layers"][], isOrigin: boolean): void => {
      for (const layers of segments)
        memory.load(layers, version, (layer) =>
          isOrigin ? world.reference.value(layer, version) : memory.vault!.values.get(layer)!,
        );
      world.checker.holds(this, current, segments, version);
      world.faults.reached(this, output.kind === "load" ? "loaded" : "filled");
      const loaded = segments.map((layers) => ({ layers, digests: memory.digests(layers) }));
      this.toKeeper({ kind: "loaded", view, segments: loaded });
    };
    // What has been overtaken by a newer view is not done any more.
    const ifCurrent = (action: () => void) => (): void => {
      if (this.view.view === view && !this.isOutside) action();
    };
    const own = ownedBy(current, this.node);
    const delayMs = world.delay();
    switch (output.kind) {
      case "keep":
        return this.compute(delayMs, begin("keeping"), () => {
          memory.keep(version, output.layers);
          world.faults.reached(this, "kept");
          const digests = new Map([...memory.vault!.values].map(([layer, value]) => [layer, digestOf(value)]));
          this.toKeeper({ kind: "kept", view, digests });
        });
      case "load": {
        const copies = output.isOrigin ? replicasAt(current, this.node).map(({ layers }) => layers) : [];
        return this.compute(
          delayMs,
          begin("loading"),
          ifCurrent(() => {
            // An update of the view before has ended by now.
            if (output.isOrigin) memory.live.clear();
            load([...own, ...copies], output.isOrigin);
          }),
        );
      }
      case "fill":
        return this.compute(
          delayMs,
          begin("filling"),
          ifCurrent(() => load([output.layers], false)),
        );
    }
  }

  #apply(owner: number, step: number): void {
    const { view } = this;
    const copies = replicasAt(view, this.node).filter((copy) => copy.owner === owner);
    const begin = (): boolean => {
      this.world.faults.reached(this, "applying");
      for (const { layers } of copies) this.memory.beginUpdate(layers);
      return true;
    };
    this.compute(this.world.delay() + this.world.slowness(this), begin, () => {
      for (const { layers } of copies) this.memory.endUpdate(layers, this.#gradients.get(owner)!);
      const ranges = copies.map(({ layers }) => layers);
      this.world.checker.holds(this, view, ranges, step + 1);
      this.world.faults.reached(this, "applied");
      const segments = ranges.map((layers) => ({ layers, digests: this.memory.digests(layers) }));
      this.toKeeper({ kind: "followed", view: view.view, owner, step, segments });
    });
  }

  /** For people. */
  describe(): string {
    const { view } = this;
    const at = this.isDead ? "dead" : this.isOutside ? "outside" : isMember(view, this.node) ? "member" : "?";
    return `${this.peer.peerId}/${this.boot} node ${this.node} ${at} ${JSON.stringify(this.membership.describe())} ${JSON.stringify(this.keeper?.describe() ?? null)}`;
  }
}
