/** @file What must hold of servers that die: values as lists of shares, and rules C1 to C5 of `baseline-ps/README.md` about them. */
import type { Update } from "../../baseline-ps/core/chain.ts";
import type { HeldShard, UpdateValues } from "../../baseline-ps/core/held-shard.ts";
import type { KeyMap } from "../../baseline-ps/core/key-map.ts";
import type { ShardChain } from "../../baseline-ps/core/placement.ts";
import { intersection, type KeyRange, type RangeSet } from "../../baseline-ps/core/ranges.ts";
import type { RequestId } from "../../baseline-ps/core/shard-messages.ts";
import type { ChainScenario } from "./chain-simulation.ts";

/** Of one key: shares that are in it, in their order. */
export interface Shares {
  readonly key: number;
  readonly shares: readonly string[];
}

export type ByKey = ReadonlyMap<number, readonly string[]>;

interface Pushed {
  readonly step: number;
  readonly share: number;
  readonly keys: RangeSet;
}

export function* keysIn(set: RangeSet): Generator<number> {
  for (const { start, end } of set) for (let key = start; key < end; key += 1) yield key;
}

function check(holds: boolean, rule: string, what: () => string): void {
  if (!holds) throw new Error(`${rule}: ${what()}`);
}

/** The values of one shard. */
export class SimulatedStore {
  readonly range: KeyRange;
  readonly #keepsBefore: boolean;
  #applied = new Map<number, readonly string[]>();
  #before = new Map<number, readonly string[]>();
  readonly #sums = new Map<string, string[]>();
  readonly #pushes = new Map<string, Pushed>();

  constructor(range: KeyRange, keepsBefore: boolean) {
    this.range = range;
    this.#keepsBefore = keepsBefore;
  }

  keep({ client, timestamp }: RequestId, pushed: Pushed): void {
    this.#pushes.set(`${client} ${timestamp}`, pushed);
  }

  forget({ client, timestamp }: RequestId): void {
    this.#pushes.delete(`${client} ${timestamp}`);
  }

  add({ client, timestamp }: RequestId, step: number, keys: RangeSet): void {
    const pushed = this.#pushes.get(`${client} ${timestamp}`)!;
    check(pushed !== undefined, "C2", () => `values of ${client} ${timestamp} are not kept`);
    for (const key of keysIn(keys)) {
      this.#sums.set(`${step} ${key}`, [...(this.#sums.get(`${step} ${key}`) ?? []), `${step}/${pushed.share}`]);
    }
  }

