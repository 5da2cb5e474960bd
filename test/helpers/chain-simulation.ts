/**
 * @file Servers of keys that die, stand still, join and leave, in virtual time: the machines of shards, chains, placement and requests over links that
 * keep their order and lose what a dead process had not sent. Values are lists of shares. After every event `ChainChecker` looks at all of it.
 */
import { type Consistency, rulesOf } from "../../baseline-ps/core/consistency.ts";
import { type HeldInput, type HeldOutput, HeldShard } from "../../baseline-ps/core/held-shard.ts";
import { divideKeys, type KeyMap, keysOf } from "../../baseline-ps/core/key-map.ts";
import { Placement, placeIn, type PlacementInput, type ShardChain } from "../../baseline-ps/core/placement.ts";
import { intersection, type KeyRange } from "../../baseline-ps/core/ranges.ts";
import type { ShardInput } from "../../baseline-ps/core/shard-messages.ts";
import { EventQueue } from "../../src/sim/event-queue.ts";
import { RandomStream } from "../../src/types/random.ts";
import { type ByKey, ChainChecker, type Shares, SimulatedStore } from "./chain-checker.ts";
import { Process, type Work, Worker } from "./chain-simulation-worker.ts";

export interface ChainScenario {
  readonly seed: number;
  readonly consistency: Consistency;
  readonly workers: number;
  readonly servers: number;
  readonly replicas: number;
  readonly shardsEach: number;
  readonly keys: number;
  readonly steps: number;
  /** What happens to servers and workers, when. */
  readonly faults: readonly {
    readonly kind: "kill" | "pause" | "join" | "leave" | "killWorker";
    readonly atMs: number;
  }[];
}

type Copied = readonly Shares[];
type Input = HeldInput<ByKey, Copied>;
type Message = Exclude<Input, { kind: "request" | "place" }>;
type Output = HeldOutput<ByKey, Copied>;
export type Asked = Extract<ShardInput, { kind: "push" | "pull" }>;
export interface View {
  readonly number: number;
  readonly map: KeyMap;
  readonly chains: readonly ShardChain[];
}

const DETECTED_MS = 40;
const EVENTS_MAX = 400_000;

class Server extends Process {
  readonly shards = new Map<number, { readonly held: HeldShard<ByKey, Copied>; readonly store: SimulatedStore }>();
  view: View | undefined;
  early: { readonly view: number; readonly act: () => void }[] = [];
  readonly number: number;
  readonly #world: ChainSimulation;

  constructor(world: ChainSimulation, number: number) {
    super();
    this.#world = world;
    this.number = number;
  }

  adopt(view: View): void {
    const places = view.chains.map((chain) => placeIn(chain, this.number));
    for (const shard of [...this.shards.keys()]) if (places[shard] === undefined) this.shards.delete(shard);
    for (const [shard, place] of places.entries()) {
      if (place !== undefined) this.handle(shard, { kind: "place", place });
    }
    this.view = view;
    this.#epoch = Math.max(...view.chains.map(({ epoch }) => epoch));
    const messages = this.#messages;
    this.#messages = [];
    for (const [shard, message] of messages) this.hear(shard, message);
    const early = this.early;
    this.early = [];
    for (const each of early) this.ofView(each.view, each.act);
  }

  #epoch = 0;
  #messages: (readonly [number, Message])[] = [];

