/** @file What a node's recovery is given: who the node is and what it has, and what it is told of views, layers and words of others. */
import type { Settings } from "../../src/config/settings.ts";
import type { EngineKind } from "../../src/engine/contract.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { SegmentInit } from "../../src/nn/layout.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { Candidate } from "../core/formation.ts";
import type { RingView } from "../core/view.ts";
import type { ControlInbox } from "./control-inbox.ts";
import type { ControlMessage } from "./control-messages.ts";
import type { NodeState } from "./node-state.ts";
import type { ReplicaInbox } from "./replicas.ts";
import type { StoreInit } from "./store.ts";

/** Who says something over a control stream. */
export interface Speaker {
  /** Negative for a stranger. */
  readonly node: number;
  /** A process of the present view, which has a say in the run. */
  readonly isMember: boolean;
}

export interface RecoveryEvents {
  /** A view was decided, with this node or without it. */
  readonly viewed: (view: RingView, lastHeardMs: (node: number) => number, begun: number | undefined) => void;
  /** All members are ready. Without a thread to compute on, this node is a spare. */
  readonly begin: (view: RingView, compute: ComputeThread) => void;
  /** The view's session is over, if there was one; returns the step that it was in. */
  readonly end: () => number | undefined;
  readonly frontier: (version: number) => void;
  readonly sendToken: (version: number, count: number) => void;
  readonly committed: (step: number, loss: number) => void;
  /** Nobody who lives has a copy of these layers. */
  readonly lost: (layers: readonly number[]) => void;
  /** What is not the views' business. */
  readonly hear: (message: ControlMessage, from: Speaker) => void;
  /** A word from one who is not in the ring. */
  readonly met: (node: number) => void;
  /** This node has the summary: for it there is no further view to wish for. */
  readonly isOver: () => boolean;
  readonly note: (kind: string, fields: Readonly<Record<string, unknown>>) => void;
  /** A copy was updated between this node's own operations. */
  readonly worked: StoreInit["worked"];
  readonly failed: (error: unknown) => void;
  /** Losses of the steps before the view's first must be known before it can be installed; resolves with how many are. */
  readonly catchUp: (view: RingView) => Promise<number>;
  /** Whether this node waits for commits now, how long a step usually takes, and of how many it knows the loss. */
  readonly pace: () => { readonly isTraining: boolean; readonly stepMs: () => number; readonly steps: number };
}

export interface RecoveryInit {
  readonly job: string;
  readonly settings: Settings;
  readonly self: Candidate;
  readonly node: number;
  readonly view: RingView;
  /** False for a process that joins, or comes back without its memory. */
  readonly isMember: boolean;
  readonly state: NodeState;
  readonly engine: EngineKind;
  readonly pace: number | null;
  readonly files: readonly string[];
  readonly segments: (view: RingView) => readonly SegmentInit[];
  readonly invite: string | null;
  readonly transport: Transport;
  readonly control: ControlInbox;
  readonly replicas: ReplicaInbox;
  readonly events: RecoveryEvents;
}
