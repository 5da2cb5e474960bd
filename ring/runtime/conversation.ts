/**
 * @file What a node tells the others about the run and hears from them, to the last word: shards, reports, losses, the wish to stop, the failure
 * that ends it. Without replicas it goes once round the ring; with them, straight to all, and what got lost is asked for.
 */
import type { Recorder } from "../../src/metrics/recorder.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { defined } from "../../src/types/assert.ts";
import type { Neighbour } from "../core/moves.ts";
import type { Candidate } from "../core/formation.ts";
import { isLastWriter, isMember, memberOf, type RingView } from "../core/view.ts";
import { Bulletin } from "./bulletin.ts";
import { NEWS_NAMES_MAX, type ControlMessage } from "./control-messages.ts";
import { neighboursOf } from "./edges.ts";
import { failureError, type NodeFailure } from "./failure.ts";
import { Finish, type RunOutcome } from "./finish.ts";
import type { History } from "./history.ts";
import type { Announcement, AnnouncementBody, Job } from "./messages.ts";
import { FORSAKEN_MS, forsakenError } from "./outside.ts";
import type { Recovery } from "./recovery.ts";
import type { Speaker } from "./recovery-init.ts";
import type { ReportSource } from "./report.ts";
import type { Session } from "./session.ts";
import type { Tally } from "./tally.ts";

/** How long the last word to the others may take when a run fails. */
const FAREWELL_LIMIT_MS = 1_000;
/** What has not come from one look to the next is asked for. */
const NEWS_LOOK_MS = 500;

export interface ConversationInit {
  readonly job: Job;
  readonly self: Candidate;
  /** Id: kind and probe digest. */
  readonly engine: string;
  readonly folder: RunFolder;
  readonly recorder: Recorder;
  readonly history: History;
  readonly tally: Tally;
  /** How well a stated link was kept. */
  readonly lateness: Lateness | null;
  readonly onNotDurable: (step: number, reason: string) => void;
  /** As it is at the moment. */
  readonly present: () => {
    readonly node: number;
    readonly session: Session | undefined;
    readonly recovery: Recovery | undefined;
  };
  /** Another node's user wants the run to end. */
  readonly stop: () => void;
}

export class Conversation {
  /** How the run ends for this node. Rejects with the failure that ended it. */
  readonly outcome: Promise<RunOutcome>;
  readonly #outcome = Promise.withResolvers<RunOutcome>();
  readonly #init: ConversationInit;
  readonly #finish: Finish;
  #view: RingView;
  #bulletin: Bulletin;
  readonly #newsTimer: NodeJS.Timeout;
  /** Of the last look. */
  #lacked: readonly string[] = [];
  /** The view in which this node has reported. */
  #reportedIn: number | undefined;
  /** This node ends as others did: what it knew at the last look, and since when. */
  #conclusion: { readonly known: string; readonly sinceMs: number } | undefined;
  #hasFailed = false;
  #hasEnded = false;

  constructor(init: ConversationInit, view: RingView) {
    this.#init = init;
    this.#view = view;
    this.#bulletin = this.#newBulletin();
    this.outcome = this.#outcome.promise;
    // Whoever awaits it sees the failure; until then it must not count as unhandled.
    this.outcome.catch(() => {});
    this.#finish = new Finish({
      tell: (message, to) => init.present().recovery?.send(message, to),
      // Those who have ended the run wait for each other, not for one whom they told how.
      others: () => (isMember(this.#view, init.present().node) ? (init.present().recovery?.others ?? []) : []),
      callDeparted: () => init.present().recovery?.callDeparted() ?? Promise.resolve([]),
      finished: (outcome) => this.end(outcome),
    });
    this.#newsTimer = setInterval(() => this.#lookForNews(), NEWS_LOOK_MS).unref();
  }

  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** This node knows how the run has ended, or is about to: no view changes it any more. */
  get isOver(): boolean {
    return this.#bulletin.isComplete || this.#conclusion !== undefined;
  }