  /** From another server; what is of an epoch that is to come waits for it. */
  hear(shard: number, message: Message): void {
    if (message.epoch > this.#epoch) this.#messages.push([shard, message]);
    else if (this.shards.has(shard)) this.handle(shard, message);
  }

  /** Acts in this view, later where it is to come, not at all where it is over. */
  ofView(number: number, act: () => void): void {
    const own = this.view?.number ?? -1;
    if (number === own) act();
    else if (number > own) this.early.push({ view: number, act });
  }

  ask(asked: Asked, answer: (version: number | undefined, shares: readonly Shares[]) => void): void {
    const { map } = this.#world;
    const keys = intersection(asked.keys, keysOf(this.view!.map, this.number));
    const missing = new Map<number, { version: number; shares: readonly Shares[] } | undefined>();
    for (const [shard, { held }] of this.shards) {
      const part = held.isHead ? intersection(keys, [map.shards[shard]!]) : [];
      if (part.length > 0) missing.set(shard, undefined);
    }
    const name = `${asked.client} ${asked.timestamp}`;
    this.#world.open.set(`${this.number} ${name}`, (shard, version, shares) => {
      missing.delete(shard);
      found.push({ version: version ?? Infinity, shares });
      if (missing.size > 0) return;
      this.#world.open.delete(`${this.number} ${name}`);
      answer(
        asked.kind === "push" ? undefined : Math.min(...found.map((each) => each.version)),
        found.flatMap((each) => each.shares),
      );
    });
    const found: { version: number; shares: readonly Shares[] }[] = [];
    for (const shard of [...missing.keys()]) {
      const part = intersection(keys, [map.shards[shard]!]);
      const { store } = this.shards.get(shard)!;
      if (asked.kind === "push") store.keep(asked, { step: asked.step, share: asked.share, keys: part });
      this.handle(shard, { kind: "request", request: { ...asked, keys: part } });
    }
  }

  handle(shard: number, input: Input): void {
    const world = this.#world;
    const hosted = this.shards.get(shard) ?? {
      held: new HeldShard<ByKey, Copied>({ ...world.shardInit, range: world.map.shards[shard]! }),
      store: new SimulatedStore(world.map.shards[shard]!, rulesOf(world.scenario.consistency.kind).order === "shares"),
    };
    this.shards.set(shard, hosted);
    for (const output of hosted.held.handle(input)) this.#do(shard, hosted.store, output);
  }

  #do(shard: number, store: SimulatedStore, output: Output): void {
    const world = this.#world;
    world.note(() => `server ${this.number} shard ${shard}: ${JSON.stringify(output)}`);
    const say = (to: number, message: Message): void =>
      world.carry(this, world.servers[to]!, () => world.servers[to]!.hear(shard, message));
    switch (output.kind) {
      case "add":
        return store.add(output, output.step, output.keys);
      case "forget":
        return store.forget(output);
      case "update":
        return store.update(output.made, output.keys, output.values);
      case "reset":
        return store.reset();
      case "forward": {
        const { to, epoch, index, update, values } = output;
        const received = store.valuesOf(update, update.keys, values);
        return say(to, {
          kind: "update",
          from: this.number,
          epoch,
          index,
          update,
          values: { kind: "received", received },
        });
      }
      case "tell":
        return say(output.to, { kind: "has", from: this.number, epoch: output.epoch, index: output.index });
      case "sendCopy": {
        const { to, epoch, updates, state } = output;
        return say(to, { kind: "copy", from: this.number, epoch, updates, copy: { state, values: store.copy() } });
      }
      case "install": {
        store.install(output.copy.values);
        const { epoch } = this.shards.get(shard)!.held.place;
        return world.carry(this, world.manager, () => world.manage({ kind: "copied", shard, epoch }));
      }
      case "applied":
        world.checker.acknowledged(shard, output, store);
        return world.answer(this, output, shard, undefined, []);
      case "answer":
        return world.answer(this, output, shard, output.version, store.read(output.keys, output.before));
      case "refused":
        throw new Error(`server ${this.number} refuses client ${output.client}: ${output.reason}`);
      case "stepOver":
      case "done":
      case "announce":
        return;
    }
  }
}

