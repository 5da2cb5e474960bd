/**
 * @file One server's shard: which pushes it takes, when they are added and applied, which pulls must wait. It holds no values: its user does what
 * it says, in its order. The version of a key is how many whole steps have been applied to it; every step is brought by `shares` pushes for each
 * key. A push is acknowledged when it is applied, that is when every later pull sees it.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { Rules } from "./consistency.ts";
import { difference, intersection, isCovered, isSet, type KeyRange, Levels, type RangeSet, union } from "./ranges.ts";

export interface ShardInit {
  readonly range: KeyRange;
  /** With which the run begins: the version of every key until then. */
  readonly firstStep: number;
  /** Pushes that together make a step, for each key. */
  readonly shares: number;
  readonly rules: Rules;
  /** Steps beyond a key's version of which pushes are taken, less one; sums of so many steps are held. */
  readonly tau: number;
}

/** A request as a client numbers it. */
export interface RequestId {
  readonly client: number;
  /** Of this client, ascending. */
  readonly timestamp: number;
}

export type ShardInput =
  | (RequestId & {
      readonly kind: "push";
      /** No request of the client before this one is asked for any more. */
      readonly oldest: number;
      readonly step: number;
      readonly share: number;
      /** Keys for which the share's gradient is told; of those without a value it is zero. */
      readonly keys: RangeSet;
    })
  | (RequestId & {
      readonly kind: "pull";
      readonly oldest: number;
      readonly keys: RangeSet;
      /** Wanted of `keys`, which is then the range around them: ascending, each once. Absent: all of them. */
      readonly single?: ArrayLike<number>;
      readonly leastVersion: number;
    })
  /** From this version on the client is told every version of the keys, unasked. Said again, it replaces what was said before. */
  | {
      readonly kind: "subscribe";
      readonly client: number;
      readonly subscription: number;
      readonly keys: RangeSet;
      readonly leastVersion: number;
    };

export type ShardOutput =
  /** The sum of the step grows by the push's values for these keys. */
  | (RequestId & { readonly kind: "add"; readonly step: number; readonly keys: RangeSet })
  /** Nothing more is wanted of the push's values. */
  | (RequestId & { readonly kind: "forget" })
  /** The optimizer's update number `update`, from 0, of these keys: by a step's sum, which is zero afterwards … */
  | { readonly kind: "updateStep"; readonly step: number; readonly keys: RangeSet; readonly update: number }
  /** … or by one push's values. */
  | (RequestId & { readonly kind: "updatePush"; readonly keys: RangeSet; readonly update: number })
  /** Every key has the step: its sum, all zero by now, is not wanted any more. */
  | { readonly kind: "stepOver"; readonly step: number }
  | (RequestId & { readonly kind: "applied" })
  /** The keys' parameters as they are now; `version`: the least of them. */
  | (RequestId & { readonly kind: "answer"; readonly keys: RangeSet; readonly version: number })
  | {
      readonly kind: "announce";
      readonly client: number;
      readonly subscription: number;
      readonly keys: RangeSet;
      readonly version: number;
    }
  /** The client broke the protocol. */
  | { readonly kind: "refused"; readonly client: number; readonly reason: string };

const NOT_HERE = "keys that are not this server's, or no sorted ranges";

type Push = Extract<ShardInput, { kind: "push" }>;
type Pull = Extract<ShardInput, { kind: "pull" }>;
type Subscription = Extract<ShardInput, { kind: "subscribe" }>;

interface HeldPush {
  readonly push: Push;
  /** Keys that are not added yet. */
  waiting: RangeSet;
  /** Keys that are not applied yet. */
  unapplied: RangeSet;
}

/** A step of which not all is applied. */
interface OpenStep {
  /** Keys that have come, and that have been added, by share. */
  readonly arrived: RangeSet[];
  readonly added: RangeSet[];
  readonly pushes: Set<HeldPush>;
}

interface Client {
  oldest: number;
  /** Pushes from `oldest` on that are applied. */
  readonly applied: Set<number>;
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

