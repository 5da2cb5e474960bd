/** @file One process's place in the group: it comes to the manager, gets the job, tells its report or its failure, hears how others fail. */
import { BUILD } from "../../src/config/fingerprint.ts";
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import {
  GROUP_PROTOCOL,
  type MemberReport,
  type Order,
  orderSchema,
  type PsJob,
  type PsRole,
  type PsView,
} from "./messages.ts";
import { openTalk, tell } from "./talk.ts";
import { failureOf, toldError } from "./told-error.ts";

export class Member {
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

  private constructor(role: PsRole, joins: boolean) {
    this.#role = role;
    this.joins = joins;
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
    const member = new Member(role, joins);
    const { peerId, addresses } = transport;
    const hello = { build: BUILD, role, peerId, addresses: addresses.slice(0, 16), engines, joins };
    const listener = { schema: orderSchema, from: "the server manager", hear: (order: Order) => member.#hear(order) };
    const link = await openTalk(transport, manager, GROUP_PROTOCOL, hello, listener);
    member.#link = link;
    void link.ended.then(({ kind }) => {
      if (kind === "goodbye" && member.#isDone) return;
      member.#fail(new NodeLostError(`the server manager is gone (${kind})`, "see its log; start the run again"));
    });
    return member;
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
    tell(this.#link, { kind: "report", report });
  }

  /** This process cannot go on: the run ends for all. */
  fail(error: unknown): void {
    tell(this.#link, { kind: "failed", ...failureOf(error) });
  }

  /** Until the manager has heard from everybody. */
  async over(): Promise<void> {
    await this.#link?.ended;
  }

  async close(): Promise<void> {
    await this.#link?.close(GOODBYE_LIMIT_MS);
  }

  #hear(order: Order): void {
    switch (order.kind) {
      case "job":
        this.#role = order.role;
        this.#view = order.view ?? undefined;
        return this.#job.resolve(order.job);
      case "begin":
        return this.#begin.resolve();
      case "finish":
        return this.#finish.resolve();
      case "ping":
        return tell(this.#link, { kind: "pong" });
      case "view":
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