export class ChainSimulation {
  readonly scenario: ChainScenario;
  readonly random: RandomStream;
  readonly map: KeyMap;
  readonly layers: readonly KeyRange[];
  readonly shardInit;
  readonly checker: ChainChecker;
  readonly servers: Server[];
  readonly workers: readonly Worker[];
  readonly manager = new Process();
  /** By server, client and timestamp: who hears of a shard's answer. */
  readonly open = new Map<string, (shard: number, version: number | undefined, shares: readonly Shares[]) => void>();
  readonly story: string[] = [];
  readonly counts = { events: 0, kills: 0, views: 0, gone: 0 };
  readonly #placement: Placement;
  readonly #queue = new EventQueue();
  readonly #thunks: (() => void)[] = [];
  readonly #arrivals = new Map<string, number>();
  readonly #isTold: boolean;
  readonly #owners: number[];
  readonly #done = new Set<string>();
  #viewNumber = 0;
  isOver = false;
  nowMs = 0;

  constructor(scenario: ChainScenario, isTold = false) {
    this.scenario = scenario;
    this.#isTold = isTold;
    this.random = new RandomStream(scenario.seed, 2_000);
    const { keys, servers, shardsEach, workers, replicas, consistency } = scenario;
    const rules = rulesOf(consistency.kind);
    this.map = divideKeys(keys, servers, shardsEach);
    const keepsBefore = rules.order === "shares";
    this.shardInit = { firstStep: 0, shares: workers, rules, tau: consistency.tau, keepsBefore };
    const half = 1 + this.random.nextBelow(keys - 1);
    this.layers = [
      { start: 0, end: half },
      { start: half, end: keys },
    ];
    this.checker = new ChainChecker(scenario, this.map);
    this.#placement = new Placement({ heads: this.map.heads, replicas });
    this.servers = Array.from({ length: servers }, (_, number) => new Server(this, number));
    this.workers = Array.from({ length: workers }, (_, number) => new Worker(this, number));
    this.#owners = this.workers.map(({ number }) => number);
  }

  run(): void {
    for (let step = 0; step < this.scenario.steps; step += 1) {
      for (const worker of this.workers) worker.queue.push({ step, share: worker.number });
    }
    const first = this.#view();
    for (const server of this.servers) server.adopt(first);
    for (const worker of this.workers) worker.adopt(first);
    for (const fault of this.scenario.faults) this.#at(fault.atMs, () => this.#fault(fault.kind));
    while (this.#queue.size > 0 && !this.isOver) {
      this.counts.events += 1;
      if (this.counts.events > EVENTS_MAX) throw new Error(`not at its end after ${EVENTS_MAX} events`);
      this.nowMs = this.#queue.time;
      this.#thunks[this.#queue.pop()]!();
      this.checker.look(this.servers.filter(({ isAlive }) => isAlive));
    }
    if (this.counts.gone > 0) return;
    const isDone = this.#done.size === this.scenario.steps * this.scenario.workers;
    if (!isDone) throw new Error(`L1: ${this.#done.size} shares are done, and nothing happens`);
    this.checker.ended(
      this.servers.filter(({ isAlive, number }) => isAlive && this.#placement.servers.includes(number)),
      this.#placement.chains,
    );
  }

  note(text: () => string): void {
    if (this.#isTold) this.story.push(`${this.nowMs.toFixed(1)} ${text()}`);
  }

  #at(timeMs: number, event: () => void): void {
    this.#queue.push(timeMs, this.#thunks.push(event) - 1);
  }

  /** The process does it then, later where it stands still, never where it is dead. */
  later(process: Process, delayMs: number, act: () => void): void {
    this.#at(this.nowMs + delayMs, () => this.#run(process, act));
  }

  #run(process: Process, act: () => void): void {
    if (!process.isAlive) return;
    if (process.pausedUntilMs <= this.nowMs) return act();
    this.#at(process.pausedUntilMs, () => this.#run(process, act));
  }

  /** In order between two processes. What a process had not sent when it died is lost. */
  carry(from: Process, to: Process, arrive: () => void): void {
    const way = `${this.#nameOf(from)}>${this.#nameOf(to)}`;
    const atMs = Math.max(this.#arrivals.get(way) ?? 0, this.nowMs + this.random.nextFloat() * 10) + 1e-6;
    this.#arrivals.set(way, atMs);
    this.#at(atMs, () => {
      if (from.isAlive || !this.#cuts.has(way) || this.#cuts.get(way)! > atMs) this.#run(to, arrive);
    });
  }

