/**
 * @file Who in a ring waits for what, from whom: read off the nodes' answers at about one instant. Pure. A node that does not answer, a
 * node that computes, or an edge that holds what was sent is where a chain of waits ends.
 */

/** A training node's answer, as far as its waits go. */
export interface NodeState {
  readonly node: number;
  readonly pid: number;
  readonly step: number;
  readonly phase: string;
  /** The operation under way. */
  readonly running: string | null;
  readonly idleSinceMs: number | null;
  readonly lacks: readonly {
    readonly kind: "activation" | "gradient" | "credit" | "labels" | "place" | "window";
    readonly lap?: number;
    readonly microBatch?: number;
  }[];
  /** By lap, from the job's first step: what was computed and what arrived. */
  readonly counts: {
    readonly forwarded: readonly number[];
    readonly activations: readonly number[];
    readonly gradients: readonly number[];
    readonly backwarded: readonly number[];
  };
  /** The version that every copy must have before this node goes on. */
  readonly awaitsFrontier?: number | null;
  /** Null in a ring that does not recover. */
  readonly recovery?: RecoveryState | null;
}

/** What a node of a ring that recovers is in the middle of. */
export interface RecoveryState {
  readonly phase: "outside" | "installing" | "ready" | "running";
  /** It has promised to go on to another view. */
  readonly isSealed: boolean;
  /** Members whose layers are here, as far as it heard. */
  readonly ready: readonly number[];
  /** Why no next view is decided yet. */
  readonly waitsFor: string | null;
  readonly isWhole: boolean;
  /** It stood still, and waits for a majority to confirm its view. */
  readonly isFenced: boolean;
  readonly keeper: { readonly commit: { readonly replicas: readonly number[] } | null };
}

/** A node of the ring; without `state` it did not answer. */
export interface RingMember {
  readonly node: number;
  readonly pid: number | null;
  readonly isHere: boolean;
  readonly state: NodeState | undefined;
}

export interface Wait {
  /** Such as "gradient for 2B5". */
  readonly for: string;
  readonly from: number | null;
}

export interface NodeWaits {
  readonly node: number;
  readonly step: number | null;
  readonly does: string;
  readonly sinceMs: number | null;
  readonly waits: readonly Wait[];
}

export interface Explanation {
  readonly nodes: readonly NodeWaits[];
  /** What all waits come down to; null while somebody computes. */
  readonly cause: string | null;
}

/** @param owners nodes that hold layers, in ring order */
export function explainWaits(members: readonly RingMember[], owners: readonly number[]): Explanation {
  const all = members.map(({ node }) => node);
  return { nodes: members.map((member) => nodeWaits(member, owners, all)), cause: causeOf(members, owners) };
}

/** What the ring waits for before it can go on; null while it can. Who is outside waits for itself alone. */
export function pauseOf(answers: readonly Pick<NodeState, "recovery">[]): string | null {
  const inside = answers.flatMap(({ recovery }) => (recovery?.phase === "outside" ? [] : (recovery ?? [])));
  return inside.find(({ waitsFor }) => waitsFor !== null)?.waitsFor ?? null;
}

function nodeWaits({ node, state }: RingMember, owners: readonly number[], members: readonly number[]): NodeWaits {
  if (state === undefined) return { node, step: null, does: "does not answer", sinceMs: null, waits: [] };
  const { step, phase, running, idleSinceMs: sinceMs, awaitsFrontier = null, recovery } = state;
  if (recovery !== undefined && recovery !== null) {
    const waits = recoveryWaits(recovery, members);
    if (waits !== undefined) return { node, step, does: "recovers, waits", sinceMs, waits };
  }
  if (running !== null) return { node, step, does: `computes (${running})`, sinceMs: null, waits: [] };
  if (awaitsFrontier !== null) return { node, step, does: "waits", sinceMs, waits: copyWaits(awaitsFrontier, state) };
  if (phase === "created") return { node, step, does: "opens its edges", sinceMs, waits: [] };
  if (phase !== "training") return { node, step, does: phase, sinceMs, waits: [] };
  return { node, step, does: "waits", sinceMs, waits: state.lacks.map((lack) => waitOf(lack, node, owners)) };
}

