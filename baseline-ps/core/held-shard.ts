/**
 * @file A shard as one server holds it: the machine of its keys, and the server's place in the shard's chain. The head takes requests; what it decides
 * goes down the chain and is made when all behind have it. Behind it the same machine makes the same updates, and goes on where the head is gone.
 */
import { defined } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import { Chain, type ChainInput, type ChainOutput, type Place, type Update } from "./chain.ts";
import { Shard } from "./shard.ts";
import type { RequestId, ShardInit, ShardInput, ShardOutput, ShardState } from "./shard-messages.ts";

/** Where an update's values are: in the step's sum, in a push that is kept, or in what came from the previous server. */
export type UpdateValues<Received> =
  | { readonly kind: "sum" }
  | { readonly kind: "push"; readonly push: RequestId }
  | { readonly kind: "received"; readonly received: Received };

/** The machine's state, and the values. */
export interface ShardCopy<Copied> {
  readonly state: ShardState;
  readonly values: Copied;
}

type Requested = Exclude<ShardInput, { kind: "decided" | "make" }>;

export type HeldInput<Received, Copied> =
  | { readonly kind: "request"; readonly request: Requested }
  | Exclude<ChainInput<UpdateValues<Received>, ShardCopy<Copied>>, { kind: "propose" }>;

export type HeldOutput<Received, Copied> =
  | Exclude<ShardOutput, { kind: "decide" | "update" }>
  | (Extract<ShardOutput, { kind: "update" }> & { readonly values: UpdateValues<Received> })
  | Extract<ChainOutput<UpdateValues<Received>, ShardCopy<Copied>>, { kind: "forward" | "tell" | "install" | "reset" }>
  | {
      readonly kind: "sendCopy";
      readonly to: number;
      readonly epoch: number;
      readonly updates: number;
      readonly state: ShardState;
    }
  /** What came of this update is made, and not wanted any more. */
  | { readonly kind: "done"; readonly received: Received };

type Outputs<Received, Copied> = HeldOutput<Received, Copied>[];

export class HeldShard<Received, Copied> implements Machine<HeldInput<Received, Copied>, HeldOutput<Received, Copied>> {
  readonly #init: ShardInit;
  readonly #chain = new Chain<UpdateValues<Received>, ShardCopy<Copied>>();
  /** Undefined until it has come from the previous server. */
  #shard: Shard | undefined;

  /** Its place is to be said first: one that has the shard from the start has it as it is before the first step. */
  constructor(init: ShardInit) {
    this.#init = init;
  }

  get isHead(): boolean {
    return this.#chain.isHead;
  }

  get hasState(): boolean {
    return this.#chain.hasState;
  }

  get place(): Place {
    return this.#chain.place;
  }

  /** The machine of its keys; undefined before they have come. */
  get shard(): Shard | undefined {
    return this.#shard;
  }

  get counts(): { readonly made: number; readonly held: number } {
    return this.#chain.counts;
  }

  /** A request to who is not the head comes to nothing: its client hears of the head, and says it there. */
  handle(input: HeldInput<Received, Copied>): readonly HeldOutput<Received, Copied>[] {
    if (input.kind === "place" && this.#chain.place.epoch < 0 && input.place.hasState)
      this.#shard = new Shard(this.#init);
    if (input.kind !== "request") return this.#fromChain(this.#chain.handle(input));
    return this.isHead ? this.#fromShard(this.#machine.handle(input.request)) : [];
  }

  get #machine(): Shard {
    return defined(this.#shard, "the shard is here");
  }

  #fromShard(outputs: readonly ShardOutput[], values?: UpdateValues<Received>): Outputs<Received, Copied> {
    return outputs.flatMap((output): Outputs<Received, Copied> => {
      if (output.kind === "update") return [{ ...output, values: defined(values, "an update is made with values") }];
      if (output.kind !== "decide") return [output];
      const { update, push } = output;
      const own: UpdateValues<Received> = push === null ? { kind: "sum" } : { kind: "push", push };
      return this.#fromChain(this.#chain.handle({ kind: "propose", update, values: own }));
    });
  }

  #fromChain(outputs: readonly ChainOutput<UpdateValues<Received>, ShardCopy<Copied>>[]): Outputs<Received, Copied> {
    return outputs.flatMap((output): Outputs<Received, Copied> => {
      switch (output.kind) {
        case "take":
          return this.#fromShard(this.#machine.handle({ kind: "decided", update: output.update }));
        case "make":
          return this.#make(output.update, output.values);
        case "reset":
          this.#shard = undefined;
          return [output];
        case "install":
          this.#shard = new Shard(this.#init, output.copy.state);
          return [output];
        case "sendCopy":
          return [{ ...output, state: this.#machine.state }];
        default:
          return [output];
      }
    });
  }

  #make(update: Update, values: UpdateValues<Received>): Outputs<Received, Copied> {
    const outputs = this.#fromShard(this.#machine.handle({ kind: "make", update }), values);
    return values.kind === "received" ? [...outputs, { kind: "done", received: values.received }] : outputs;
  }
}
