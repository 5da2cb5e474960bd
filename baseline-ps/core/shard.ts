/**
 * @file A shard of the keys: which pushes it takes, when they are added and applied, which pulls must wait. It holds no values: its user does what
 * it says, in its order. The version of a key is how many whole steps have been applied to it; every step is brought by `shares` pushes for each
 * key, and for each key a share of a step counts once, whoever pushes it, however often. So versions, and shares of steps that are not whole, by
 * range, are the clocks by which a push that comes again is known (Li 2014, section 4.1: range vector clocks), also by another server that holds
 * the shard. An update is decided first and made later, when the user says so: in between it can be brought to other servers. A push is
 * acknowledged when all is made that it is in, that is when every later pull sees it.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { Update } from "./chain.ts";
import { difference, intersection, isCovered, isSet, Levels, type RangeSet, union } from "./ranges.ts";
import type { RequestId, ShardInit, ShardInput, ShardOutput, ShardState } from "./shard-messages.ts";

const NOT_HERE = "keys that are not this server's, or no sorted ranges";

type Push = Extract<ShardInput, { kind: "push" }>;
type Pull = Extract<ShardInput, { kind: "pull" }>;
type Subscription = Extract<ShardInput, { kind: "subscribe" }>;

interface HeldPush {
  readonly push: Push;
  /** Keys whose values are wanted and not used yet. */
  waiting: RangeSet;
  /** Keys that are not applied yet. */
  unapplied: RangeSet;
}

/** A step of which not all is applied. */
interface OpenStep {
  /** Keys that have come, and that have been added, by share. */
  readonly arrived: RangeSet[];
  readonly added: RangeSet[];
  /** Keys for which the step's sum is whole, and its update is decided. */
  decided: RangeSet;
  readonly pushes: Set<HeldPush>;
}

interface Client {
  oldest: number;
  readonly pushes: Map<number, HeldPush>;
  readonly pulls: Map<number, Pull>;
  readonly subscriptions: Map<number, Subscription>;
}

export class Shard implements Machine<ShardInput, ShardOutput> {
  readonly #init: ShardInit;
  readonly #whole: RangeSet;
  readonly #versions: Levels;
  /** Updates of each key: its version where whole steps are applied. */
  readonly #updates: Levels;
  readonly #steps = new Map<number, OpenStep>();
  readonly #clients = new Map<number, Client>();

  /** @param state where the shard was held elsewhere: what it has become there */
  constructor(init: ShardInit, state?: ShardState) {
    assert(init.shares >= 1 && init.tau >= 0, "a step has a share, and tau is not negative");
    this.#init = init;
    this.#whole = [init.range];
    const { range, firstStep, shares, rules } = init;
    const updates = rules.application === "step" ? firstStep : firstStep * shares;
    this.#versions = new Levels(state?.versions ?? [{ ...range, level: firstStep }]);
    this.#updates = new Levels(state?.updates ?? [{ ...range, level: updates }]);
    for (const { step, added } of state?.shares ?? []) {
      const open = this.#openStep(step);
      for (const [share, keys] of added.entries()) open.arrived[share] = open.added[share] = keys;
    }
  }

