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
}

/** A node of the ring; without `state` it did not answer. */
export interface RingMember {
  readonly node: number;
  readonly pid: number | null;
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

export function explainWaits(members: readonly RingMember[]): Explanation {
  const nodes = members.map((member) => nodeWaits(member, members.length));
  return { nodes, cause: causeOf(members) };
}

function nodeWaits({ node, state }: RingMember, nodes: number): NodeWaits {
  if (state === undefined) return { node, step: null, does: "does not answer", sinceMs: null, waits: [] };
  const { step, phase, running, idleSinceMs: sinceMs } = state;
  if (running !== null) return { node, step, does: `computes (${running})`, sinceMs: null, waits: [] };
  if (phase !== "training") return { node, step, does: phase, sinceMs, waits: [] };
  return { node, step, does: "waits", sinceMs, waits: state.lacks.map((lack) => waitOf(lack, node, nodes)) };
}

function waitOf({ kind, lap = 0, microBatch = 0 }: NodeState["lacks"][number], node: number, nodes: number): Wait {
  const [predecessor, successor] = [(node + nodes - 1) % nodes, (node + 1) % nodes];
  const task = (operation: string): string => `${lap * nodes + node}${operation}${microBatch}`;
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

function causeOf(members: readonly RingMember[]): string | null {
  const silent = members.find(({ state }) => state === undefined);
  if (silent !== undefined) {
    const process =
      silent.pid === null ? "it is on another machine" : `its process ${silent.pid} is stopped, or very busy`;
    return `node ${silent.node} does not answer: ${process}`;
  }
  const states = members.flatMap(({ state }) => state ?? []);
  if (states.some(({ running }) => running !== null)) return null;
  const moving = states.filter(({ phase }) => phase === "moving").map(({ node }) => node);
  if (moving.length > 0) return `layers are on their way: ${moving.map((node) => `node ${node}`).join(", ")}`;
  return heldByEdge(states) ?? "nobody computes and nothing is on its way: every node waits for another one";
}

/** What one side has computed and the other has not got. */
function heldByEdge(states: readonly NodeState[]): string | undefined {
  const nodes = states.length;
  for (const { node, counts } of states) {
    for (const lap of counts.forwarded.keys()) {
      const stage = lap * nodes + node;
      const next = states[(node + 1) % nodes]!.counts.activations[Math.floor((stage + 1) / nodes)];
      const sent = counts.forwarded[lap]!;
      if (nodes > 1 && next !== undefined && sent > next) {
        return edgeText("activations", node, (node + 1) % nodes, sent - next);
      }
      const before = states[(node + nodes - 1) % nodes]!.counts.gradients[Math.floor((stage - 1) / nodes)];
      const gone = counts.backwarded[lap]!;
      if (stage > 0 && before !== undefined && gone > before) {
        return edgeText("gradients", node, (node + nodes - 1) % nodes, gone - before);
      }
    }
  }
  return undefined;
}

function edgeText(what: string, from: number, to: number, count: number): string {
  return `the edge from node ${from} to node ${to} holds ${count} ${what}: sent, not arrived`;
}
