/**
 * @file What must hold of a parameter server after every event: the invariants S1 to S12 of `baseline-ps/README.md`. It knows of every key which
 * shares went into it and in which order, and shares no code with the machines.
 */
import type { KeyRange, RangeSet } from "../../baseline-ps/core/ranges.ts";
import type { Task } from "../../baseline-ps/core/scheduler.ts";
import type { Shard } from "../../baseline-ps/core/shard.ts";
import type { RequestId, ShardInput, ShardOutput } from "../../baseline-ps/core/shard-messages.ts";
import type { ServerScenario } from "./server-simulation.ts";
import { lossOf } from "./server-simulation-worker.ts";

type Output<Kind extends ShardOutput["kind"]> = Extract<ShardOutput, { kind: Kind }>;
export type ClientRequest = Extract<ShardInput, { kind: "push" | "pull" | "subscribe" }>;
type Pull = Extract<ShardInput, { kind: "pull" }>;
type Subscription = Extract<ShardInput, { kind: "subscribe" }>;

interface KnownPush {
  readonly step: number;
  readonly share: number;
  readonly keys: RangeSet;
  readonly server: number;
  /** Keys of which the values were used. */
  readonly used: Set<number>;
  isForgotten: boolean;
}

interface KnownKey {
  /** Shares in sums that are not applied, by step. */
  readonly sums: Map<number, number[]>;
  /** Shares that were applied, in order; of a whole step together. */
  readonly applied: { readonly step: number; readonly share: number }[];
  updates: number;
}

function check(holds: boolean, rule: string, what: () => string): void {
  if (!holds) throw new Error(`${rule}: ${what()}`);
}

function* keysIn(set: RangeSet): Generator<number> {
  for (const { start, end } of set) for (let key = start; key < end; key += 1) yield key;
}

export class ServerChecker {
  readonly #scenario: ServerScenario;
  readonly #keys: readonly KnownKey[];
  /** By client, timestamp and server. */
  readonly #pushes = new Map<string, KnownPush>();
  /** That wait, by client, timestamp and server; subscriptions, with what is wanted next, by their number. */
  readonly #pulls = new Map<string, Pull>();
  readonly #wanted = new Map<string, Subscription>();
  /** Steps that are over, by server. */
  readonly #over = new Set<string>();
  readonly #waits = new Map<string, readonly number[]>();
  readonly #finished = new Set<string>();
  /** The step that each worker is in, or the one before its next. */
  readonly #clocks: number[];
  readonly #shares = new Set<string>();
  readonly #tasks = new Map<string, string>();
  readonly lags: number[] = [];
  committedSteps = 0;
  pauses = 0;

  constructor(scenario: ServerScenario) {
    this.#scenario = scenario;
    this.#clocks = scenario.computeMs.map(() => 0);
    this.#keys = Array.from({ length: scenario.keys }, () => ({ sums: new Map(), applied: [], updates: 0 }));
  }

  get #isByStep(): boolean {
    return ["bsp", "bounded"].includes(this.#scenario.consistency.kind);
  }

  pushes(client: number, timestamp: number, server: number, push: Pick<KnownPush, "step" | "share" | "keys">): void {
    this.#pushes.set(`${client} ${timestamp} ${server}`, { ...push, server, used: new Set(), isForgotten: false });
  }

