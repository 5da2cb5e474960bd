/** @file Small views for tests: node `i` is peer `peer-i`, and a layer costs nothing. */
import type { Candidate } from "../../ring/core/formation.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import type { RingMember, RingView } from "../../ring/core/view.ts";

export function madeCandidate(node: number, boot = 0): Candidate {
  const peerId = `peer-${node}`;
  return {
    peerId,
    addresses: [],
    machine: "one",
    incarnation: `${node}`.padStart(32, "0"),
    boot,
    engines: [],
    wish: null,
  };
}

export const madeMember = (node: number, boot = 0): RingMember => ({ ...madeCandidate(node, boot), node });

/** The digest that a sound copy of a layer has. */
export const digestOf = (layer: number, version: number): string => `${layer}@${version}`.padStart(32, "0");

/** One layer a stage, unless a cut is given. */
export const evenCut = (stages: number, layersEach = 1): LayerRange[] =>
  Array.from({ length: stages }, (_, stage): LayerRange => [stage * layersEach, (stage + 1) * layersEach]);

/** A view of nodes 0 to `size - 1`, all of which own a stage, at its origin. */
export function madeView(size: number, changes: Partial<RingView> = {}): RingView {
  const nodes = Array.from({ length: size }, (_, node) => node);
  return {
    ...{ view: 1, members: nodes.map((node) => madeMember(node)), departed: [], voters: nodes, owners: nodes },
    ...{ cut: evenCut(size), replicas: Math.min(1, size - 1), restoreStep: 0, sources: [], losses: [], removed: [] },
    ...changes,
  };
}