/** Undefined once the node trains in its view. */
function recoveryWaits(recovery: RecoveryState, members: readonly number[]): readonly Wait[] | undefined {
  const { phase, isSealed, ready, waitsFor, isFenced } = recovery;
  if (isSealed) return [{ for: waitsFor ?? "the next view", from: null }];
  if (isFenced) return [{ for: "a majority to confirm its view", from: null }];
  switch (phase) {
    case "outside":
      return [
        { for: waitsFor === null ? "the ring to take it in" : `the ring to take it in: ${waitsFor}`, from: null },
      ];
    case "installing":
      return [{ for: "layers and copies of its own to arrive", from: null }];
    case "ready":
      return members.filter((node) => !ready.includes(node)).map((from) => ({ for: "READY", from }));
    case "running":
      return undefined;
  }
}

/** Which copies are behind; the next owner's word where this node's own are not. */
function copyWaits(version: number, { recovery }: NodeState): readonly Wait[] {
  const what = `copies of version ${version}`;
  const behind = recovery?.keeper.commit?.replicas ?? [];
  return behind.length === 0 ? [{ for: what, from: null }] : behind.map((from) => ({ for: what, from }));
}

function waitOf(
  { kind, lap = 0, microBatch = 0 }: NodeState["lacks"][number],
  node: number,
  owners: readonly number[],
): Wait {
  const place = owners.indexOf(node);
  const nodes = owners.length;
  const [predecessor, successor] = [owners[(place + nodes - 1) % nodes]!, owners[(place + 1) % nodes]!];
  const task = (operation: string): string => `${lap * nodes + place}${operation}${microBatch}`;
  switch (kind) {
    case "activation":
      return { for: `activation for ${task("F")}`, from: predecessor };
    case "gradient":
      return { for: `gradient for ${task("B")}`, from: successor };
    case "credit":
      return { for: `place for the activation of ${task("F")}`, from: successor };
    case "labels":
      return { for: "labels of the step", from: successor };
    case "place":
      return { for: "a slot of its own to be free", from: null };
    case "window":
      return { for: "its window: enough micro-batches are in flight", from: null };
  }
}

function causeOf(members: readonly RingMember[], owners: readonly number[]): string | null {
  const states = members.flatMap(({ state }) => state ?? []);
  const waitsFor = pauseOf(states);
  if (waitsFor !== null) return `the next view waits for ${waitsFor}`;
  const silent = members.find(({ state }) => state === undefined);
  if (silent !== undefined) return `node ${silent.node} does not answer: ${silenceText(silent)}`;
  if (states.some(({ running }) => running !== null)) return null;
  const recovering = states.filter(({ recovery }) => recovery !== undefined && recovery !== null && isBusy(recovery));
  if (recovering.length > 0) return `the ring recovers: ${recovering.map(({ node }) => `node ${node}`).join(", ")}`;
  const opening = states.filter(({ phase }) => phase === "created").map(({ node }) => `node ${node}`);
  if (opening.length > 0) return `edges are being opened: ${opening.join(", ")}`;
  const moving = states.filter(({ phase }) => phase === "moving").map(({ node }) => node);
  if (moving.length > 0) return `layers are on their way: ${moving.map((node) => `node ${node}`).join(", ")}`;
  const inOrder = owners.map((owner) => states.find(({ node }) => node === owner));
  const edge = inOrder.every((state) => state !== undefined) ? heldByEdge(inOrder) : undefined;
  return edge ?? "nobody computes and nothing is on its way: every node waits for another one";
}

function silenceText({ pid, isHere }: RingMember): string {
  if (pid !== null) return `its process ${pid} is stopped, or very busy`;
  return isHere ? "it is dead" : "it is on another machine";
}

const isBusy = ({ phase, isSealed, isFenced }: RecoveryState): boolean => isSealed || isFenced || phase !== "running";

/** What one side has computed and the other has not got. In ring order. */
function heldByEdge(states: readonly NodeState[]): string | undefined {
  const nodes = states.length;
  for (const [place, { node, counts }] of states.entries()) {
    const [next, before] = [states[(place + 1) % nodes]!, states[(place + nodes - 1) % nodes]!];
    for (const lap of counts.forwarded.keys()) {
      const stage = lap * nodes + place;
      const arrived = next.counts.activations[Math.floor((stage + 1) / nodes)];
      const sent = counts.forwarded[lap]!;
      if (nodes > 1 && arrived !== undefined && sent > arrived) {
        return edgeText("activations", node, next.node, sent - arrived);
      }
      const returned = before.counts.gradients[Math.floor((stage - 1) / nodes)];
      const gone = counts.backwarded[lap]!;
      if (stage > 0 && returned !== undefined && gone > returned) {
        return edgeText("gradients", node, before.node, gone - returned);
      }
    }
  }
  return undefined;
}

function edgeText(what: string, from: number, to: number, count: number): string {
  return `the edge from node ${from} to node ${to} holds ${count} ${what}: sent, not arrived`;
}
