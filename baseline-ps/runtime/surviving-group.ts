/** @file Who lives, and which servers have which shards, of a run that survives its processes: the manager's knowledge, told to all as views. */
import { parseModel } from "../../src/nn/spec.ts";
import { divideKeys, type KeyMap } from "../core/key-map.ts";
import { Placement, type PlacementInput } from "../core/placement.ts";
import { type RangeSet, union } from "../core/ranges.ts";
import type { Order, PsJob, PsRole, PsView } from "./messages.ts";

/** Shards of each server at the start: the more, the finer is what moves; each costs a server a few microseconds a message. */
const SHARDS_EACH = 4;

/** Where the keys of a job are at first. */
export function firstMap({ settings }: PsJob): KeyMap {
  const { servers, serverReplicas, model } = settings;
  return divideKeys(parseModel(model).parameters, servers, serverReplicas === 0 ? 1 : SHARDS_EACH);
}

/** The same shards, as a view has them. */
export function mapOf(first: KeyMap, { chains }: PsView): KeyMap {
  return { ...first, heads: chains.map(({ servers }) => servers[0]!) };
}

/** Of the view with which a run begins. */
export function firstPlacement(job: PsJob): Placement {
  return new Placement({ heads: firstMap(job).heads, replicas: job.settings.serverReplicas });
}

function placementOf(job: PsJob, { chains, joined }: PsView): Placement {
  const servers = new Set([...chains.flatMap((chain) => chain.servers), ...joined.map(({ role }) => role.index)]);
  const heads = chains.map((chain) => chain.servers[0]!);
  return new Placement({ heads, replicas: job.settings.serverReplicas, known: { chains, servers: [...servers] } });
}

export interface GroupEvents {
  readonly tellAll: (order: Order) => void;
  readonly tellServer: (server: number, order: Order) => void;
}

export class SurvivingGroup {
  /** What cannot be made good, as the end of a sentence. */
  loss = "";
  readonly #map: KeyMap;
  readonly #placement: Placement;
  readonly #events: GroupEvents;
  readonly #nodes: number;
  #workers: readonly number[];
  /** Servers of before the job, and those that came since. */
  #servers: number;
  readonly #joined: PsView["joined"][number][];
  #hasStandby = true;
  #standsIn: boolean;
  #number: number;
  #view: PsView | null;

  /** @param view the newest that any of the group has heard, where another manager has told it; null: the first one */
  constructor(job: PsJob, events: GroupEvents, view: PsView | null = null) {
    this.#map = firstMap(job);
    this.#events = events;
    this.#nodes = job.settings.nodes;
    this.#workers = view?.workers ?? Array.from({ length: this.#nodes }, (_, worker) => worker);
    this.#joined = [...(view?.joined ?? [])];
    this.#servers = Math.max(job.settings.servers, ...this.#joined.map(({ role }) => role.index + 1));
    this.#standsIn = view?.standsIn ?? false;
    this.#number = view?.number ?? 0;
    this.#view = view;
    this.#placement = view === null ? firstPlacement(job) : placementOf(job, view);
  }

  /** Those who are to be there, but the manager. */
  get living(): readonly PsRole[] {
    const servers = new Set(this.#placement.servers);
    const all = (kind: PsRole["kind"], indices: Iterable<number>): PsRole[] =>
      [...indices].map((index) => ({ kind, index }));
    const schedulers = [...all("scheduler", this.#standsIn ? [] : [0]), ...all("standby", [0])];
    return [...all("worker", this.#workers), ...all("server", servers), ...schedulers];
  }

  /** Says to all what it knows, as a view of its own: who has missed one has it now. */
  retell(): void {
    this.#tell();
  }

  /** The place that somebody who comes may take; undefined: there is none. */
  placeFor({ kind }: PsRole): PsRole | undefined {
    if (kind === "server") return { kind, index: this.#servers++ };
    const free = Array.from({ length: this.#nodes }, (_, worker) => worker).find(
      (each) => !this.#workers.includes(each),
    );
    return kind === "worker" && free !== undefined ? { kind, index: free } : undefined;
  }

  /** It can be dialled. */
  joined(member: PsView["joined"][number]): void {
    const { kind, index } = member.role;
    if (kind === "worker") {
      this.#workers = [...this.#workers, index].toSorted((a, b) => a - b);
      return this.#tell();
    }
    this.#joined.push(member);
    this.#place({ kind: "joined", server: index });
  }

  /** Its shards go to others first; a worker may go at once. Returns whether the run can do without it. */
  leaves({ kind, index }: PsRole): boolean {
    if (kind === "worker") return this.#workers.length > 1 && this.lost({ kind, index });
    return kind === "server" && this.#placement.canSpare && this.#place({ kind: "leaves", server: index });
  }

  get remedy(): string {
    return this.loss === "" ? "see its log; start the run again" : "use more --server-replicas; go on with --resume";
  }

  /** Returns whether the run goes on without it. */
  lost({ kind, index }: PsRole): boolean {
    switch (kind) {
      case "server":
        return this.#place({ kind: "lost", server: index });
      case "worker":
        this.#workers = this.#workers.filter((worker) => worker !== index);
        this.#tell();
        return this.#workers.length > 0;
      case "scheduler":
        if (!this.#hasStandby || this.#standsIn) return false;
        this.#standsIn = true;
        this.#tell();
        return true;
      case "standby":
        this.#hasStandby = false;
        return !this.#standsIn;
      case "data":
        return false;
    }
  }

  copied(shard: number, epoch: number): void {
    this.#place({ kind: "copied", shard, epoch });
  }

  #place(input: PlacementInput): boolean {
    let isWhole = true;
    for (const output of this.#placement.handle(input)) {
      if (output.kind === "gone") {
        const ranges = output.shards.reduce<RangeSet>((all, shard) => union(all, [this.#map.shards[shard]!]), []);
        this.loss = `: no server has the keys ${ranges.map(({ start, end }) => `[${start}, ${end})`).join(" ")} any more`;
        isWhole = false;
      }
      if (output.kind === "changed") this.#tell();
      if (output.kind === "free") this.#events.tellServer(output.server, { kind: "free" });
    }
    return isWhole;
  }

  #tell(): void {
    this.#number += 1;
    const chains = this.#placement.chains.map(({ epoch, servers, isCopying }) => ({
      epoch,
      servers: [...servers],
      isCopying,
    }));
    this.#view = {
      number: this.#number,
      chains,
      workers: this.#workers,
      standsIn: this.#standsIn,
      joined: [...this.#joined],
    };
    this.#events.tellAll({ kind: "view", view: this.#view });
  }

  /** The newest; null where nothing has changed since the job was given. */
  get view(): PsView | null {
    return this.#view;
  }
}
