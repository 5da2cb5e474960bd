/**
 * @file The server manager: it knows who takes part, gives everybody the job and the map of keys, and hears how it ended. Each of the others keeps
 * a link to it; one that ends without GOODBYE is a process that is gone, and with it the run.
 */
import type { Settings } from "../../src/config/settings.ts";
import { BUILD } from "../../src/config/fingerprint.ts";
import { GOODBYE_LIMIT_MS, type Link } from "../../src/net/link.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { Transport } from "../../src/net/transport.ts";
import { NodeLostError } from "../../src/types/errors.ts";
import {
  GROUP_PROTOCOL,
  type MemberHello,
  memberHelloSchema,
  type MemberReport,
  type Order,
  type PsJob,
  type PsRole,
  type PsView,
  REPLACED,
  type Returned,
  type Word,
  wordSchema,
} from "./messages.ts";
import { SurvivingGroup } from "./surviving-group.ts";
import { acceptTalk, type Listener, tell } from "./talk.ts";
import { failureOf, toldError } from "./told-error.ts";

export interface ManagerInit {
  readonly job: string;
  readonly settings: Settings;
  readonly dataSha256: string;
  readonly firstStep: number;
  readonly transport: Transport;
  readonly onPresent: (present: number, size: number) => void;
  readonly onJob: (job: PsJob) => void;
  /** A process is gone, and the run goes on without it. */
  readonly onLost: (role: string) => void;
  /** Somebody has come, or goes: a sentence. */
  readonly onChanged: (what: string) => void;
}

interface Member {
  readonly hello: MemberHello;
  link: Link | undefined;
  report: MemberReport | undefined;
  heardMs: number;
  /** It has loaded what it needs, which may take its time: from now on its silence means something. */
  isAtWork: boolean;
}

const PING_INTERVAL_MS = 100;
/** Longer than a process stands still that has too little of the machine. */
const SILENCE_LIMIT_MS = 3_000;
/** How long who takes the manager's place waits for all to come. */
const RETURN_LIMIT_MS = 1_500;
const OVERDUE = "nothing was heard of it for too long: the run goes on without it";

export class Manager {
  readonly #init: ManagerInit;
  readonly #expected: readonly string[];
  readonly #members = new Map<string, Member>();
  #watch: NodeJS.Timeout | undefined;
  #lookedMs = nowMs();
  readonly #ended = Promise.withResolvers<ReadonlyMap<string, MemberReport>>();
  /** Servers, data servers and scheduler that can be dialled. */
  #ready = 0;
  #isFinishing = false;
  #isOver = false;
  #job: PsJob | undefined;
  /** While those are waited for who knew the manager of before. */
  #returned: { readonly views: (PsView | null)[]; readonly copied: { shard: number; epoch: number }[] } | undefined;
  /** Of a run that survives its processes. */
  #group: SurvivingGroup | undefined;

