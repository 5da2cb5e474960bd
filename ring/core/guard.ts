/**
 * @file The one gate for stale and foreign frames: it compares job, view and sender before any handler sees a frame
 * (after etcd-io/raft `raft.go: Step`).
 */

/** Who speaks, in which job, about which membership. */
export interface Origin {
  readonly job: string;
  readonly view: number;
  readonly peerId: string;
}

export type Verdict = { readonly kind: "accepted" } | { readonly kind: "refused"; readonly reason: string };

const accepted: Verdict = { kind: "accepted" };

export function guard(expected: Origin, actual: Origin): Verdict {
  if (actual.job !== expected.job) {
    return { kind: "refused", reason: `job ${actual.job} is not this ring's job ${expected.job}` };
  }
  if (actual.view !== expected.view) {
    const age = actual.view < expected.view ? "stale" : "unknown";
    return { kind: "refused", reason: `view ${actual.view} is ${age}: this ring is at view ${expected.view}` };
  }
  if (actual.peerId !== expected.peerId) {
    return { kind: "refused", reason: `peer ${actual.peerId} is not the neighbour ${expected.peerId}` };
  }
  return accepted;
}
