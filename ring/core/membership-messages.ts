/** @file What a node's membership is given; the words between it and what drives it, and those that members say to each other over control streams. */
import type { JoinWish } from "./admission.ts";
import type { AgreementMessage, Vote } from "./agreement.ts";
import type { Candidate } from "./formation.ts";
import type { Claims, Evidence } from "./restore.ts";
import type { SegmentMap } from "./segment-map.ts";
import type { RingView } from "./view.ts";

export interface MembershipInit {
  readonly self: Candidate;
  readonly node: number;
  readonly view: RingView;
  /** As persisted for this view. */
  readonly vote: Vote<RingView> | null;
  /** False for a process that joins, or comes back without its memory. */
  readonly isMember: boolean;
  /** As the job wants them. */
  readonly replicas: number;
  /** What this node holds at this moment; asked for when it promises. */
  readonly holdings: (view: RingView) => Claims;
}

export type MembershipMessage =
  | AgreementMessage<RingView, Evidence>
  | { readonly kind: "decided"; readonly value: RingView }
  /** Own segments are here. `isAnswer`: to a `ready`, and not to be answered. `known`: all who have said so, as the sender knows. */
  | { readonly kind: "ready"; readonly isAnswer: boolean; readonly known: readonly number[] }
  /** The view cannot begin for want of these, and nothing gets any further. */
  | { readonly kind: "unready"; readonly nodes: readonly number[] }
  | ({ readonly kind: "join" } & JoinWish)
  /** The answer to `join`: the way is open in both directions. */
  | { readonly kind: "heard" }
  | { readonly kind: "leave" }
  /** The sender has missed a decision. */
  | { readonly kind: "behind" };

export type MembershipInput =
  | { readonly kind: "tick"; readonly nowMs: number }
  /** `view`: the newest that the sender knew. */
  | {
      readonly kind: "message";
      readonly from: number;
      readonly view: number;
      readonly message: MembershipMessage;
      readonly nowMs: number;
    }
  /** What the detector holds now. Of the suspected, `dead`: with hard evidence, so that their memory is gone; `severed`: they live. */
  | {
      readonly kind: "suspicions";
      readonly suspected: readonly number[];
      readonly dead: readonly number[];
      readonly severed: readonly number[];
    }
  /** Own segments of the view are here. */
  | { readonly kind: "installed"; readonly view: number }
  /** Steps are committed in this view: it may be changed at wish. */
  | { readonly kind: "settled"; readonly view: number }
  /** Nothing has been committed for too long. */
  | { readonly kind: "stalled" }
  /** Nobody's install has got any further for too long. Repeated while that is so. */
  | { readonly kind: "still" }
  | { readonly kind: "leave" }
  /** Layers are to lie so. */
  | { readonly kind: "recut"; readonly view: number; readonly map: Pick<SegmentMap, "owners" | "cut"> }
  | { readonly kind: "persisted" | "notPersisted"; readonly view: number; readonly id: number };

export type MembershipOutput =
  | { readonly kind: "send"; readonly to: number; readonly view: number; readonly message: MembershipMessage }
  | { readonly kind: "persist"; readonly view: RingView; readonly id: number; readonly vote: Vote<RingView> | null }
  /** Stop the view's session: no data frame of it is sent or handled any more. */
  | { readonly kind: "seal"; readonly view: number }
  /** A view is decided: bring its own segments here, if it has any, and say `installed`. */
  | { readonly kind: "install"; readonly view: RingView }
  /** A view is decided without this node. */
  | { readonly kind: "outside"; readonly view: RingView }
  /** All members are ready: training begins with `restoreStep`. */
  | { readonly kind: "start"; readonly view: RingView }
  /** Nobody who lives has a copy of these layers. */
  | { readonly kind: "lost"; readonly layers: readonly number[] };