  get state(): ShardState {
    const isByPush = this.#init.rules.application === "push";
    const shares = isByPush ? [...this.#steps].map(([step, { added }]) => ({ step, added: [...added] })) : [];
    return { versions: this.#versions.all, updates: this.#updates.all, shares };
  }

  /** The least of all keys. */
  get version(): number {
    return this.#versions.least(this.#whole);
  }

  /** Steps of which sums are held, at most `tau + 1`. */
  get openSteps(): number {
    return this.#steps.size;
  }

  /** Pulls that wait for a version. */
  get waitingPulls(): number {
    return [...this.#clients.values()].reduce((sum, { pulls }) => sum + pulls.size, 0);
  }

  handle(input: ShardInput): readonly ShardOutput[] {
    switch (input.kind) {
      case "gone":
        this.#clients.delete(input.client);
        return [];
      case "decided":
        this.#decidedElsewhere(input.update);
        return [];
      case "make":
        return this.#make(input.update);
      default:
        return this.#request(input, this.#clientOf(input.client));
    }
  }

  #request(input: Push | Pull | Subscription, client: Client): readonly ShardOutput[] {
    switch (input.kind) {
      case "push":
        this.#forgetBefore(client, input.oldest);
        return this.#push(client, input);
      case "pull":
        this.#forgetBefore(client, input.oldest);
        return input.timestamp < client.oldest ? [] : this.#pull(client, input);
      case "subscribe":
        if (!this.#has(input.keys)) return [{ kind: "refused", client: input.client, reason: NOT_HERE }];
        client.subscriptions.set(input.subscription, input);
        return this.#announce();
    }
  }

  #clientOf(id: number): Client {
    const none = {
      oldest: 0,
      pushes: new Map(),
      pulls: new Map(),
      subscriptions: new Map(),
    };
    const client = this.#clients.get(id) ?? none;
    this.#clients.set(id, client);
    return client;
  }

  #forgetBefore(client: Client, oldest: number): void {
    if (oldest <= client.oldest) return;
    client.oldest = oldest;
    for (const timestamp of client.pulls.keys()) if (timestamp < oldest) client.pulls.delete(timestamp);
  }

  #push(client: Client, push: Push): ShardOutput[] {
    const id = { client: push.client, timestamp: push.timestamp };
    if (push.timestamp < client.oldest) return [{ kind: "forget", ...id }];
    // It came twice: it is acknowledged when it is applied.
    if (client.pushes.has(push.timestamp)) return [];
    const reason = this.#refusal(push);
    if (reason !== undefined) return [{ kind: "refused", client: push.client, reason }];
    const unapplied = this.#lacking(push);
    if (unapplied.length === 0) {
      return [
        { kind: "forget", ...id },
        { kind: "applied", ...id },
      ];
    }
    const step = this.#openStep(push.step);
    const waiting = difference(unapplied, step.arrived[push.share]!);
    step.arrived[push.share] = union(step.arrived[push.share]!, waiting);
    const held: HeldPush = { push, waiting, unapplied };
    client.pushes.set(push.timestamp, held);
    step.pushes.add(held);
    if (waiting.length === 0) return [{ kind: "forget", ...id }];
    return this.#init.rules.application === "push" ? this.#decidePush(held) : this.#add(step, push.step, push.share);
  }

  /** Keys that do not have the share yet. */
  #lacking({ step, share, keys }: Push): RangeSet {
    const behind = this.#versions.parts(keys).flatMap(({ level, keys: part }) => (level > step ? [] : [part]));
    const isByPush = this.#init.rules.application === "push";
    const added = isByPush ? (this.#steps.get(step)?.added[share] ?? []) : [];
    return difference(behind.reduce<RangeSet>(union, []), added);
  }

  #refusal({ step, share, keys }: Push): string | undefined {
    const { shares, rules, tau } = this.#init;
    if (!this.#has(keys)) return NOT_HERE;
    if (share < 0 || share >= shares) return `share ${share} of ${shares}`;
    const least = this.#versions.least(keys);
    if (rules.application === "step" && step - least > tau) {
      return `share ${share} of step ${step} at version ${least}, ahead by more than ${tau}`;
    }
    return undefined;
  }

  #has(keys: RangeSet): boolean {
    return keys.length > 0 && isSet(keys) && isCovered(keys, this.#whole);
  }

  #openStep(step: number): OpenStep {
    const none = (): RangeSet[] => Array.from({ length: this.#init.shares }, () => []);
    const open = this.#steps.get(step) ?? { arrived: none(), added: none(), decided: [], pushes: new Set() };
    this.#steps.set(step, open);
    return open;
  }

  /** Adds what has come of this share, and then of those that waited for it. */
  #add(step: OpenStep, number: number, share: number): ShardOutput[] {
    const outputs: ShardOutput[] = [];
    let grown: RangeSet = [];
    for (let next = share; next < this.#init.shares; next += 1) {
      const isFree = this.#init.rules.order === "arrival" || next === 0;
      for (const held of step.pushes) {
        if (held.push.share !== next || held.waiting.length === 0) continue;
        const keys = isFree ? held.waiting : intersection(held.waiting, step.added[next - 1]!);
        if (keys.length === 0) continue;
        step.added[next] = union(step.added[next]!, keys);
        grown = union(grown, keys);
        outputs.push({ kind: "add", ...idOf(held), step: number, keys }, ...this.#used(held, keys));
      }
      if (isFree && this.#init.rules.order === "arrival") break;
    }
    return [...outputs, ...this.#decideStep(number, grown)];
  }

  #used(held: HeldPush, keys: RangeSet): ShardOutput[] {
    held.waiting = difference(held.waiting, keys);
    return held.waiting.length > 0 ? [] : [{ kind: "forget", ...idOf(held) }];
  }

  /** A key's sum is whole, and the steps before are made. */
  #decideStep(number: number, touched: RangeSet): ShardOutput[] {
    const step = this.#steps.get(number);
    if (step === undefined) return [];
    const isIn = step.added.reduce<RangeSet>((all, share) => intersection(all, share), touched);
    const whole = difference(this.#versions.at(number, isIn), step.decided);
    step.decided = union(step.decided, whole);
    return whole.map((keys) => ({ kind: "decide", update: { step: number, share: null, keys }, push: null }));
  }

  #decidePush(held: HeldPush): ShardOutput[] {
    const { step, share } = held.push;
    return held.waiting.map((keys) => ({ kind: "decide", update: { step, share, keys }, push: idOf(held) }));
  }

  #decidedElsewhere({ step, share, keys }: Update): void {
    const open = this.#openStep(step);
    if (share === null) open.decided = union(open.decided, [keys]);
    for (const of of share === null ? open.arrived.keys() : [share]) {
      open.arrived[of] = union(open.arrived[of]!, [keys]);
    }
  }

