/**
 * @file The words between a keeper and what drives it. What names a view is an answer to that view's question, or happened in it: later it counts
 * for nothing. Digests are of a layer's state, 32 hexadecimal digits; versions count steps.
 */
import type { LayerRange } from "./partition.ts";
import type { RingView } from "./view.ts";

export type KeeperInput =
  /** A view is decided. `node`: this node's number, where it has just got one. */
  | { readonly kind: "install"; readonly view: RingView; readonly node?: number }
  /** The answer to `keep`: digests of the copies, computed from their bytes. */
  | { readonly kind: "kept"; readonly view: number; readonly digests: ReadonlyMap<number, string> }
  /** A layer has arrived; its digest is that of its bytes. */
  | { readonly kind: "fetched"; readonly view: number; readonly layer: number; readonly digest: string }
  | { readonly kind: "fetchEnded"; readonly view: number; readonly from: number }
  /** The answer to `load` and to `fill`, in layer order. */
  | { readonly kind: "loaded"; readonly view: number; readonly segments: readonly LoadedSegment[] }
  /** The view is over here: nothing more is said of it. */
  | { readonly kind: "seal" }
  /** The update of own layers begins: what the memory held before the present version is gone. */
  | { readonly kind: "updating"; readonly view: number; readonly step: number }
  | {
      readonly kind: "updated";
      readonly view: number;
      readonly step: number;
      readonly segments: readonly LoadedSegment[];
    }
  /** The whole gradient of a step has arrived for a copy. */
  | {
      readonly kind: "gradient";
      readonly view: number;
      readonly owner: number;
      readonly step: number;
      readonly loss: number;
    }
  /** The answer to `apply`. */
  | {
      readonly kind: "followed";
      readonly view: number;
      readonly owner: number;
      readonly step: number;
      readonly segments: readonly LoadedSegment[];
    }
  /** A replica of this node's layers tells what it holds. */
  | {
      readonly kind: "applied";
      readonly view: number;
      readonly from: number;
      readonly version: number;
      readonly digests: readonly string[];
    }
  | { readonly kind: "token"; readonly view: number; readonly version: number; readonly count: number }
  | { readonly kind: "loss"; readonly view: number; readonly step: number; readonly loss: number }
  /** The losses of the steps before this one were told elsewhere. */
  | { readonly kind: "caughtUp"; readonly step: number }
  /** An owner tells a spare how far the ring is. */
  | { readonly kind: "frontier"; readonly view: number; readonly version: number }
  /** Losses of steps up to this one are durable: it was told to a user. */
  | { readonly kind: "reported"; readonly version: number };

export interface LoadedSegment {
  readonly layers: LayerRange;
  readonly digests: readonly string[];
}

export type KeeperOutput =
  /** Nothing trains any more: make copies of these layers at this version, of what the memory or earlier copies hold. */
  | { readonly kind: "keep"; readonly view: number; readonly version: number; readonly layers: readonly number[] }
  | {
      readonly kind: "fetch";
      readonly view: number;
      readonly from: number;
      readonly version: number;
      readonly layers: readonly number[];
    }
  /** Own segments train from now on: from the copies, or (`isOrigin`) from the seed or files, and then the replicas' too. */
  | { readonly kind: "load"; readonly view: number; readonly version: number; readonly isOrigin: boolean }
  /** A copy of another owner's segment follows it from now on. */
  | { readonly kind: "fill"; readonly view: number; readonly version: number; readonly layers: LayerRange }
  | { readonly kind: "installed"; readonly view: number }
  /** Own layers, or those of some copies, cannot be had from anybody. */
  | { readonly kind: "unavailable"; readonly layers: readonly number[] }
  /** Update the copies of this owner's segments with the gradient that has arrived. */
  | { readonly kind: "apply"; readonly owner: number; readonly step: number }
  | { readonly kind: "sendApplied"; readonly to: number; readonly version: number; readonly digests: readonly string[] }
  | { readonly kind: "sendToken"; readonly version: number; readonly count: number }
  /** Every copy in the ring has this version: the update of the step of that number may be done. */
  | { readonly kind: "frontier"; readonly version: number }
  | { readonly kind: "committed"; readonly step: number; readonly loss: number }
  /** Nobody will come back to the copies. */
  | { readonly kind: "drop" }
  /** Two copies differ: the view must change, and go back to a version in which they agree. */
  | { readonly kind: "mismatch"; readonly with: number; readonly version: number }
  | { readonly kind: "violation"; readonly reason: string };