  private constructor(init: ManagerInit) {
    this.#init = init;
    const { servers, nodes, dataServers } = init.settings;
    const roles = (kind: PsRole["kind"], count: number): string[] =>
      Array.from({ length: count }, (_, index) => nameOf({ kind, index }));
    this.#expected = [
      ...roles("worker", nodes),
      ...roles("server", servers),
      ...roles("scheduler", 1),
      ...roles("standby", init.settings.serverReplicas > 0 ? 1 : 0),
      ...roles("data", dataServers),
    ];
    this.#ended.promise.catch(() => {});
  }

  /**
   * Takes the place of a manager that is gone: those who are there come and say what they know.
   * @param view the newest that this process has heard
   */
  static async succeed(init: ManagerInit, job: PsJob, view: PsView | null): Promise<Manager> {
    const manager = new Manager(init);
    manager.#job = job;
    manager.#returned = { views: [view], copied: [] };
    setTimeout(() => manager.#takeUp(), RETURN_LIMIT_MS).unref();
    await init.transport.handle(GROUP_PROTOCOL, (stream) => {
      manager.#accept(stream).catch(() => {});
    });
    return manager;
  }

  static async listen(init: ManagerInit): Promise<Manager> {
    const manager = new Manager(init);
    await init.transport.handle(GROUP_PROTOCOL, (stream) => {
      manager.#accept(stream).catch(() => {});
    });
    return manager;
  }

  /** Reports by role, such as `worker 2`, when all have ended; rejects with the failure that ended the run. */
  get ended(): Promise<ReadonlyMap<string, MemberReport>> {
    return this.#ended.promise;
  }

  /** Says GOODBYE to everybody. */
  async close(): Promise<void> {
    clearInterval(this.#watch);
    const links = [...this.#members.values()].flatMap(({ link }) => link ?? []);
    await Promise.all(links.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  async #accept(stream: Parameters<typeof acceptTalk>[0]): Promise<void> {
    let member: Member | undefined;
    const link = await acceptTalk(stream, (hello) => {
      const parsed = memberHelloSchema.safeParse(hello);
      if (!parsed.success) return "that is no process of a parameter server";
      const name = nameOf(parsed.data.role);
      if (parsed.data.build !== BUILD) return `this is ${BUILD}, not ${parsed.data.build}`;
      if (parsed.data.returns !== (this.#returned !== undefined)) {
        return parsed.data.returns ? "the manager is not gone" : "those who are there are counted: try again";
      }
      if (parsed.data.joins) return this.#join(parsed.data, (joined) => (member = joined));
      const isExpected = parsed.data.returns || this.#expected.includes(name);
      if (!isExpected) return `${name} is not expected`;
      if (this.#members.has(name)) return `${name} is here already`;
      member = { hello: parsed.data, link: undefined, report: undefined, heardMs: nowMs(), isAtWork: false };
      this.#members.set(name, member);
      const own = member;
      return { schema: wordSchema, from: name, hear: (word: Word) => this.#hear(own, word) };
    });
    if (member === undefined || link === undefined) return;
    member.link = link;
    void link.ended.then((end) => {
      if (end.kind === "refused" && end.reason === REPLACED) this.#replaced();
      else if (end.kind !== "goodbye") this.#lost(member!, end.kind);
    });
    if (member.hello.joins) return this.#welcome(member);
    if (member.hello.returns) return;
    const present = [...this.#members.values()].filter((each) => each.link !== undefined).length;
    this.#init.onPresent(present, this.#expected.length);
    if (present === this.#expected.length) this.#begin();
  }

  #hearReturned(member: Member, { view, report, copied }: Returned): void {
    if (this.#returned === undefined) return;
    member.isAtWork = true;
    member.report = report ?? undefined;
    this.#returned.views.push(view);
    this.#returned.copied.push(...copied);
  }

  /** From here on it is as with the manager of before: the newest view holds, and who has not come is gone. */
  #takeUp(): void {
    const { views, copied } = this.#returned!;
    this.#returned = undefined;
    const newest = views.reduce((best, view) => ((view?.number ?? 0) > (best?.number ?? 0) ? view : best));
    this.#survive(newest);
    for (const role of this.#group!.living) {
      const name = nameOf(role);
      if (this.#members.has(name)) continue;
      this.#init.onLost(name);
      if (!this.#group!.lost(role))
        return this.fail(new NodeLostError(`${name} is gone${this.#group!.loss}`, this.#group!.remedy));
    }
    for (const { shard, epoch } of copied) this.#group!.copied(shard, epoch);
    this.#group!.retell();
    this.#reported();
  }

  #survive(view: PsView | null): void {
    const events = {
      tellAll: (order: Order) => this.#tellAll(order),
      tellServer: (server: number, order: Order) =>
        tell(this.#members.get(nameOf({ kind: "server", index: server }))?.link, order),
    };
    this.#group = new SurvivingGroup(this.#job!, events, view);
    this.#watch = setInterval(() => this.#look(), PING_INTERVAL_MS).unref();
  }

  /** Who comes to a run that trains. Returns who hears it, or why it may not. */
  #join(hello: MemberHello, joined: (member: Member) => void): string | Listener<typeof wordSchema> {
    if (this.#group === undefined) return "the run does not survive its processes: it has no --server-replicas";
    if (this.#isFinishing || this.#isOver) return "the run is at its end";
    if (!hello.engines.includes(this.#job!.engine)) return `the run computes with ${this.#job!.engine}`;
    const role = this.#group.placeFor(hello.role);
    if (role === undefined) return `no ${hello.role.kind} is missing`;
    const name = nameOf(role);
    const member: Member = {
      hello: { ...hello, role },
      link: undefined,
      report: undefined,
      heardMs: nowMs(),
      isAtWork: false,
    };
    this.#members.set(name, member);
    joined(member);
    return { schema: wordSchema, from: name, hear: (word: Word) => this.#hear(member, word) };
  }

  #welcome({ link, hello: { role } }: Member): void {
    tell(link, { kind: "job", job: this.#job!, role, view: this.#group!.view });
    tell(link, { kind: "begin" });
  }

  /** The others have another manager: this one has nothing to say any more. */
  #replaced(): void {
    this.#isOver = true;
    this.#ended.reject(new NodeLostError("this manager stood still: another one goes on", "see the others' logs"));
  }

  #lost(member: Member, how: string): void {
    const { role } = member.hello;
    const name = nameOf(role);
    if (this.#isOver || this.#members.get(name) !== member) return;
    if (this.#returned !== undefined) return void this.#members.delete(name);
    if (this.#group?.lost(role) !== true) {
      const gone = `${this.#rolesOf(member)} is gone (${how})`;
      const remedy = this.#group === undefined ? "see its log; start the run again" : this.#group.remedy;
      return this.fail(new NodeLostError(gone + (this.#group?.loss ?? ""), remedy));
    }
    this.#members.delete(name);
    this.#init.onLost(name);
    this.#reported();
  }

  /** Of its process, which dies with all of them: `worker 1 and server 1`. */
  #rolesOf({ hello: { peerId } }: Member): string {
    const here = [...this.#members].filter(([, { hello }]) => hello.peerId === peerId).map(([name]) => name);
    return here.toSorted().toReversed().join(" and ");
  }

  #begin(): void {
    const members = this.#expected.map((name) => this.#members.get(name)!.hello);
    const engine = members[0]!.engines.find((id) => members.every(({ engines }) => engines.includes(id)));
    if (engine === undefined) {
      return this.fail(new NodeLostError("no engine runs on every process", "use --engine wasm-exact on all"));
    }
    const { job: id, settings, dataSha256, firstStep } = this.#init;
    const known = members.map(({ role, peerId, addresses }) => ({ role, peerId, addresses }));
    const job: PsJob = { job: id, settings, engine, dataSha256, firstStep, members: known };
    this.#job = job;
    this.#init.onJob(job);
    for (const { link, hello } of this.#members.values())
      tell(link, { kind: "job", job, role: hello.role, view: null });
    if (settings.serverReplicas === 0) return;
    this.#survive(null);
  }

  /** Who stands still is taken for dead, and ends when it hears of it. */
  #look(): void {
    const now = nowMs();
    const stoodStill = now - this.#lookedMs > SILENCE_LIMIT_MS / 2;
    this.#lookedMs = now;
    // What came meanwhile has not been looked at.
    if (stoodStill) for (const member of this.#members.values()) member.heardMs = now;
    for (const member of this.#members.values()) {
      const isSilent = member.isAtWork && member.report === undefined && now - member.heardMs > SILENCE_LIMIT_MS;
      if (isSilent) member.link?.abort(OVERDUE);
      else tell(member.link, { kind: "ping" });
    }
  }

  #tellAll(order: Order): void {
    for (const { link } of this.#members.values()) tell(link, order);
  }

  #hear(member: Member, word: Word): void {
    member.heardMs = nowMs();
    switch (word.kind) {
      case "pong":
        return;
      case "returned":
        return this.#hearReturned(member, word);
      case "working":
        member.isAtWork = true;
        return;
      case "copied":
        this.#group?.copied(word.shard, word.epoch);
        return;
      case "failed":
        return this.fail(toldError(word));
      case "leaves":
        return this.#leaves(member);
      case "ready":
        member.isAtWork = true;
        if (member.hello.joins) return this.#joined(member);
        this.#ready += 1;
        if (this.#ready === this.#expected.length - this.#init.settings.nodes) this.#tellAll({ kind: "begin" });
        return;
      case "report":
        member.report = word.report;
        return this.#reported();
    }
  }

  #joined({ hello: { role, peerId, addresses } }: Member): void {
    this.#init.onChanged(`${nameOf(role)} has come`);
    this.#group?.joined({ role, peerId, addresses });
  }

  #leaves({ hello: { role }, link }: Member): void {
    if (this.#group?.leaves(role) !== true) return this.#init.onChanged(`${nameOf(role)} may not leave: it is needed`);
    this.#init.onChanged(`${nameOf(role)} leaves`);
    if (role.kind === "worker") tell(link, { kind: "free" });
  }

  #reported(): void {
    if (this.#returned !== undefined) return;
    const missing = [...this.#members].flatMap(([name, { report }]) => (report === undefined ? [name] : []));
    if (missing.length === 0) {
      const reports = [...this.#members].map(([name, { report }]): [string, MemberReport] => [name, report!]);
      this.#isOver = true;
      return this.#ended.resolve(new Map(reports));
    }
    // Servers serve until nobody trains any more.
    if (this.#isFinishing || !missing.every((name) => /^(data )?server /.test(name))) return;
    this.#isFinishing = true;
    this.#tellAll({ kind: "finish" });
  }

  /** Ends the run for everybody; the first failure is the one that is told. */
  fail(error: Error): void {
    this.#tellAll({ kind: "failed", ...failureOf(error) });
    this.#ended.reject(error);
  }
}

export const nameOf = ({ kind, index }: PsRole): string => `${kind === "data" ? "data server" : kind} ${index}`;