  #pushOf({ client, timestamp }: { readonly client: number; readonly timestamp: number }, server?: number): KnownPush {
    for (const [key, push] of this.#pushes) {
      const [ofClient, at] = key.split(" ").map(Number);
      if (ofClient === client && at === timestamp && (server === undefined || push.server === server)) return push;
    }
    throw new Error(`nobody pushed ${client} ${timestamp}`);
  }

  /** Whose keys these are tells which server's part it is. */
  #partOf(id: { readonly client: number; readonly timestamp: number }, set: RangeSet): KnownPush {
    const [first] = keysIn(set);
    for (let server = 0; server < this.#scenario.servers; server += 1) {
      const push = this.#pushes.get(`${id.client} ${id.timestamp} ${server}`);
      if (push !== undefined && [...keysIn(push.keys)].includes(first!)) return push;
    }
    throw new Error(`S1: keys from ${first} are not in push ${id.client} ${id.timestamp}`);
  }

  /** A server hears this now. */
  heard(server: number, input: ClientRequest): void {
    switch (input.kind) {
      case "push":
        // Each time that it comes its values are there anew.
        this.#pushOf(input, server).isForgotten = false;
        return;
      case "pull":
        this.#pulls.set(`${input.client} ${input.timestamp} ${server}`, input);
        return;
      case "subscribe":
        this.#wanted.set(`${input.client} ${input.subscription} ${server}`, input);
    }
  }

  #use(id: { readonly client: number; readonly timestamp: number }, set: RangeSet): KnownPush {
    const push = this.#partOf(id, set);
    check(!push.isForgotten, "S3", () => `values of ${id.client} ${id.timestamp} after they were forgotten`);
    const own = new Set(keysIn(push.keys));
    for (const key of keysIn(set)) {
      check(own.has(key), "S1", () => `key ${key} is not in the push`);
      check(!push.used.has(key), "S1", () => `key ${key} of push ${id.client} ${id.timestamp} was used twice`);
      push.used.add(key);
    }
    return push;
  }

  added(output: Output<"add">): void {
    const { share, step } = this.#use(output, output.keys);
    check(step === output.step, "S1", () => `share ${share} of step ${step} is added to step ${output.step}`);
    for (const key of keysIn(output.keys)) {
      const { sums } = this.#keys[key]!;
      const sum = sums.get(step) ?? [];
      check(!sum.includes(share), "S1", () => `share ${share} of step ${step} twice in key ${key}`);
      sums.set(step, [...sum, share]);
    }
  }

  updatedByStep({ keys, made: { step }, number: update }: Output<"update">): void {
    for (const key of keysIn(keys)) {
      const known = this.#keys[key]!;
      const sum = known.sums.get(step) ?? [];
      const shares = Array.from({ length: this.#scenario.workers }, (_, share) => share);
      const isOrdered = this.#scenario.consistency.kind === "bsp";
      const found = isOrdered ? sum : sum.toSorted((a, b) => a - b);
      check(
        found.join() === shares.join(),
        "S2",
        () => `step ${step} of key ${key} is updated by shares ${sum.join()}`,
      );
      check(known.updates === update && update === step, "S2", () => `update ${update} of key ${key} is step ${step}`);
      known.updates += 1;
      known.sums.delete(step);
      known.applied.push(...sum.map((share) => ({ step, share })));
    }
  }

  updatedByPush(output: Output<"update">, push: RequestId): void {
    const { step, share } = this.#use(push, output.keys);
    for (const key of keysIn(output.keys)) {
      const known = this.#keys[key]!;
      check(
        known.updates === output.number,
        "S2",
        () => `update ${output.number} of key ${key} is its ${known.updates}th`,
      );
      known.updates += 1;
      const isNew = !known.applied.some((applied) => applied.step === step && applied.share === share);
      check(isNew, "S1", () => `share ${share} of step ${step} twice in key ${key}`);
      known.applied.push({ step, share });
    }
  }

  stepOver(server: number, step: number, shard: KeyRange): void {
    const name = `${server} ${step}`;
    check(!this.#over.has(name), "S7", () => `step ${step} ends twice at server ${server}`);
    this.#over.add(name);
    for (const key of keysIn([shard])) {
      check(this.#versionOf(key) > step, "S7", () => `step ${step} ends, and key ${key} is without it`);
    }
  }

  forgotten(server: number, id: Output<"forget">): void {
    const push = this.#pushOf(id, server);
    check(!push.isForgotten, "S3", () => "forgotten twice");
    check(push.used.size === [...keysIn(push.keys)].length, "S3", () => `values that are wanted are forgotten`);
    push.isForgotten = true;
  }

  acknowledged(server: number, id: Output<"applied">): void {
    const { step, share, keys } = this.#pushOf(id, server);
    for (const key of keysIn(keys)) {
      const isIn = this.#keys[key]!.applied.some((applied) => applied.step === step && applied.share === share);
      check(isIn, "S3", () => `share ${share} of step ${step} is acknowledged, and key ${key} is without it`);
    }
  }

  /** Steps of which all shares are in, without a gap. */
  #versionOf(key: number): number {
    const counts = new Map<number, number>();
    for (const { step } of this.#keys[key]!.applied) counts.set(step, (counts.get(step) ?? 0) + 1);
    let version = 0;
    while (counts.get(version) === this.#scenario.workers) version += 1;
    return version;
  }

  #versionOfAll(set: RangeSet): number {
    return Math.min(...[...keysIn(set)].map((key) => this.#versionOf(key)));
  }

  #told(set: RangeSet, version: number): void {
    const actual = this.#versionOfAll(set);
    check(version === actual, "S4", () => `version ${version} is told of keys with ${actual}`);
  }

  answered(server: number, { client, timestamp, keys, before, version }: Output<"answer">): void {
    const old = new Set(keysIn(before));
    const actual = Math.min(...[...keysIn(keys)].map((key) => this.#versionOf(key) - (old.has(key) ? 1 : 0)));
    // Nobody hears the answer to what has been answered before.
    const isOver = this.#finished.has(`${client} ${timestamp}`);
    check(version === actual || isOver, "S4", () => `version ${version} is told of keys with ${actual}`);
    this.#pulls.delete(`${client} ${timestamp} ${server}`);
  }

  announced(server: number, { client, subscription, keys, version }: Output<"announce">): void {
    this.#told(keys, version);
    const name = `${client} ${subscription} ${server}`;
    this.#wanted.set(name, { ...this.#wanted.get(name)!, leastVersion: version + 1 });
  }

  /** Nobody waits for what is there. */
  #checkWaiting(server: number): void {
    const waiting = [...this.#pulls].filter(([name]) => name.endsWith(` ${server}`));
    for (const [name, pull] of waiting) {
      // Who has a later request as its oldest has had its answer.
      if (this.#finished.has(`${pull.client} ${pull.timestamp}`)) this.#pulls.delete(name);
      else check(this.#versionOfAll(pull.keys) < pull.leastVersion, "S8", () => `pull ${name} waits for what is there`);
    }
    for (const [name, { keys, leastVersion }] of this.#wanted) {
      if (!name.endsWith(` ${server}`)) continue;
      check(
        this.#versionOfAll(keys) < leastVersion,
        "S8",
        () => `subscriber ${name} is not told of version ${leastVersion}`,
      );
    }
  }

  serverRests(server: number, machine: Shard): void {
    const { kind, tau } = this.#scenario.consistency;
    this.#checkWaiting(server);
    if (this.#isByStep)
      check(machine.openSteps <= tau + 1, "S7", () => `server ${server} holds ${machine.openSteps} sums`);
    if (kind === "async") check(machine.waitingPulls === 0, "S8", () => `a pull waits at server ${server}`);
  }

  read(step: number, version: number): void {
    const { kind, tau } = this.#scenario.consistency;
    const lag = Math.max(0, step - version);
    this.lags.push(lag);
    check(lag <= tau, "S5", () => `step ${step} reads version ${version}`);
    if (kind === "bsp") check(step === version, "S5", () => `step ${step} reads version ${version}`);
  }

  begins(worker: number, step: number): void {
    this.#clocks[worker] = step;
  }

  /** With parameters at hand the worker is in this clock; servers let nobody get further than the slack. */
  clockEnds(worker: number, step: number): void {
    const { kind, tau } = this.#scenario.consistency;
    if (kind === "ssp") {
      const slowest = Math.min(...this.#clocks);
      check(step - slowest <= tau, "S6", () => `worker ${worker} is at ${step}, the slowest at ${slowest}`);
    }
    this.#clocks[worker] = Math.max(this.#clocks[worker]!, step + 1);
  }

  waitsFor(client: number, timestamp: number, after: readonly number[]): void {
    this.#waits.set(`${client} ${timestamp}`, after);
  }

  sent(client: number, timestamp: number): void {
    check(!this.#finished.has(`${client} ${timestamp}`), "S9", () => `request ${timestamp} is sent after its end`);
    for (const earlier of this.#waits.get(`${client} ${timestamp}`) ?? []) {
      const isOver = this.#finished.has(`${client} ${earlier}`);
      check(isOver, "S9", () => `request ${timestamp} of ${client} does not wait for ${earlier}`);
    }
  }

  finished(client: number, timestamp: number): void {
    const key = `${client} ${timestamp}`;
    check(!this.#finished.has(key), "S9", () => `request ${timestamp} of ${client} is finished twice`);
    this.#finished.add(key);
  }

  given(worker: number, number: number, task: Task): void {
    const key = `${worker} ${number}`;
    const text = JSON.stringify(task);
    check((this.#tasks.get(key) ?? text) === text, "S10", () => `task ${number} of ${worker} changes to ${text}`);
    if (this.#tasks.has(key)) return;
    this.#tasks.set(key, text);
    if (task.kind !== "train") return;
    const share = `${task.step} ${task.share}`;
    check(!this.#shares.has(share), "S10", () => `share ${task.share} of step ${task.step} is given twice`);
    check(task.step >= this.committedSteps, "S10", () => `step ${task.step} is over`);
    this.#shares.add(share);
  }

  committed(step: number, loss: number): void {
    const { microBatches, workers } = this.#scenario;
    check(step === this.committedSteps, "S11", () => `step ${step} follows ${this.committedSteps - 1}`);
    const losses = Array.from({ length: microBatches }, (_, microBatch) => lossOf(microBatches, step, microBatch));
    const expected = losses.reduce((sum, each) => sum + each, 0);
    check(loss === expected, "S11", () => `step ${step} lost ${loss}, not ${expected}`);
    for (const key of this.#keys.keys()) {
      const shares = this.#keys[key]!.applied.filter((applied) => applied.step === step).length;
      check(shares === workers, "S11", () => `step ${step} is committed, and key ${key} has ${shares} of its shares`);
    }
    this.committedSteps += 1;
  }

  paused(task: Extract<Task, { kind: "pause" }>, workers: readonly { readonly rests: boolean }[]): void {
    this.pauses += 1;
    check(task.step === this.committedSteps, "S12", () => `a pause at ${task.step}, committed ${this.committedSteps}`);
    check(
      workers.every(({ rests }) => rests),
      "S12",
      () => "somebody trains",
    );
  }

  ended(workers: readonly { readonly hasEnded: boolean }[], committed: number, layers: readonly KeyRange[]): void {
    check(
      workers.every(({ hasEnded }) => hasEnded),
      "L1",
      () => "somebody waits for ever",
    );
    check(
      committed === this.committedSteps && layers.length > 0,
      "S11",
      () => "steps were told that are not committed",
    );
    const { steps, stopAtLoss, stopMs } = this.#scenario;
    if (stopAtLoss === null && stopMs === Infinity)
      check(committed === steps, "L1", () => `${committed} of ${steps} steps`);
    for (const [key, { applied }] of this.#keys.entries()) {
      check(
        applied.length === committed * this.#scenario.workers,
        "S1",
        () => `key ${key} has ${applied.length} shares`,
      );
    }
    check(this.#over.size === committed * this.#scenario.servers, "S7", () => `${this.#over.size} steps are over`);
    check(this.pauses > 0, "S12", () => "the end is not saved");
  }
}
