/** @file A shard on one server: the machine, the values, and what goes to the other servers of its chain. */
import type { Timeline } from "../../src/metrics/timeline.ts";
import { defined } from "../../src/types/assert.ts";
import type { ChainMessage, Update } from "../core/chain.ts";
import { HeldShard, type HeldInput, type HeldOutput, type ShardCopy, type UpdateValues } from "../core/held-shard.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { ShardInit, ShardOutput, ShardState } from "../core/shard-messages.ts";
import type { ShardStore } from "./store.ts";

type Input = HeldInput<Float32Array, readonly Float32Array[]>;
type Output = HeldOutput<Float32Array, readonly Float32Array[]>;
/** From another server of the chain. */
export type PeerMessage = ChainMessage<UpdateValues<Float32Array>, ShardCopy<readonly Float32Array[]>>;

/** What clients are to hear. */
export type Saying = Extract<ShardOutput, { kind: "applied" | "answer" | "announce" | "refused" }>;

/** To other servers of the chain. Arrays are read before it returns. */
export interface ChainPeers {
  forward(to: number, shard: number, epoch: number, index: number, update: Update, values: Float32Array): void;
  tell(to: number, shard: number, epoch: number, index: number): void;
  copy(
    to: number,
    shard: number,
    epoch: number,
    updates: number,
    state: ShardState,
    arrays: readonly Float32Array[],
  ): void;
  /** Values that came are not wanted any more. */
  release(received: Float32Array): void;
  /** The shard has come, and is kept from now on. */
  installed(shard: number, epoch: number): void;
}

export interface HostedShardInit {
  readonly index: number;
  readonly shard: ShardInit;
  readonly store: ShardStore;
  readonly peers: ChainPeers;
  readonly timeline: Pick<Timeline, "add">;
  readonly nowMs: () => number;
}

export class HostedShard {
  readonly store: ShardStore;
  readonly #init: HostedShardInit;
  readonly #held: HeldShard<Float32Array, readonly Float32Array[]>;

  constructor(init: HostedShardInit) {
    this.#init = init;
    this.store = init.store;
    this.#held = new HeldShard(init.shard);
  }

  get range(): KeyRange {
    return this.#init.shard.range;
  }

  get isHead(): boolean {
    return this.#held.isHead;
  }

  /** The least of all keys. */
  get version(): number {
    return this.#held.shard?.version ?? this.#init.shard.firstStep;
  }

  /** @returns what is to be said, and to be read before anything else is done: `say` is called in order, between changes of values */
  handle(input: Input, say: (saying: Saying) => void): void {
    for (const output of this.#held.handle(input)) this.#do(output, say);
  }

  #do(output: Output, say: (saying: Saying) => void): void {
    const { peers, index: shard } = this.#init;
    switch (output.kind) {
      case "add":
      case "forget":
      case "stepOver":
        return this.store.do(output);
      case "update": {
        const startMs = this.#init.nowMs();
        this.store.do(output);
        this.#note(output.made.step, startMs);
        return;
      }
      case "forward": {
        const { to, epoch, index, update, values } = output;
        return peers.forward(to, shard, epoch, index, update, this.store.valuesOf(update, update.keys, values));
      }
      case "tell":
        return peers.tell(output.to, shard, output.epoch, output.index);
      case "sendCopy":
        return peers.copy(output.to, shard, output.epoch, output.updates, output.state, this.store.arrays);
      case "reset":
        this.store.reset();
        for (const values of output.dropped) if (values.kind === "received") peers.release(values.received);
        return;
      case "install":
        for (const [place, values] of output.copy.values.entries()) {
          defined(this.store.arrays[place], "as many arrays on every server").set(values);
        }
        return peers.installed(shard, this.#held.place.epoch);
      case "done":
        return peers.release(output.received);
      default:
        return say(output);
    }
  }

  #note(step: number, startMs: number): void {
    const { timeline, nowMs } = this.#init;
    timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs: nowMs(), bytes: 0 });
  }
}
