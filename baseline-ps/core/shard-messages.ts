/** @file What a shard's machine hears and says. */
import type { Update } from "./chain.ts";
import type { Rules } from "./consistency.ts";
import type { KeyRange, RangeSet } from "./ranges.ts";

export interface ShardInit {
  readonly range: KeyRange;
  /** With which the run begins: the version of every key until then. */
  readonly firstStep: number;
  /** Pushes that together make a step, for each key. */
  readonly shares: number;
  readonly rules: Rules;
  /** Whether parameters are kept as they were before their newest update: pulls are answered with the version that they ask for. */
  readonly keepsBefore: boolean;
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
    }
  /** Nothing more is told to this client; what it pushed counts. */
  | { readonly kind: "gone"; readonly client: number }
  /** An update that was decided elsewhere: pushes of what is in it are wanted no more. */
  | { readonly kind: "decided"; readonly update: Update }
  /** A decided update is to be made; in the order in which they were decided. */
  | { readonly kind: "make"; readonly update: Update };

export type ShardOutput =
  /** The sum of the step grows by the push's values for these keys. */
  | (RequestId & { readonly kind: "add"; readonly step: number; readonly keys: RangeSet })
  /** Nothing more is wanted of the push's values. */
  | (RequestId & { readonly kind: "forget" })
  /** It is to be made, by the step's sum or by the values of `push`, which are kept until then. */
  | { readonly kind: "decide"; readonly update: Update; readonly push: RequestId | null }
  /** The function's update number `number`, from 0, of these keys, which are `made`'s or a part of them; a sum is zero afterwards. */
  | { readonly kind: "update"; readonly made: Update; readonly keys: RangeSet; readonly number: number }
  /** Every key has the step: its sum, all zero by now, is not wanted any more. */
  | { readonly kind: "stepOver"; readonly step: number }
  | (RequestId & { readonly kind: "applied" })
  /** The keys' parameters; `version`: the least of them. Of those `before`, as they were before their newest update. */
  | (RequestId & {
      readonly kind: "answer";
      readonly keys: RangeSet;
      readonly before: RangeSet;
      readonly version: number;
    })
  | {
      readonly kind: "announce";
      readonly client: number;
      readonly subscription: number;
      readonly keys: RangeSet;
      readonly version: number;
    }
  /** The client broke the protocol. */
  | { readonly kind: "refused"; readonly client: number; readonly reason: string };

/** All that another server needs to go on with the shard, but the values. Sums of steps that are not whole are not in it: their shares come again. */
export interface ShardState {
  readonly versions: readonly (KeyRange & { readonly level: number })[];
  readonly updates: readonly (KeyRange & { readonly level: number })[];
  /** Where each push is applied alone: keys that have it, by share, of steps that not all keys have. */
  readonly shares: readonly { readonly step: number; readonly added: readonly RangeSet[] }[];
}
