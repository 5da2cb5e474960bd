/**
 * @file One process's place in the group: it comes to the manager, gets the job, tells its report or its failure, hears how others fail. Where the
 * manager is gone, or stands still, it goes to the one that takes its place, and says again what may have been lost.
 */
import { BUILD } from "../../src/config/fingerprint.ts";
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import {
  GROUP_PROTOCOL,
  type MemberReport,
  type Order,
  orderSchema,
  type PsJob,
  type PsRole,
  type PsView,
  REPLACED,
} from "./messages.ts";
import { openTalk, tell } from "./talk.ts";
import { failureOf, toldError } from "./told-error.ts";

/** How long nobody may be the manager, and how often it is asked for. */
const ABSENT_LIMIT_MS = 20_000;
const RETRY_MS = 100;
/** Longer than a manager stands still that has too little of the machine. */
const SILENCE_LIMIT_MS = 3_000;
const LOOK_MS = 500;

type Hello = Parameters<typeof openTalk>[3];

export class Member {
  /** Called when the manager is gone, before anybody else is gone to. */
  onManagerGone: () => void = () => {};
  readonly #job = Promise.withResolvers<PsJob>();
  readonly #begin = Promise.withResolvers<void>();
  readonly #finish = Promise.withResolvers<void>();
  readonly #failed = Promise.withResolvers<never>();
  readonly #free = Promise.withResolvers<void>();
  #view: PsView | undefined;
  #onView: ((view: PsView) => void) | undefined;
  /** It has come to a run that trains. */
  readonly joins: boolean;
  #role: PsRole;
  #link: Link | undefined;
  #isDone = false;
  readonly #transport: Transport;
  readonly #hello: Hello;
  #knownJob: PsJob | undefined;
  #hasReturned = false;
  readonly #over = Promise.withResolvers<void>();
  #report: MemberReport | null = null;
  /** By shard: in which epoch its copy has come. */
  readonly #copied = new Map<number, number>();
  #heardMs = nowMs();
  #watch: NodeJS.Timeout | undefined;