  /** One outside the ring is there. */
  met(node: number): void {
    this.#finish.met(node);
  }

  /** Another view: its members' reports are due. */
  viewed(view: RingView): void {
    if (this.isOver) return this.#finish.viewed();
    this.#view = view;
    this.#bulletin = this.#newBulletin();
    this.#finish.reset();
  }

  #newBulletin(): Bulletin {
    const { job, engine, folder, recorder, onNotDurable } = this.#init;
    return new Bulletin({
      ...{ job, view: this.#view, folder, engine, recorder, onNotDurable },
      isWriter: () => recorder.isWriter,
    });
  }

  /** After how many steps all who hold layers have ended. */
  get completedSteps(): Promise<number> {
    return this.#bulletin.completedSteps;
  }

  /** Resolves when what is due is on the disk, or has failed to be. */
  get written(): Promise<void> {
    return this.#bulletin.written;
  }

  /** To this node and all others. What was under way in a view that is over is no news of the next one, which may have cut the layers anew. */
  announce(body: AnnouncementBody, view = this.#view): void {
    if (view.view !== this.#view.view) return;
    const { node, session, recovery } = this.#init.present();
    this.#bulletin.post(body);
    if (recovery === undefined) session?.send("successor", { origin: node, body });
    else recovery.send({ say: "announce", view: this.#view.view, body });
  }

  /** What this node says of itself in the end; when all have, the run is over for it. */
  async report(completedSteps: number, source: ReportSource): Promise<void> {
    if (this.isOver) return;
    const view = this.#view;
    this.#reportedIn = view.view;
    const { tally, lateness: link, history, present } = this.#init;
    const { node, session, recovery } = present();
    const copies = recovery?.copiesTraffic ?? { sent: 0, received: 0 };
    const report = tally.report(source, defined(memberOf(view, node), "a member"), { session, copies, link });
    this.announce({ kind: "report", completedSteps, report, recoveries: history.recoveries });
    const summary = await this.#bulletin.summary;
    if (view !== this.#view) return;
    const outcome = { completedSteps, summary };
    if (recovery !== undefined) return this.#finish.complete(view, outcome);
    await session?.close();
    this.end(outcome);
  }

  end(outcome: RunOutcome): void {
    clearInterval(this.#newsTimer);
    this.#hasEnded = true;
    this.#outcome.resolve(outcome);
  }

  /** On an edge. */
  hear(announcement: Announcement, from: Neighbour): void {
    const { body, origin } = announcement;
    const { node, session } = this.#init.present();
    if (body.kind === "failure") {
      const onward = from === "predecessor" ? "successor" : "predecessor";
      return this.fail({ kind: "announced", failure: body.failure }, [onward]);
    }
    this.#bulletin.post(body);
    if (neighboursOf(this.#view, node).successor !== origin) session?.send("successor", announcement);
  }

  /** On a control stream. */
  hearControl(message: ControlMessage, { node: from, isMember: isMemberOfRing }: Speaker): void {
    const { history, stop, present } = this.#init;
    const { recovery } = present();
    const isOfView = "view" in message && message.view === this.#view.view;
    // Members have a say in the run; how it ended, and what there was, those tell who know it.
    const isTrusted = isMemberOfRing || this.#conclusion !== undefined;
    switch (message.say) {
      case "announce":
        if (message.body.kind !== "failure")
          return isTrusted && isOfView ? this.#bulletin.post(message.body) : undefined;
        return isMemberOfRing ? this.fail({ kind: "announced", failure: message.body.failure }, []) : undefined;
      case "stop":
        return isMemberOfRing ? stop() : undefined;
      case "complete":
        return isOfView ? this.#finish.heard(from) : undefined;
      case "ended":
        this.#finish.heard(from);
        return this.#hearEnded(message.last, message.completedSteps);
      case "askLosses":
        return recovery?.send({ say: "losses", ...history.lossesFrom(message.from) }, from);
      case "losses":
        return isTrusted ? history.heardLosses(message.from, message.losses) : undefined;
      case "askNews": {
        if (!isOfView) return;
        if (message.names.some((name) => name.startsWith("report "))) this.#bulletin.ending();
        for (const body of this.#bulletin.find(message.names)) {
          recovery?.send({ say: "announce", view: message.view, body }, from);
        }
        return;
      }
      default:
        return;
    }
  }

  /** All members of `last` have reported. Who has reported in it lacks a word at most; who was not in it, or is beyond it, ends as they did. */
  #hearEnded(last: RingView, completedSteps: number): void {
    if (this.isOver || this.#hasFailed) return;
    if (this.#reportedIn === last.view && this.#view.view === last.view) return this.#bulletin.ending();
    this.#conclusion = { known: "", sinceMs: nowMs() };
    this.#conclude(last, completedSteps).catch((error: unknown) => this.#thrown(error));
  }

  /** First the losses, then everybody's report: the summary is made of both, by each node for itself. */
  async #conclude(last: RingView, completedSteps: number): Promise<void> {
    const { history, recorder, self } = this.#init;
    await history.askUntil(
      completedSteps,
      (from) => this.askLosses(last, from),
      () => this.#hasFailed,
    );
    if (this.#hasFailed) return;
    if (isLastWriter(last, self)) recorder.write(true);
    this.#view = last;
    this.#bulletin = this.#newBulletin();
    this.#bulletin.ending();
    const summary = await this.#bulletin.summary;
    this.#finish.complete(last, { completedSteps, summary });
  }

  #lookForNews(): void {
    const { lacking } = this.#bulletin;
    const isConcluding = this.#conclusion !== undefined && !this.#bulletin.isComplete;
    const names = isConcluding ? lacking : lacking.filter((name) => this.#lacked.includes(name));
    this.#lacked = lacking;
    const view = this.#view.view;
    if (names.length > 0) {
      this.#init.present().recovery?.send({ say: "askNews", view, names: names.slice(0, NEWS_NAMES_MAX) });
    }
    if (isConcluding) this.#lookForProgress();
  }

  /** Who told of the end may be gone before it has told all. */
  #lookForProgress(): void {
    const known = `${this.#init.recorder.steps} ${this.#bulletin.lacking.length}`;
    if (this.#conclusion?.known !== known) this.#conclusion = { known, sinceMs: nowMs() };
    else if (nowMs() - this.#conclusion.sinceMs >= FORSAKEN_MS) this.#thrown(forsakenError());
  }

  #thrown(error: unknown): void {
    this.fail({ kind: "thrown", node: this.#init.present().node, error });
  }

  askLosses(view: RingView, from: number): void {
    const { node, recovery } = this.#init.present();
    const others = view.members.filter((member) => member.node !== node);
    for (const other of others) recovery?.send({ say: "askLosses", from }, other.node);
  }

  /**
   * The first failure counts: the others are told, and the run ends with it. After the summary there is nothing left to lose; what goes wrong in
   * one that has left is not the others' end.
   */
  fail(failure: NodeFailure, tell: readonly Neighbour[] = ["predecessor", "successor"]): void {
    if (this.#hasFailed || this.#hasEnded || this.#bulletin.isComplete) return;
    this.#hasFailed = true;
    clearInterval(this.#newsTimer);
    const { folder, recorder, present } = this.#init;
    const { node, session, recovery } = present();
    const { body, error } = failureError(failure, folder, this.#view);
    recorder.event("failed", nowMs(), { ...body.failure });
    for (const to of tell) session?.send(to, { origin: node, body });
    if (tell.length > 0) recovery?.send({ say: "announce", view: this.#view.view, body });
    void this.#farewell().then(() => this.#outcome.reject(error));
  }

  /** What is said last leaves first. */
  async #farewell(): Promise<void> {
    const { session, recovery } = this.#init.present();
    session?.driver.stop();
    const limit = new Promise((resolve) => setTimeout(resolve, FAREWELL_LIMIT_MS).unref());
    await Promise.race([session?.close() ?? recovery?.close(), limit]);
  }
}
