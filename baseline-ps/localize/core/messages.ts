/**
 * @file What nodes with dynamically allocated keys say to each other. `V` is what the values of one key are to the caller: the machine moves them and
 * never looks at them. Lists of values are by place of the key.
 */

/** A worker's operation on its way: from its origin to the home, and on to the owner. */
export interface Operation<V> {
  readonly kind: "pull" | "push";
  /** The node of the worker. */
  readonly origin: number;
  /** Which of the origin's requests it is a part of. */
  readonly request: number;
  readonly keys: readonly number[];
  /** Of a push: what is added. None in a pull. */
  readonly values: readonly V[];
}

/** `owner` is to have the keys: `localize` to the home from that node, `relocate` from the home to the owner so far. */
export interface Move {
  readonly kind: "localize" | "relocate";
  readonly owner: number;
  readonly keys: readonly number[];
}

export type Message<V> =
  | Operation<V>
  | Move
  /** From the owner so far to the new one: the third and last message of a relocation. */
  | { readonly kind: "handOver"; readonly keys: readonly number[]; readonly values: readonly V[] }
  /** From the owner to the origin. */
  | {
      readonly kind: "pulled";
      readonly request: number;
      readonly keys: readonly number[];
      readonly values: readonly V[];
    }
  /** From the owner to the origin: so many keys of the request have what was pushed. */
  | { readonly kind: "pushed"; readonly request: number; readonly count: number };

/** What this node's workers want. */
export interface Issue<V> {
  readonly kind: "issue";
  readonly operation: "pull" | "push" | "localize";
  /** Unlike that of any other request of this node that is open. */
  readonly request: number;
  /** At least one, each once. */
  readonly keys: readonly number[];
  /** Of a push; else none. */
  readonly values: readonly V[];
}

/** To be done in their order: values are those of this moment. */
export type AllocationOutput<V> =
  /** Add to the values of keys that are here. */
  | { readonly kind: "add"; readonly keys: readonly number[]; readonly values: readonly V[] }
  /** Keep the values of keys that have come. */
  | { readonly kind: "take"; readonly keys: readonly number[]; readonly values: readonly V[] }
  /** Send a `pulled` with the values of keys that are here; where `to` is this node, they are its request's. */
  | { readonly kind: "answer"; readonly to: number; readonly request: number; readonly keys: readonly number[] }
  /** Send a `handOver` with the values, and forget them. */
  | { readonly kind: "handOver"; readonly to: number; readonly keys: readonly number[] }
  /** Values of this node's request have come from another. */
  | {
      readonly kind: "deliver";
      readonly request: number;
      readonly keys: readonly number[];
      readonly values: readonly V[];
    }
  | {
      readonly kind: "send";
      readonly to: number;
      readonly message: Exclude<Message<V>, { readonly kind: "handOver" | "pulled" }>;
    }
  /** This node's request is complete, for all its keys. */
  | { readonly kind: "finished"; readonly request: number };

/** An operation on one key. */
export type Access<V> =
  | { readonly kind: "pull"; readonly origin: number; readonly request: number }
  | { readonly kind: "push"; readonly origin: number; readonly request: number; readonly value: V };

/** What a key that is on its way here is awaited for. */
export type Waiting<V> =
  | Access<V>
  | { readonly kind: "localize"; readonly request: number }
  | { readonly kind: "relocate"; readonly owner: number };