  private constructor(role: PsRole, joins: boolean, transport: Transport, hello: Hello) {
    this.#role = role;
    this.joins = joins;
    this.#transport = transport;
    this.#hello = hello;
    for (const { promise } of [this.#job, this.#begin, this.#finish, this.#failed]) promise.catch(() => {});
  }

  /** Throws NetworkError where the manager cannot be reached, or refuses. */
  static async join(
    transport: Transport,
    manager: readonly string[],
    role: PsRole,
    engines: readonly string[],
    joins = false,
  ): Promise<Member> {
    const { peerId, addresses } = transport;
    const hello = { build: BUILD, role, peerId, addresses: addresses.slice(0, 16), engines, joins, returns: false };
    const member = new Member(role, joins, transport, hello);
    await member.#connect(manager, hello);
    return member;
  }

  async #connect(addresses: readonly string[], hello: Hello): Promise<void> {
    const listener = { schema: orderSchema, from: "the server manager", hear: (order: Order) => this.#hear(order) };
    const link = await openTalk(this.#transport, addresses, GROUP_PROTOCOL, hello, listener);
    this.#link = link;
    this.#heardMs = nowMs();
    void link.ended.then(({ kind }) => {
      if (kind === "goodbye" && this.#isDone) return this.#over.resolve();
      void this.#lost(kind);
    });
  }

  /** To the standby, which takes the manager's place a moment later. */
  async #lost(how: string): Promise<void> {
    const job = this.#knownJob;
    const isSurvived = job !== undefined && job.settings.serverReplicas > 0 && how !== "goodbye" && !this.#hasReturned;
    clearInterval(this.#watch);
    if (!isSurvived) {
      return this.#fail(new NodeLostError(`the server manager is gone (${how})`, "see its log; start the run again"));
    }
    this.#hasReturned = true;
    this.#link = undefined;
    this.onManagerGone();
    const addresses = this.addressesOf(job, { kind: "standby", index: 0 });
    const hello = { ...this.#hello, role: this.#role, joins: false, returns: true };
    for (
      const endMs = nowMs() + ABSENT_LIMIT_MS;
      nowMs() < endMs;
      await new Promise((go) => setTimeout(go, RETRY_MS))
    ) {
      try {
        await this.#connect(addresses, hello);
        const copied = [...this.#copied].map(([shard, epoch]) => ({ shard, epoch }));
        return tell(this.#link, { kind: "returned", view: this.#view ?? null, report: this.#report, copied });
      } catch {
        // It is not the manager yet.
      }
    }
    this.#fail(new NodeLostError(`the server manager is gone (${how}), and nobody takes its place`, "see the logs"));
  }

  /** A manager that stands still is gone; not where this process did. */
  #watchManager(): void {
    let lookedMs = nowMs();
    this.#watch = setInterval(() => {
      const now = nowMs();
      if (now - lookedMs > SILENCE_LIMIT_MS / 2) this.#heardMs = now;
      lookedMs = now;
      if (now - this.#heardMs > SILENCE_LIMIT_MS) this.#link?.abort(REPLACED);
    }, LOOK_MS).unref();
  }

  get job(): Promise<PsJob> {
    return this.#job.promise;
  }

  /** Its place, when the job is known. */
  get role(): PsRole {
    return this.#role;
  }

  /** The newest; undefined before the first one that differs from the job. */
  get view(): PsView | undefined {
    return this.#view;
  }

  /** Asks to go, in order. */
  leave(): void {
    tell(this.#link, { kind: "leaves" });
  }

  /** Servers and scheduler can be dialled. */
  get begin(): Promise<void> {
    return this.#begin.promise;
  }

  /** Nobody trains any more. */
  get finish(): Promise<void> {
    return this.#finish.promise;
  }

  /** Rejects when the run has failed elsewhere. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Nothing is with this server any more: it may go. */
  get free(): Promise<void> {
    return this.#free.promise;
  }

  /** Hears of every view from the newest on. */
  onView(hear: (view: PsView) => void): void {
    this.#onView = hear;
    if (this.#view !== undefined) hear(this.#view);
  }

  /** Where another process listens, also one that has come since the job was given. */
  addressesOf({ members }: PsJob, { kind, index }: PsRole): readonly string[] {
    const all = [...members, ...(this.#view?.joined ?? [])];
    return all.find(({ role }) => role.kind === kind && role.index === index)?.addresses ?? [];
  }

  /** A copy of the shard is here. */
  copied(shard: number, epoch: number): void {
    this.#copied.set(shard, epoch);
    tell(this.#link, { kind: "copied", shard, epoch });
  }

  /** This worker computes from now on. */
  working(): void {
    tell(this.#link, { kind: this.joins ? "ready" : "working" });
  }

  /** This process can be dialled. */
  ready(): void {
    tell(this.#link, { kind: "ready" });
  }

  report(report: MemberReport): void {
    this.#isDone = true;
    this.#report = report;
    tell(this.#link, { kind: "report", report });
  }

  /** This process cannot go on: the run ends for all. */
  fail(error: unknown): void {
    tell(this.#link, { kind: "failed", ...failureOf(error) });
  }

  /** Until the manager has heard from everybody. */
  async over(): Promise<void> {
    await this.#over.promise;
  }

  async close(): Promise<void> {
    clearInterval(this.#watch);
    await this.#link?.close(GOODBYE_LIMIT_MS);
  }

  #hear(order: Order): void {
    this.#heardMs = nowMs();
    switch (order.kind) {
      case "job":
        this.#knownJob = order.job;
        this.#role = order.role;
        this.#view = order.view ?? undefined;
        return this.#job.resolve(order.job);
      case "begin":
        return this.#begin.resolve();
      case "finish":
        return this.#finish.resolve();
      case "ping":
        if (this.#watch === undefined) this.#watchManager();
        return tell(this.#link, { kind: "pong" });
      case "view":
        if (order.view.number <= (this.#view?.number ?? 0)) return;
        this.#view = order.view;
        return this.#onView?.(order.view);
      case "free":
        return this.#free.resolve();
      case "failed":
        return this.#fail(toldError(order));
    }
  }

  #fail(error: Error): void {
    for (const each of [this.#job, this.#begin, this.#finish, this.#failed]) each.reject(error);
  }
}
