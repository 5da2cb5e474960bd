/**
 * @file Which servers have which shards, while servers come, leave and die. Shards are the virtual servers of a consistent hash ring whose parts are all
 * of one length (DeCandia 2007, "Dynamo", section 6.2, strategy 3), which are dealt out so that no server has more than its part (Mirrokni 2018,
 * "Consistent Hashing with Bounded Loads"): who joins gets its part of the shards and nothing else moves, and what a dead server had goes to those that
 * have copies. Chains change in two ways only: one server is taken out, or one is put at the end, and gets a copy from the one before it.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { Place } from "./chain.ts";

/** The servers that have a shard, the head first. */
export interface ShardChain {
  /** Grows with every change. */
  readonly epoch: number;
  readonly servers: readonly number[];
  /** The last one is still getting its copy. */
  readonly isCopying: boolean;
}

export interface PlacementInit {
  /** By shard: the server that is to be its head at first. */
  readonly heads: readonly number[];
  /** Copies of each shard beside the head's. */
  readonly replicas: number;
  /** Where the shards are already, and on which servers they may be; absent: at the start. */
  readonly known?: { readonly chains: readonly ShardChain[]; readonly servers: readonly number[] };
}

export type PlacementInput =
  | { readonly kind: "lost"; readonly server: number }
  | { readonly kind: "joined"; readonly server: number }
  /** Its shards are to go to others; then it may go. */
  | { readonly kind: "leaves"; readonly server: number }
  /** The last server of the shard's chain has its copy. */
  | { readonly kind: "copied"; readonly shard: number; readonly epoch: number };

export type PlacementOutput =
  | { readonly kind: "changed" }
  /** Nothing is with it any more. */
  | { readonly kind: "free"; readonly server: number }
  /** No server has these shards. */
  | { readonly kind: "gone"; readonly shards: readonly number[] };

/** Copies under way at once: they take from the network what training needs. */
const COPIES_MAX = 4;

export class Placement implements Machine<PlacementInput, PlacementOutput> {
  readonly #replicas: number;
  /** Servers that take part. */
  readonly #servers = new Set<number>();
  readonly #leaving = new Set<number>();
  /** Who is to be the head of each shard. */
  readonly #wanted: number[];
  #chains: ShardChain[];
  #epoch = 0;

