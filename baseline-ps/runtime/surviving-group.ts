/** @file Who lives, and which servers have which shards, of a run that survives its processes: the manager's knowledge, told to all as views. */
import { parseModel } from "../../src/nn/spec.ts";
import { divideKeys, type KeyMap } from "../core/key-map.ts";
import { Placement, type PlacementInput } from "../core/placement.ts";
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
  #workers: readonly number[];
  #number = 0;

  constructor(job: PsJob, events: GroupEvents) {
    this.#map = firstMap(job);
    this.#placement = firstPlacement(job);
    this.#workers = Array.from({ length: job.settings.nodes }, (_, worker) => worker);
    this.#events = events;
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
      default:
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
        const ranges = output.shards.map((shard) => this.#map.shards[shard]!);
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
    this.#events.tellAll({ kind: "view", view: { number: this.#number, chains, workers: this.#workers, joined: [] } });
  }
}