  valuesOf(made: Update, keys: KeyRange, from: UpdateValues<ByKey>): ByKey {
    if (from.kind === "received") return from.received;
    if (from.kind === "sum") {
      return new Map([...keysIn([keys])].map((key) => [key, this.#sums.get(`${made.step} ${key}`) ?? []]));
    }
    const pushed = this.#pushes.get(`${from.push.client} ${from.push.timestamp}`);
    check(pushed !== undefined, "C2", () => `values of ${JSON.stringify(from.push)} are not kept`);
    return new Map([...keysIn([keys])].map((key) => [key, [`${pushed!.step}/${pushed!.share}`]]));
  }

  update(made: Update, keys: RangeSet, values: UpdateValues<ByKey>): void {
    const all = this.valuesOf(made, made.keys, values);
    for (const key of keysIn(keys)) {
      const shares = all.get(key)!;
      if (this.#keepsBefore) this.#before.set(key, this.of(key));
      this.#applied.set(key, [...this.of(key), ...shares]);
      this.#sums.delete(`${made.step} ${key}`);
    }
  }

  of(key: number): readonly string[] {
    return this.#applied.get(key) ?? [];
  }

  read(keys: RangeSet, before: RangeSet): readonly Shares[] {
    const old = new Set(keysIn(before));
    return [...keysIn(keys)].map((key) => ({ key, shares: old.has(key) ? this.#before.get(key)! : this.of(key) }));
  }

  reset(): void {
    this.#pushes.clear();
    this.#sums.clear();
  }

  copy(): readonly Shares[] {
    const all = (values: Map<number, readonly string[]>): Shares[] =>
      [...values].map(([key, shares]) => ({ key, shares }));
    return [...all(this.#applied), ...all(this.#before).map(({ key, shares }) => ({ key: -1 - key, shares }))];
  }

  install(copied: readonly Shares[]): void {
    this.#applied = new Map(copied.filter(({ key }) => key >= 0).map(({ key, shares }) => [key, shares]));
    this.#before = new Map(copied.filter(({ key }) => key < 0).map(({ key, shares }) => [-1 - key, shares]));
  }
}

interface HostedShard {
  readonly held: HeldShard<ByKey, readonly Shares[]>;
  readonly store: SimulatedStore;
}

export class ChainChecker {
  readonly #scenario: ChainScenario;
  readonly #map: KeyMap;
  readonly #pushes = new Map<string, Pushed>();
  /** By key: shares that somebody was told are in it. */
  readonly #acknowledged: Set<string>[];

  constructor(scenario: ChainScenario, map: KeyMap) {
    this.#scenario = scenario;
    this.#map = map;
    this.#acknowledged = Array.from({ length: scenario.keys }, () => new Set());
  }

  pushes(client: number, timestamp: number, pushed: Pushed): void {
    this.#pushes.set(`${client} ${timestamp}`, pushed);
  }

  /** A server says that all keys of the push in its shard have it. */
  acknowledged(shard: number, { client, timestamp }: RequestId, store: SimulatedStore): void {
    const { step, share, keys } = this.#pushes.get(`${client} ${timestamp}`)!;
    for (const key of keysIn(intersection(keys, [this.#map.shards[shard]!]))) {
      check(
        store.of(key).includes(`${step}/${share}`),
        "C1",
        () => `${step}/${share} is acknowledged, and key ${key} lacks it`,
      );
      this.#acknowledged[key]!.add(`${step}/${share}`);
    }
  }

  /** Of the first key of a range: what whoever asks from now on must see. */
  acknowledgedOf(range: KeyRange): ReadonlyMap<number, ReadonlySet<string>> {
    return new Map([...keysIn([range])].map((key) => [key, new Set(this.#acknowledged[key])]));
  }

  /** An answer: every share of the steps before its version, and whatever was acknowledged before it was asked. */
  read(
    step: number,
    version: number,
    shares: readonly Shares[],
    atLeast: ReadonlyMap<number, ReadonlySet<string>>,
  ): void {
    const { workers, consistency } = this.#scenario;
    const { kind, tau } = consistency;
    check(step - version <= tau, "C3", () => `step ${step} reads version ${version}`);
    for (const { key, shares: found } of shares) {
      check(new Set(found).size === found.length, "C2", () => `key ${key} has ${found.join()}`);
      for (let before = 0; before < version; before += 1) {
        for (let share = 0; share < workers; share += 1) {
          check(
            found.includes(`${before}/${share}`),
            "C3",
            () => `version ${version} of key ${key} lacks ${before}/${share}`,
          );
        }
      }
      if (kind === "bsp") {
        const expected = Array.from(
          { length: step * workers },
          (_, index) => `${Math.floor(index / workers)}/${index % workers}`,
        );
        check(found.join() === expected.join(), "C3", () => `step ${step} reads ${found.join()} of key ${key}`);
      } else {
        for (const share of atLeast.get(key) ?? [])
          check(found.includes(share), "C1", () => `key ${key} was acknowledged ${share}, and is read without`);
      }
      // What is read is shown: nobody may see less from now on.
      for (const share of found) this.#acknowledged[key]!.add(share);
    }
  }

  /** After every event, of all servers that live. */
  look(servers: readonly { readonly number: number; readonly shards: ReadonlyMap<number, HostedShard> }[]): void {
    for (const { number, shards } of servers) {
      for (const [shard, { held, store }] of shards) {
        if (!held.hasState) continue;
        for (const key of keysIn([this.#map.shards[shard]!])) {
          const found = store.of(key);
          check(new Set(found).size === found.length, "C2", () => `server ${number} has ${found.join()} in key ${key}`);
        }
      }
    }
  }

  /** At rest all servers of a chain have the same, and all of it. */
  ended(
    servers: readonly { readonly number: number; readonly shards: ReadonlyMap<number, HostedShard> }[],
    chains: readonly ShardChain[],
  ): void {
    const { workers, steps, consistency } = this.#scenario;
    for (const [shard, chain] of chains.entries()) {
      const copies = servers.flatMap(({ number, shards }) =>
        chain.servers.includes(number) ? (shards.get(shard) ?? []) : [],
      );
      check(
        copies.length === chain.servers.length,
        "C5",
        () => `${copies.length} servers have shard ${shard} of ${chain.servers.join()}`,
      );
      for (const key of keysIn([this.#map.shards[shard]!])) {
        const found = copies.map(({ store }) => store.of(key));
        for (const shares of found)
          check(shares.join() === found[0]!.join(), "C5", () => `copies of key ${key} differ`);
        check(found[0]!.length === workers * steps, "C1", () => `key ${key} has ${found[0]!.join()}`);
        if (consistency.kind !== "bsp") continue;
        const expected = Array.from(
          { length: steps * workers },
          (_, index) => `${Math.floor(index / workers)}/${index % workers}`,
        );
        check(found[0]!.join() === expected.join(), "C4", () => `key ${key} has ${found[0]!.join()}`);
      }
    }
  }
}
