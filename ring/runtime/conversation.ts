/**
 * @file What a node tells the others about the run and hears from them, to the last word: shards, reports, losses, the wish to stop, the failure
 * that ends it. Without replicas it goes once round the ring; with them, straight to all.
 */
import type { Recorder } from "../../src/metrics/recorder.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { defined } from "../../src/types/assert.ts";
import type { Neighbour } from "../core/moves.ts";
import { memberOf, type RingView } from "../core/view.ts";
import { Bulletin } from "./bulletin.ts";
import type { ControlMessage } from "./control-messages.ts";
import { neighboursOf } from "./edges.ts";
import { failureError, type NodeFailure } from "./failure.ts";
import { Finish, type RunOutcome } from "./finish.ts";
import type { History } from "./history.ts";
import type { Announcement, AnnouncementBody, Job } from "./messages.ts";
import type { Recovery } from "./recovery.ts";
import type { ReportSource } from "./report.ts";
import type { Session } from "./session.ts";
import type { Tally } from "./tally.ts";

/** How long the last word to the others may take when a run fails. */
const FAREWELL_LIMIT_MS = 1_000;

export interface ConversationInit {
  readonly job: Job;
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
  #hasFailed = false;

  constructor(init: ConversationInit, view: RingView) {
    this.#init = init;
    this.#view = view;
    this.#bulletin = this.#newBulletin();
    this.outcome = this.#outcome.promise;
    // Whoever awaits it sees the failure; until then it must not count as unhandled.
    this.outcome.catch(() => {});
    this.#finish = new Finish({
      tell: (message) => init.present().recovery?.send(message),
      others: () => init.present().recovery?.others ?? [],
      finished: (outcome) => this.end(outcome),
    });
  }

  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Another view: its members' reports are due. */
  viewed(view: RingView): void {
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

  /** To this node and all others. */
  announce(body: AnnouncementBody): void {
    const { node, session, recovery } = this.#init.present();
    this.#bulletin.post(body);
    if (recovery === undefined) session?.send("successor", { origin: node, body });
    else recovery.send({ say: "announce", view: this.#view.view, body });
  }

  /** What this node says of itself in the end; when all have, the run is over for it. */
  async report(completedSteps: number, source: ReportSource): Promise<void> {
    const view = this.#view;
    const { tally, lateness: link, history, present } = this.#init;
    const { node, session, recovery } = present();
    const copies = recovery?.copiesTraffic ?? { sent: 0, received: 0 };
    const report = tally.report(source, defined(memberOf(view, node), "a member"), { session, copies, link });
    this.announce({ kind: "report", completedSteps, report, recoveries: history.recoveries });
    const summary = await this.#bulletin.summary;
    if (view !== this.#view) return;
    const outcome = { completedSteps, summary };
    if (recovery !== undefined) return this.#finish.complete(view.view, outcome);
    await session?.close();
    this.end(outcome);
  }

  end(outcome: RunOutcome): void {
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
  hearControl(message: ControlMessage, from: number): void {
    const { history, stop, present } = this.#init;
    const isOfView = "view" in message && message.view === this.#view.view;
    switch (message.say) {
      case "announce":
        if (message.body.kind === "failure") return this.fail({ kind: "announced", failure: message.body.failure }, []);
        if (isOfView) this.#bulletin.post(message.body);
        return;
      case "stop":
        return stop();
      case "complete":
        if (isOfView) this.#finish.heard(from);
        return;
      case "askLosses":
        return present().recovery?.send({ say: "losses", ...history.lossesFrom(message.from) }, from);
      case "losses":
        return history.heardLosses(message.from, message.losses);
      default:
        return;
    }
  }

  askLosses(view: RingView, from: number): void {
    const { node, recovery } = this.#init.present();
    const others = view.members.filter((member) => member.node !== node);
    for (const other of others) recovery?.send({ say: "askLosses", from }, other.node);
  }

  /** The first failure counts: the others are told, and the run ends with it. After the summary there is nothing left to lose. */
  fail(failure: NodeFailure, tell: readonly Neighbour[] = ["predecessor", "successor"]): void {
    if (this.#hasFailed || this.#bulletin.isComplete) return;
    this.#hasFailed = true;
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