  #make(made: Update): ShardOutput[] {
    const keys = [made.keys];
    const outputs = this.#updates
      .parts(keys)
      .map(({ level, keys: part }): ShardOutput => ({ kind: "update", made, keys: part, number: level }));
    this.#updates.raise(keys);
    const step = this.#openStep(made.step);
    if (made.share === null) {
      this.#versions.raise(keys);
      for (const held of step.pushes) outputs.push(...this.#applied(held, keys));
      outputs.push(...this.#closeSteps(), ...this.#answer(), ...this.#announce());
      return [...outputs, ...this.#decideStep(made.step + 1, keys)];
    }
    step.added[made.share] = union(step.added[made.share]!, keys);
    for (const held of step.pushes) {
      if (held.push.share !== made.share) continue;
      if (held.waiting.length > 0) outputs.push(...this.#used(held, keys));
      outputs.push(...this.#applied(held, keys));
    }
    this.#raiseWhole(made.step, keys);
    return [...outputs, ...this.#closeSteps(), ...this.#answer(), ...this.#announce()];
  }

  /** Where pushes are applied alone, versions grow where all shares of their step are in: first of this step, then of those behind it. */
  #raiseWhole(from: number, touched: RangeSet): void {
    let keys = touched;
    for (let number = from; keys.length > 0; number += 1) {
      const step = this.#steps.get(number);
      if (step === undefined) return;
      const isIn = step.added.reduce<RangeSet>((all, share) => intersection(all, share), keys);
      keys = this.#versions.at(number, isIn);
      this.#versions.raise(keys);
    }
  }

  #closeSteps(): ShardOutput[] {
    const { version } = this;
    const over = [...this.#steps].filter(([number, { pushes }]) => number < version && pushes.size === 0);
    for (const [number] of over) this.#steps.delete(number);
    return over.map(([step]) => ({ kind: "stepOver", step }));
  }

  #applied(held: HeldPush, keys: RangeSet): ShardOutput[] {
    held.unapplied = difference(held.unapplied, keys);
    if (held.unapplied.length > 0) return [];
    const { client: id, timestamp, step } = held.push;
    this.#steps.get(step)!.pushes.delete(held);
    const client = this.#clients.get(id);
    if (client === undefined) return [];
    client.pushes.delete(timestamp);
    return [{ kind: "applied", ...idOf(held) }];
  }

  #pull(client: Client, pull: Pull): ShardOutput[] {
    if (!this.#has(pull.keys)) return [{ kind: "refused", client: pull.client, reason: NOT_HERE }];
    client.pulls.set(pull.timestamp, pull);
    return this.#answer();
  }

  #answer(): ShardOutput[] {
    return [...this.#clients.values()].flatMap((client) =>
      [...client.pulls.values()].flatMap((pull): ShardOutput[] => {
        const { keys, single } = pull;
        const version = single === undefined ? this.#versions.least(keys) : this.#versions.leastOf(single);
        if (version < pull.leastVersion) return [];
        client.pulls.delete(pull.timestamp);
        return [{ kind: "answer", ...idOf({ push: pull }), keys, ...this.#asOf(pull, version) }];
      }),
    );
  }

  /** Where updates are made in lockstep, a share that is computed once more is computed with the parameters of its step, though some keys have the next. */
  #asOf({ keys, leastVersion }: Pull, version: number): { readonly before: RangeSet; readonly version: number } {
    if (!this.#init.keepsBefore) return { before: [], version };
    return { before: this.#versions.at(leastVersion + 1, keys), version: Math.min(version, leastVersion) };
  }

  #announce(): ShardOutput[] {
    return [...this.#clients.values()].flatMap(({ subscriptions }) =>
      [...subscriptions.values()].flatMap((wanted): ShardOutput[] => {
        const { client, subscription, keys } = wanted;
        const version = this.#versions.least(keys);
        if (version < wanted.leastVersion) return [];
        subscriptions.set(subscription, { ...wanted, leastVersion: version + 1 });
        return [{ kind: "announce", client, subscription, keys, version }];
      }),
    );
  }
}

function idOf({ push: { client, timestamp } }: { readonly push: RequestId }): RequestId {
  return { client, timestamp };
}