  constructor(init: ShardInit) {
    assert(init.shares >= 1 && init.tau >= 0, "a step has a share, and tau is not negative");
    this.#init = init;
    this.#whole = [init.range];
    const { range, firstStep, shares, rules } = init;
    this.#versions = new Levels(range, firstStep);
    this.#updates = new Levels(range, rules.application === "step" ? firstStep : firstStep * shares);
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
    const client = this.#clientOf(input.client);
    switch (input.kind) {
      case "push":
        this.#forgetBefore(client, input.oldest);
        return input.timestamp < client.oldest ? [] : this.#push(client, input);
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
      applied: new Set<number>(),
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
    for (const timestamp of client.applied) if (timestamp < oldest) client.applied.delete(timestamp);
    for (const timestamp of client.pulls.keys()) if (timestamp < oldest) client.pulls.delete(timestamp);
  }

  #push(client: Client, push: Push): ShardOutput[] {
    const id = { client: push.client, timestamp: push.timestamp };
    if (client.applied.has(push.timestamp)) return [{ kind: "applied", ...id }];
    // It came twice: it is acknowledged when it is applied.
    if (client.pushes.has(push.timestamp)) return [];
    const reason = this.#refusal(push);
    if (reason !== undefined) return [{ kind: "refused", client: push.client, reason }];
    const step = this.#openStep(push.step);
    step.arrived[push.share] = union(step.arrived[push.share]!, push.keys);
    const held: HeldPush = { push, waiting: push.keys, unapplied: push.keys };
    client.pushes.set(push.timestamp, held);
    step.pushes.add(held);
    const outputs = this.#init.rules.application === "push" ? this.#applyNow(held) : this.#add(step, push.share);
    outputs.push(...this.#advance(push.step, push.keys), ...this.#answer(), ...this.#announce());
    return outputs;
  }

  #refusal({ step, share, keys }: Push): string | undefined {
    const { shares, rules, tau } = this.#init;
    if (!this.#has(keys)) return NOT_HERE;
    if (share < 0 || share >= shares) return `share ${share} of ${shares}`;
    const open = this.#steps.get(step);
    if (open !== undefined && intersection(open.arrived[share]!, keys).length > 0) {
      return `share ${share} of step ${step} twice`;
    }
    const parts = this.#versions.parts(keys);
    if (parts.at(-1)!.level > step) return `share ${share} of step ${step}, which is over`;
    if (rules.application === "step" && step - parts[0]!.level > tau) {
      return `share ${share} of step ${step} at version ${parts[0]!.level}, ahead by more than ${tau}`;
    }
    return undefined;
  }

  #has(keys: RangeSet): boolean {
    return keys.length > 0 && isSet(keys) && isCovered(keys, this.#whole);
  }

  #openStep(step: number): OpenStep {
    const none = (): RangeSet[] => Array.from({ length: this.#init.shares }, () => []);
    const open = this.#steps.get(step) ?? { arrived: none(), added: none(), pushes: new Set() };
    this.#steps.set(step, open);
    return open;
  }

  /** Adds what has come of this share, and then of those that waited for it. */
  #add(step: OpenStep, share: number): ShardOutput[] {
    const outputs: ShardOutput[] = [];
    for (let next = share; next < this.#init.shares; next += 1) {
      const isFree = this.#init.rules.order === "arrival" || next === 0;
      for (const held of step.pushes) {
        if (held.push.share !== next || held.waiting.length === 0) continue;
        const keys = isFree ? held.waiting : intersection(held.waiting, step.added[next - 1]!);
        if (keys.length === 0) continue;
        step.added[next] = union(step.added[next]!, keys);
        outputs.push(...this.#taken(held, keys, { kind: "add", ...idOf(held), step: held.push.step, keys }));
      }
      if (isFree && this.#init.rules.order === "arrival") break;
    }
    return outputs;
  }

  #taken(held: HeldPush, keys: RangeSet, output: ShardOutput): ShardOutput[] {
    held.waiting = difference(held.waiting, keys);
    return held.waiting.length > 0 ? [output] : [output, { kind: "forget", ...idOf(held) }];
  }

  #applyNow(held: HeldPush): ShardOutput[] {
    const { keys, step, share } = held.push;
    const open = this.#openStep(step);
    open.added[share] = union(open.added[share]!, keys);
    const outputs = this.#updates
      .parts(keys)
      .flatMap(({ level, keys: part }) =>
        this.#taken(held, part, { kind: "updatePush", ...idOf(held), keys: part, update: level }),
      );
    this.#updates.raise(keys);
    outputs.push(...this.#applied(held, keys));
    return outputs;
  }

  /** Versions grow where all shares of their step are in: first of this step, then of those behind it. */
  #advance(from: number, touched: RangeSet): ShardOutput[] {
    const outputs: ShardOutput[] = [];
    let keys = touched;
    for (let number = from; keys.length > 0; number += 1) {
      const step = this.#steps.get(number);
      if (step === undefined) break;
      const isIn = step.added.reduce<RangeSet>((all, share) => intersection(all, share), keys);
      keys = this.#versions.at(number, isIn);
      if (keys.length === 0) break;
      this.#versions.raise(keys);
      if (this.#init.rules.application === "step") outputs.push(...this.#updated(number, step, keys));
      if (step.pushes.size > 0 || this.version <= number) continue;
      this.#steps.delete(number);
      outputs.push({ kind: "stepOver", step: number });
    }
    return outputs;
  }

  #updated(number: number, step: OpenStep, keys: RangeSet): ShardOutput[] {
    const outputs: ShardOutput[] = [{ kind: "updateStep", step: number, keys, update: number }];
    for (const held of step.pushes) outputs.push(...this.#applied(held, keys));
    return outputs;
  }

  #applied(held: HeldPush, keys: RangeSet): ShardOutput[] {
    held.unapplied = difference(held.unapplied, keys);
    if (held.unapplied.length > 0) return [];
    const { client: id, timestamp, step } = held.push;
    const client = this.#clients.get(id)!;
    client.pushes.delete(timestamp);
    client.applied.add(timestamp);
    this.#steps.get(step)!.pushes.delete(held);
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
        return [{ kind: "answer", ...idOf({ push: pull }), keys, version }];
      }),
    );
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