  constructor({ heads, replicas, known }: PlacementInit) {
    for (const server of known?.servers ?? heads) this.#servers.add(server);
    this.#replicas = replicas;
    this.#wanted = [...heads];
    if (known !== undefined) {
      this.#chains = [...known.chains];
      this.#epoch = Math.max(...known.chains.map(({ epoch }) => epoch));
      return;
    }
    assert(replicas < this.#servers.size, "each copy is on a server of its own");
    this.#chains = heads.map((head) => ({ epoch: 0, servers: [head], isCopying: false }));
    // At the start all have the same values: nothing is to be copied.
    for (const shard of this.#chains.keys()) {
      while (this.#chains[shard]!.servers.length <= replicas)
        this.#setServers(shard, [...this.#of(shard), this.#next(shard)!]);
    }
    this.#chains = this.#chains.map((chain) => ({ ...chain, epoch: 0 }));
    this.#epoch = 0;
  }

  /** Whether a server may leave, and each shard have all its copies. */
  get canSpare(): boolean {
    return this.#staying.length > this.#replicas + 1;
  }

  get chains(): readonly ShardChain[] {
    return this.#chains;
  }

  get servers(): readonly number[] {
    return [...this.#servers].toSorted((a, b) => a - b);
  }

  handle(input: PlacementInput): readonly PlacementOutput[] {
    const before = this.#epoch;
    const outputs = this.#change(input);
    if (outputs.length > 0) return outputs;
    this.#plan();
    for (const server of this.#leaving) {
      if (this.#chains.some(({ servers }) => servers.includes(server))) continue;
      this.#leaving.delete(server);
      this.#servers.delete(server);
      outputs.push({ kind: "free", server });
    }
    return this.#epoch === before ? outputs : [{ kind: "changed" }, ...outputs];
  }

  /** Returns that shards are gone, where they are: then nothing is to be planned any more. */
  #change(input: PlacementInput): PlacementOutput[] {
    switch (input.kind) {
      case "lost":
        return this.#lost(input.server);
      case "joined":
        this.#joined(input.server);
        return [];
      case "leaves":
        // Each shard is to have all its copies without it.
        if (!this.#staying.includes(input.server) || !this.canSpare) return [];
        this.#leaving.add(input.server);
        this.#handOver(input.server);
        return [];
      case "copied": {
        const chain = this.#chains[input.shard];
        if (chain?.isCopying !== true || chain.epoch !== input.epoch) return [];
        this.#epoch += 1;
        this.#chains[input.shard] = { ...chain, epoch: this.#epoch, isCopying: false };
        return [];
      }
    }
  }

  #lost(server: number): PlacementOutput[] {
    this.#servers.delete(server);
    this.#leaving.delete(server);
    if (this.#staying.length <= this.#replicas) this.#leaving.clear();
    const gone: number[] = [];
    for (const [shard, { servers, isCopying }] of this.#chains.entries()) {
      if (!servers.includes(server)) continue;
      const left = servers.filter((each) => each !== server);
      // Who has not got its copy has nothing.
      if (left.length === (isCopying && servers.at(-1) !== server ? 1 : 0)) gone.push(shard);
      else this.#setServers(shard, left, isCopying && servers.at(-1) !== server);
    }
    this.#handOver(server);
    return gone.length === 0 ? [] : [{ kind: "gone", shards: gone }];
  }

  /** Its part of the shards, from those that have most. */
  #joined(server: number): void {
    if (this.#servers.has(server)) return;
    this.#servers.add(server);
    const part = Math.floor(this.#wanted.length / this.#staying.length);
    for (let count = 0; count < part; count += 1) {
      const most = Math.max(...this.#staying.map((each) => this.#load(each)));
      const candidates = [...this.#wanted.keys()].filter((shard) => this.#load(this.#wanted[shard]!) === most);
      this.#wanted[best(candidates, (shard) => weight(shard, server))!] = server;
    }
  }

  /** To the servers that have copies already, those with least first. */
  #handOver(server: number): void {
    for (const [shard, wanted] of this.#wanted.entries()) {
      if (wanted !== server) continue;
      const copies = this.#of(shard).filter((each) => this.#staying.includes(each));
      const candidates = copies.length > 0 ? copies : this.#staying;
      const next = best(candidates, (each) => weight(shard, each) - this.#load(each));
      if (next !== undefined) this.#wanted[shard] = next;
    }
  }

  get #staying(): readonly number[] {
    return [...this.#servers].filter((server) => !this.#leaving.has(server));
  }

  #load(server: number): number {
    return this.#wanted.filter((wanted) => wanted === server).length;
  }

  #of(shard: number): readonly number[] {
    return this.#chains[shard]!.servers;
  }

  #setServers(shard: number, servers: readonly number[], isCopying = false): void {
    this.#epoch += 1;
    this.#chains[shard] = { epoch: this.#epoch, servers, isCopying };
  }

  /** Whom to put at the end of the chain: who has least, of those that have nothing of it. */
  #next(shard: number): number | undefined {
    const others = this.#staying.filter((server) => !this.#of(shard).includes(server));
    const held = (server: number): number => this.#chains.filter(({ servers }) => servers.includes(server)).length;
    return best(others, (server) => weight(shard, server) - held(server));
  }

  #plan(): void {
    for (const shard of this.#chains.keys()) while (!this.#chains[shard]!.isCopying && this.#step(shard)) {}
  }

  /** One change towards what is wanted; never below the copies that there are to be. Returns whether there was one. */
  #step(shard: number): boolean {
    const servers = this.#of(shard);
    const length = Math.min(this.#replicas + 1, this.#staying.length);
    const wanted = this.#wanted[shard]!;
    const without = (server: number): boolean => {
      this.#setServers(
        shard,
        servers.filter((each) => each !== server),
      );
      return true;
    };
    const leaving = servers.find((server) => this.#leaving.has(server));
    if (servers.length > length) {
      if (leaving !== undefined) return without(leaving);
      if (servers[0] !== wanted && servers.includes(wanted)) return without(servers[0]!);
    }
    if (!servers.includes(wanted)) return this.#append(shard, wanted);
    if (leaving !== undefined || servers.length < length) return this.#append(shard, this.#next(shard));
    if (servers.length > length) return without(servers.findLast((server) => server !== wanted)!);
    return servers[0] !== wanted && this.#append(shard, this.#next(shard));
  }

  #append(shard: number, server: number | undefined): boolean {
    const copies = this.#chains.filter(({ isCopying }) => isCopying).length;
    if (server === undefined || copies >= COPIES_MAX) return false;
    this.#setServers(shard, [...this.#of(shard), server], true);
    return true;
  }
}

/** What the chain means to one of its servers; undefined for others. */
export function placeIn({ epoch, servers, isCopying }: ShardChain, server: number): Place | undefined {
  const index = servers.indexOf(server);
  if (index < 0) return undefined;
  const hasState = (at: number): boolean => !isCopying || at < servers.length - 1;
  return {
    ...{ epoch, previous: servers[index - 1] ?? null, next: servers[index + 1] ?? null },
    ...{ hasState: hasState(index), nextHasState: hasState(index + 1) },
  };
}

function best<T>(candidates: readonly T[], valueOf: (candidate: T) => number): T | undefined {
  return candidates.toSorted((a, b) => valueOf(b) - valueOf(a))[0];
}

/** Of a shard and a server, between 0 and 1: by chance, but always the same (Thaler and Ravishankar 1998: rendezvous hashing). */
function weight(shard: number, server: number): number {
  let mixed = Math.imul(shard + 1, 0x9e37_79b1) ^ Math.imul(server + 1, 0x85eb_ca77);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x2c1b_3c6d);
  mixed = Math.imul(mixed ^ (mixed >>> 12), 0x297a_2d39);
  return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
}
