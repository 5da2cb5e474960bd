/** @file Who copies whose layers, and the bytes of that, in a ring that has all of its owners: by counting, without a view. */

/** Whose layers `node` copies: its predecessors, nearest first. */
export function copiedBy(node: number, nodes: number, replicas: number): readonly number[] {
  return Array.from({ length: Math.min(replicas, nodes - 1) }, (_, index) => (node - 1 - index + nodes) % nodes);
}

/** Bytes of a step at one node. */
export interface NodeTraffic {
  readonly sent: number;
  readonly received: number;
}

/**
 * An owner sends its accumulated gradient, as large as its parameters, to each of its `r` successors, and hears those of its `r`
 * predecessors: node i sends r·Wᵢ and receives Wᵢ₋₁ + … + Wᵢ₋ᵣ. All together send r·W.
 * @param nodeBytes of each node's parameters
 */
export function copyTraffic(nodeBytes: readonly number[], replicas: number): readonly NodeTraffic[] {
  return nodeBytes.map((bytes, node) => {
    const copied = copiedBy(node, nodeBytes.length, replicas);
    // As many copy a node's layers as there are nodes whose layers it copies.
    return { sent: copied.length * bytes, received: copied.reduce((sum, from) => sum + nodeBytes[from]!, 0) };
  });
}
