/**
 * @file One node's part in the views of its ring: when it proposes the next one, what it says of the present one, and when training may begin.
 * There is no leader: who first sees that a node is gone proposes, and the voters' majority decides. Suspicions and wishes are only
 * hints to begin; what is decided follows from the evidence of those who answered.
 */
import { unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { Admission } from "./admission.ts";
import {
  Agreement,
  boundValue,
  type AgreementMessage,
  type AgreementOutput,
  type Ballot,
  type Vote,
} from "./agreement.ts";
import type { Candidate } from "./formation.ts";
import { absentFrom, Lack } from "./lack.ts";
import type { MembershipInit, MembershipInput, MembershipMessage, MembershipOutput } from "./membership-messages.ts";
import { nextView, type Wishes } from "./next-view.ts";
import { Readiness } from "./readiness.ts";
import type { Evidence } from "./restore.ts";
import { Turns } from "./turns.ts";
import { isMember, layersHeldBy, peersOf, type RingView } from "./view.ts";

/** What was not answered is said again. */
const REPEAT_MS = 150;
/** How long a member that nobody suspects may take to answer: whether it is slow or gone is the detector's business. */
const ANSWER_MS = 5_000;

type Phase = "outside" | "installing" | "ready" | "running";

export class Membership implements Machine<MembershipInput, MembershipOutput> {
  readonly #init: MembershipInit;
  #node: number;
  #view: RingView;
  #agreement: Agreement<RingView, Evidence>;
  #phase: Phase;
  #readiness: Readiness;
  #suspected: readonly number[] = [];
  #dead: readonly number[] = [];
  #severed: readonly number[] = [];
  readonly #admission = new Admission();
  #leavers = new Set<number>();
  #map: Wishes["map"] = null;
  #isSettled = false;
  #isStalled = false;
  #isLeaving = false;
  #turns = new Turns();
  /** This node's newest ballot that was refused. */
  #overtaken: Ballot = 0;
  #roundMs = 0;
  #lack = new Lack();
  #repeatedMs = 0;
  #nowMs = 0;
  #waitsFor: string | null = null;
  #out: MembershipOutput[] = [];

  constructor(init: MembershipInit) {
    this.#init = init;
    this.#node = init.node;
    this.#view = init.view;
    this.#readiness = new Readiness(init.view.members.map(({ node }) => node));
    this.#phase = init.isMember ? "installing" : "outside";
    this.#agreement = this.#newAgreement(init.vote);
  }

  get view(): RingView {
    return this.#view;
  }

  get node(): number {
    return this.#node;
  }

  /** For people, and for the gate of data frames. */
  describe() {
    const { round } = this.#agreement.state;
    return {
      view: this.#view.view,
      phase: this.#phase,
      isSealed: this.#agreement.isSealed,
      round: round.kind,
      ready: this.#readiness.ready,
      waitsFor: this.#phase === "outside" ? this.#admission.lackText(this.#others) : this.#waitsFor,
    };
  }

  /** The highest version that this node's being in the view allows to be committed; null: none of its business. */
  evidence(): Evidence {
    const held = { ...this.#init.holdings(this.#view), severed: this.#severed };
    if (this.#phase === "outside") return { ...held, bound: null };
    const bound =
      this.#phase === "running" ? Math.max(held.bound ?? 0, this.#view.restoreStep) : this.#view.restoreStep;
    return { ...held, bound };
  }

  handle(input: MembershipInput): readonly MembershipOutput[] {
    this.#out = [];
    if ("nowMs" in input) this.#nowMs = Math.max(this.#nowMs, input.nowMs);
    this.#take(input);
    this.#advance();
    return this.#out;
  }

  #newAgreement(vote: Vote<RingView> | null): Agreement<RingView, Evidence> {
    const peers = peersOf(this.#view).map(({ node }) => node);
    return new Agreement({ self: this.#node, voters: this.#view.voters, peers, vote });
  }

  #take(input: MembershipInput): void {
    switch (input.kind) {
      case "tick":
        return this.#tick();
      case "message":
        return this.#message(input.from, input.view, input.message);
      case "suspicions":
        if (input.dead.some((node) => !this.#dead.includes(node))) this.#lack.died(this.#agreement.state.highest);
        this.#suspected = input.suspected;
        this.#dead = input.dead;
        this.#severed = input.severed;
        return;
      case "installed":
        return this.#installed(input.view);
      case "settled":
        if (input.view === this.#view.view) this.#isSettled = true;
        return;
      case "stalled":
        this.#isStalled = true;
        return;
      case "still":
        return this.#nameStragglers();
      case "leave":
        this.#isLeaving = true;
        return this.#askToLeave();
      case "recut":
        if (input.view === this.#view.view) this.#map = input.map;
        return;
      case "persisted":
      case "notPersisted":
        if (input.view !== this.#view.view) return;
        return this.#act(this.#agreement.handle({ kind: input.kind, id: input.id }));
    }
    unreachable(input);
  }

  /** The one gate: what speaks of another view than this node's reaches no handler. */
  #message(from: number, view: number, message: MembershipMessage): void {
    if (message.kind === "decided") return this.#adopt(message.value);
    if (message.kind === "join") this.#admission.wished(this.#view, view, message, from, this.#nowMs);
    if (view < this.#view.view) return this.#send([from], { kind: "decided", value: this.#view });
    if (view > this.#view.view) return this.#send([from], { kind: "behind" });
    switch (message.kind) {
      case "behind":
        return;
      case "join":
        return this.#send([from], { kind: "heard" });
      case "heard":
        return this.#heard(from);
      case "ready":
        return this.#hearReady(from, message);
      case "unready":
        return this.#readiness.name(from, message.nodes);
      case "leave":
        this.#leavers.add(from);
        return;
      case "prepare":
      case "promise":
      case "refused":
      case "accept":
      case "accepted":
        return this.#hearAgreement(from, message);
    }
    unreachable(message);
  }

  #hearAgreement(from: number, message: AgreementMessage<RingView, Evidence>): void {
    const before = this.#agreement.state.promised;
    this.#act(this.#agreement.handle({ kind: "message", from, message, evidence: this.evidence() }));
    const isAnothers = from !== this.#node && (message.kind === "prepare" || message.kind === "accept");
    // Somebody gets on with it: this node's turn is put off. A round that was overtaken is not this node's any more; that is heard once, since
    // its questions are repeated and refused for as long as there is no newer round. 1. Two nodes overtake each other, and the third is dead.
    // 2. Both repeat, and are refused, more often than their patience lasts. 3. Nobody's turn comes again.
    const isOvertaken = message.kind === "refused" && message.ballot > this.#overtaken;
    if (isOvertaken) this.#overtaken = message.ballot;
    if (isOvertaken || (isAnothers && message.ballot >= before)) this.#turns.putOff(this.#nowMs, this.#rank);
  }

  /** Once nobody's answer is missing the wish is said again at once. */
  #heard(from: number): void {
    const isLast = this.#admission.answered(from) && this.#admission.deaf(this.#others).length === 0;
    if (isLast && this.#phase === "outside" && !this.#isLeaving) this.#askToJoin();
  }

  get #others(): readonly number[] {
    return this.#view.members.map(({ node }) => node).filter((node) => node !== this.#node);
  }

  #hearReady(from: number, { isAnswer, known }: Extract<MembershipMessage, { kind: "ready" }>): void {
    this.#readiness.add([from, ...known]);
    const isHere = this.#phase === "ready" || this.#phase === "running";
    if (!isAnswer && isHere && !this.#agreement.isSealed) this.#send([from], this.#readyWord(true));
  }

  #readyWord(isAnswer: boolean): MembershipMessage {
    return { kind: "ready", isAnswer, known: this.#readiness.ready };
  }

  /** It may be this node itself: then it says so. */
  #nameStragglers(): void {
    if (this.#phase !== "installing" && this.#phase !== "ready") return;
    const nodes = this.#readiness.missing;
    this.#readiness.name(this.#node, nodes);
    this.#send(this.#others, { kind: "unready", nodes });
  }

  #installed(view: number): void {
    if (view !== this.#view.view || this.#phase !== "installing") return;
    this.#phase = "ready";
    this.#readiness.add([this.#node]);
    this.#sayReady();
  }

  #sayReady(): void {
    if (this.#agreement.isSealed) return;
    // Also who has heard all the others: they may wait for this node alone.
    this.#send(this.#others, this.#readyWord(false));
  }

  #askToLeave(): void {
    this.#leavers.add(this.#node);
    this.#send(this.#others, { kind: "leave" });
  }

  #adopt(view: RingView): void {
    if (view.view <= this.#view.view) return;
    this.#view = view;
    const me = view.members.find(
      ({ peerId, boot }) => peerId === this.#init.self.peerId && boot === this.#init.self.boot,
    );
    this.#node = me?.node ?? this.#node;
    this.#agreement = this.#newAgreement(null);
    this.#readiness = new Readiness(view.members.map(({ node }) => node));
    this.#isSettled = false;
    this.#isStalled = false;
    // Of this view's members nothing is known yet: who comes back is another process.
    this.#suspected = this.#severed = [];
    this.#dead = this.#dead.filter((node) => !isMember(view, node));
    this.#map = null;
    this.#turns = new Turns();
    this.#lack = new Lack();
    this.#overtaken = 0;
    this.#waitsFor = null;
    this.#admission.adopt(view);
    this.#send(this.#admission.askers, { kind: "decided", value: view });
    for (const node of this.#leavers) if (!isMember(view, node)) this.#leavers.delete(node);
    this.#out.push({ kind: "persist", view, id: 0, vote: null });
    this.#phase = me === undefined ? "outside" : "installing";
    this.#out.push({ kind: me === undefined ? "outside" : "install", view });
  }

  #tick(): void {
    if (this.#nowMs - this.#repeatedMs < REPEAT_MS) return;
    this.#repeatedMs = this.#nowMs;
    this.#act(this.#agreement.handle({ kind: "repeat" }));
    if (this.#phase === "ready") this.#sayReady();
    if (this.#isLeaving && isMember(this.#view, this.#node)) this.#askToLeave();
    if (this.#phase === "outside" && !this.#isLeaving) this.#askToJoin();
  }

  #askToJoin(): void {
    this.#send(this.#others, { kind: "join", candidate: this.#init.self, heardBy: this.#admission.heardBy });
  }

  /** What may happen now that may not have before. */
  #advance(): void {
    this.#start();
    this.#propose();
    this.#choose();
    this.#tellLost();
  }

  /** Who held these layers is dead, and no vote of anybody brings them back: there is no quorum to wait for. */
  #tellLost(): void {
    const { round } = this.#agreement.state;
    if (round.kind !== "preparing" || !this.#isSettled) return;
    if (!this.#lack.isAllAsked(round.ballot, absentFrom(this.#view, round.promises), this.#dead)) return;
    const layers = layersHeldBy(this.#view, this.#dead);
    if (layers.length > 0) this.#out.push({ kind: "lost", layers });
  }

  #start(): void {
    if (this.#phase !== "ready" || this.#agreement.isSealed) return;
    if (this.#readiness.missing.length > 0) return;
    this.#phase = "running";
    this.#out.push({ kind: "start", view: this.#view });
  }

  /** Members that are suspected, or whose process has come back without its memory. */
  get #gone(): readonly number[] {
    return [...this.#admission.restarted(this.#view), ...this.#suspected.filter((node) => isMember(this.#view, node))];
  }

  get #isChangeDue(): boolean {
    if (this.#agreement.isSealed || this.#isStalled || this.#gone.length > 0) return true;
    if (this.#readiness.stragglers.length > 0) return true;
    if (!this.#isSettled) return false;
    // Where all want to go, nobody could: views would come and go, and no joiner be heard by all.
    const mayLeave = this.#leavers.size > 0 && this.#view.members.some(({ node }) => !this.#leavers.has(node));
    return this.#admissible.length > 0 || mayLeave || this.#map !== null;
  }

  get #admissible(): readonly Candidate[] {
    return this.#admission.admissible(this.#view, this.#gone, this.#nowMs);
  }

  /** Place among the voters that nobody suspects. */
  get #rank(): number {
    const gone = this.#gone;
    return Math.max(0, this.#view.voters.filter((node) => !gone.includes(node)).indexOf(this.#node));
  }

  #propose(): void {
    if (!this.#view.voters.includes(this.#node) || !this.#isChangeDue) return this.#turns.cancel();
    this.#turns.ask(this.#nowMs, this.#rank);
    if (!this.#turns.isDue(this.#nowMs) || this.#isWaitingForAnswers) return;
    this.#turns.begin(this.#nowMs, this.#rank);
    this.#roundMs = this.#nowMs;
    this.#act(this.#agreement.handle({ kind: "propose" }));
  }

  /** A new round would not help: this one is as good, unless what was answered is not enough. */
  get #isWaitingForAnswers(): boolean {
    const { round, highest } = this.#agreement.state;
    const isOpen = round.kind === "preparing" && round.ballot === highest && this.#agreement.hasQuorum;
    return isOpen && !this.#lack.isOf(round.ballot);
  }

  #choose(): void {
    const { round } = this.#agreement.state;
    if (round.kind !== "preparing" || !this.#agreement.hasQuorum) {
      this.#waitsFor = this.#agreement.isSealed ? this.#agreement.lackText : null;
      return;
    }
    const bound = boundValue(round.promises);
    if (bound !== undefined) return this.#act(this.#agreement.handle({ kind: "choose", value: bound }));
    const absent = absentFrom(this.#view, round.promises);
    const gone = this.#gone;
    if (absent.members.some((node) => !gone.includes(node)) && this.#nowMs - this.#roundMs < ANSWER_MS) return;
    const proposal = nextView(this.#view, round.promises, this.#wishes, this.#dead, this.#init.replicas);
    if (proposal.kind === "view") return this.#act(this.#agreement.handle({ kind: "choose", value: proposal.view }));
    this.#waitsFor = proposal.reason;
    const isLost = this.#lack.isFinal(round.ballot, absent, this.#dead, this.#nowMs);
    if (isLost && proposal.missing.length > 0) this.#out.push({ kind: "lost", layers: proposal.missing });
  }

  get #wishes(): Wishes {
    const leavers = [...this.#leavers];
    const { stragglers } = this.#readiness;
    if (!this.#isSettled) return { joiners: [], leavers, stragglers, map: null };
    return { joiners: this.#admissible, leavers, stragglers, map: this.#map };
  }

  #act(outputs: readonly AgreementOutput<RingView, Evidence>[]): void {
    for (const output of outputs) {
      switch (output.kind) {
        case "send":
          this.#send([output.to], output.message);
          break;
        case "persist":
          this.#out.push({ kind: "persist", view: this.#view, id: output.id, vote: output.vote });
          break;
        case "seal":
          this.#out.push({ kind: "seal", view: this.#view.view });
          break;
        case "decided":
          this.#tellDecided(output.value);
          return;
      }
    }
  }

  #tellDecided(value: RingView): void {
    const told = new Set([...peersOf(this.#view), ...peersOf(value)].map(({ node }) => node));
    told.delete(this.#node);
    this.#adopt(value);
    this.#send([...told], { kind: "decided", value });
  }

  #send(to: readonly number[], message: MembershipMessage): void {
    for (const node of to) this.#out.push({ kind: "send", to: node, view: this.#view.view, message });
  }
}