  readonly #cuts = new Map<string, number>();

  #nameOf(process: Process): string {
    if (process instanceof Server) return `s${process.number}`;
    return process instanceof Worker ? `w${process.number}` : "manager";
  }

  #kill(process: Process): void {
    process.isAlive = false;
    this.counts.kills += 1;
    const own = this.#nameOf(process);
    for (const [way, untilMs] of this.#arrivals) {
      if (way.startsWith(`${own}>`))
        this.#cuts.set(way, this.nowMs + this.random.nextFloat() * (untilMs - this.nowMs + 1));
    }
  }

  #fault(kind: ChainScenario["faults"][number]["kind"]): void {
    const alive = this.servers.filter(({ isAlive, number }) => isAlive && this.#placement.servers.includes(number));
    const server = alive[this.random.nextBelow(Math.max(1, alive.length))];
    this.note(() => `${kind} server ${server?.number}`);
    if (kind === "join") return this.#join();
    if (kind === "killWorker") return this.#killWorker();
    if (server === undefined) return;
    if (kind === "leave") return this.manage({ kind: "leaves", server: server.number });
    if (kind === "kill") this.#kill(server);
    else if (server.pausedUntilMs < this.nowMs) server.pausedUntilMs = this.nowMs + 2 * DETECTED_MS;
    this.#at(this.nowMs + DETECTED_MS * this.random.nextFloat(), () =>
      this.manage({ kind: "lost", server: server.number }),
    );
  }

  #join(): void {
    const server = new Server(this, this.servers.length);
    this.servers.push(server);
    this.manage({ kind: "joined", server: server.number });
  }

  #killWorker(): void {
    const alive = this.workers.filter(({ isAlive }) => isAlive);
    const dead = alive[this.random.nextBelow(alive.length)]!;
    if (alive.length === 1) return;
    this.#kill(dead);
    const others = alive.filter((worker) => worker !== dead);
    this.#at(this.nowMs + DETECTED_MS, () => {
      for (const [share, owner] of this.#owners.entries()) {
        if (owner !== dead.number) continue;
        const heir = others[share % others.length]!;
        this.#owners[share] = heir.number;
        const steps = Array.from({ length: this.scenario.steps }, (_, step) => ({ step, share }));
        heir.inherit(steps.filter(({ step }) => !this.#done.has(`${step} ${share}`)));
      }
    });
  }

  manage(input: PlacementInput): void {
    const outputs = this.#placement.handle(input);
    for (const output of outputs) {
      if (output.kind === "gone") {
        this.counts.gone += 1;
        this.isOver = true;
      }
      if (output.kind === "changed") this.#publish();
    }
  }

  #publish(): void {
    const view = this.#view();
    this.counts.views += 1;
    this.note(
      () =>
        `view ${view.number}: ${view.chains.map(({ servers, isCopying }) => servers.join(">") + (isCopying ? "*" : "")).join(" ")}`,
    );
    for (const process of [...this.servers, ...this.workers])
      this.carry(this.manager, process, () => process.adopt(view));
  }

  #view(): View {
    const { chains } = this.#placement;
    const map = { ...this.map, heads: chains.map(({ servers }) => servers[0]!) };
    return { number: this.#viewNumber++, map, chains };
  }

  answer(
    server: Server,
    { client, timestamp }: { readonly client: number; readonly timestamp: number },
    shard: number,
    version: number | undefined,
    shares: readonly Shares[],
  ): void {
    this.open.get(`${server.number} ${client} ${timestamp}`)?.(shard, version, shares);
  }

  done({ step, share }: Work): void {
    this.#done.add(`${step} ${share}`);
  }
}
