/** @file Who waits for what: made answers of nodes, and what they come down to. */
import { describe, expect, test } from "vitest";
import { explainWaits as explain, type NodeState, type RecoveryState, type RingMember } from "../../src/cli/waits.ts";

/** In a ring whose order is that of its nodes' numbers. */
const explainWaits = (members: readonly RingMember[]) =>
  explain(
    members,
    members.map(({ node }) => node),
  );

type Lack = NodeState["lacks"][number];

const activation = (microBatch: number, lap = 0): Lack => ({ kind: "activation", lap, microBatch });
const gradient = (microBatch: number, lap = 0): Lack => ({ kind: "gradient", lap, microBatch });

/** A node in step 7 that waits, with everything that was sent arrived. */
function member(node: number, changes: Partial<NodeState> = {}, laps = 1): RingMember {
  const done = Array<number>(laps).fill(30);
  const counts = { forwarded: done, activations: done, gradients: done, backwarded: done };
  const idle = { step: 7, phase: "training", running: null, idleSinceMs: 12.5, lacks: [] };
  return { node, pid: 100 + node, isHere: true, state: { node, pid: 100 + node, ...idle, counts, ...changes } };
}

const counts = (changes: Partial<NodeState["counts"]>, laps = 1): NodeState["counts"] => ({
  ...member(0, {}, laps).state!.counts,
  ...changes,
});

describe("what a node does", () => {
  test("it computes, and nothing is stuck", () => {
    const { nodes, cause } = explainWaits([member(0, { running: "weight" }), member(1, { lacks: [activation(3)] })]);
    expect(nodes).toEqual([
      { node: 0, step: 7, does: "computes (weight)", sinceMs: null, waits: [] },
      { node: 1, step: 7, does: "waits", sinceMs: 12.5, waits: [{ for: "activation for 1F3", from: 0 }] },
    ]);
    expect(cause).toBeNull();
  });

  test("while layers move, nobody computes and nothing is stuck", () => {
    const members = [
      member(0, { phase: "moving" }),
      member(1, { phase: "moving" }),
      member(2, { lacks: [gradient(1)] }),
    ];
    const { nodes, cause } = explainWaits(members);
    expect(nodes.map(({ does }) => does)).toEqual(["moving", "moving", "waits"]);
    expect(cause).toBe("layers are on their way: node 0, node 1");
  });

  test.each<[Lack, string, number | null]>([
    [activation(5), "activation for 1F5", 0],
    [activation(5, 2), "activation for 9F5", 0],
    [gradient(2), "gradient for 1B2", 2],
    [gradient(2, 1), "gradient for 5B2", 2],
    [{ kind: "credit", lap: 0, microBatch: 4 }, "place for the activation of 1F4", 2],
    [{ kind: "labels" }, "labels of the step", 2],
    [{ kind: "place" }, "a slot of its own to be free", null],
    [{ kind: "window" }, "its window: enough micro-batches are in flight", null],
  ])("node 1 of 4 waits: %j", (lack, text, from) => {
    const members = [member(0), member(1, { lacks: [lack] }), member(2), member(3)];
    expect(explainWaits(members).nodes[1]!.waits).toEqual([{ for: text, from }]);
  });

  test("over the closure edge the neighbour is the ring's other end", () => {
    const first = member(0, { lacks: [activation(1, 1)] }, 2);
    const last = member(2, { lacks: [gradient(0), { kind: "labels" }] }, 2);
    const { nodes } = explainWaits([first, member(1, {}, 2), last]);
    expect(nodes[0]!.waits).toEqual([{ for: "activation for 3F1", from: 2 }]);
    expect(nodes[2]!.waits.map(({ from }) => from)).toEqual([0, 0]);
  });

  test("every alternative is named: a B or an F would do", () => {
    const waits = explainWaits([member(0), member(1, { lacks: [gradient(0), activation(3)] }), member(2)]).nodes[1]!
      .waits;
    expect(waits).toEqual([
      { for: "gradient for 1B0", from: 2 },
      { for: "activation for 1F3", from: 0 },
    ]);
  });

  test.each(["moving", "evaluating", "saving", "finished"])("it is %s: that is no wait of a step", (phase) => {
    const { nodes } = explainWaits([member(0, { phase, lacks: [activation(1)] }), member(1)]);
    expect(nodes[0]).toEqual({ node: 0, step: 7, does: phase, sinceMs: 12.5, waits: [] });
  });
});

describe("what all waits come down to", () => {
  test("a chain of waits ends at the node that does not answer", () => {
    const silent: RingMember = { node: 2, pid: 4711, isHere: true, state: undefined };
    const chain = [member(0, { lacks: [gradient(0)] }), member(1, { lacks: [gradient(0)] }), silent];
    const { nodes, cause } = explainWaits(chain);
    expect(nodes.map(({ waits }) => waits.map(({ from }) => from))).toEqual([[1], [2], []]);
    expect(nodes[2]).toEqual({ node: 2, step: null, does: "does not answer", sinceMs: null, waits: [] });
    expect(cause).toBe("node 2 does not answer: its process 4711 is stopped, or very busy");
  });

  test("also where others still compute, and where the node is elsewhere", () => {
    const silent: RingMember = { node: 1, pid: null, isHere: false, state: undefined };
    expect(explainWaits([member(0, { running: "forward" }), silent]).cause).toBe(
      "node 1 does not answer: it is on another machine",
    );
  });

  test("an edge that holds activations", () => {
    const members = [member(0, { counts: counts({ forwarded: [33] }) }), member(1), member(2)];
    expect(explainWaits(members).cause).toBe("the edge from node 0 to node 1 holds 3 activations: sent, not arrived");
  });

  test("an edge that holds gradients", () => {
    const members = [member(0), member(1), member(2, { counts: counts({ backwarded: [31] }) })];
    expect(explainWaits(members).cause).toBe("the edge from node 2 to node 1 holds 1 gradients: sent, not arrived");
  });

  test("with laps the closure edge leads into the next one, and back into the one before", () => {
    // Nothing comes into the first lap, nor back into the last.
    const [begins, ends] = [{ activations: [0, 30] }, { gradients: [30, 0] }];
    const over = [
      member(0, { counts: counts(begins, 2) }, 2),
      member(1, { counts: counts({ ...ends, forwarded: [32, 30] }, 2) }, 2),
    ];
    expect(explainWaits(over).cause).toBe("the edge from node 1 to node 0 holds 2 activations: sent, not arrived");
    const back = [
      member(0, { counts: counts({ ...begins, backwarded: [30, 34] }, 2) }, 2),
      member(1, { counts: counts(ends, 2) }, 2),
    ];
    expect(explainWaits(back).cause).toBe("the edge from node 0 to node 1 holds 4 gradients: sent, not arrived");
  });

  test("nothing leaves where the model ends, or begins", () => {
    const ends = [
      member(0, { counts: counts({ backwarded: [40] }) }),
      member(1, { counts: counts({ forwarded: [40] }) }),
    ];
    expect(explainWaits(ends).cause).toBe(
      "nobody computes and nothing is on its way: every node waits for another one",
    );
    expect(explainWaits([member(0, { counts: counts({ forwarded: [40], backwarded: [40] }) })]).cause).toContain(
      "nobody computes",
    );
  });
});

describe("a ring that recovers", () => {
  const running: RecoveryState = {
    ...{ phase: "running", isSealed: false, ready: [], waitsFor: null, isWhole: true, isFenced: false },
    keeper: { commit: { replicas: [] } },
  };
  const recovering = (node: number, changes: Partial<RecoveryState>, state: Partial<NodeState> = {}): RingMember =>
    member(node, { running: "weight", recovery: { ...running, ...changes }, ...state });

  test.each<[Partial<RecoveryState>, readonly { for: string; from: number | null }[]]>([
    [{ isSealed: true, waitsFor: "no quorum (2 of 5)" }, [{ for: "no quorum (2 of 5)", from: null }]],
    [{ isSealed: true }, [{ for: "the next view", from: null }]],
    [{ isFenced: true }, [{ for: "a majority to confirm its view", from: null }]],
    [{ phase: "outside" }, [{ for: "the ring to take it in", from: null }]],
    [
      { phase: "outside", waitsFor: "no line to node 1" },
      [{ for: "the ring to take it in: no line to node 1", from: null }],
    ],
    [{ phase: "installing" }, [{ for: "layers and copies of its own to arrive", from: null }]],
    [{ phase: "ready", ready: [0, 2] }, [{ for: "READY", from: 1 }]],
  ])("%j", (changes, waits) => {
    const { nodes } = explainWaits([recovering(0, changes), member(1), member(2)]);
    expect(nodes[0]).toMatchObject({ does: "recovers, waits", waits });
  });

  test("one that runs in its view does what every node does", () => {
    expect(explainWaits([recovering(0, {})]).nodes[0]!.does).toBe("computes (weight)");
    expect(explainWaits([recovering(0, {}, { running: null, phase: "created" })])).toMatchObject({
      nodes: [{ does: "opens its edges" }],
      cause: "edges are being opened: node 0",
    });
  });

  test("who waits for copies names those that are behind", () => {
    const changes = { keeper: { commit: { replicas: [3, 1] } } };
    const { nodes } = explainWaits([recovering(0, changes, { running: null, phase: "updating", awaitsFrontier: 8 })]);
    expect(nodes[0]!.waits).toEqual([
      { for: "copies of version 8", from: 3 },
      { for: "copies of version 8", from: 1 },
    ]);
    const own = explainWaits([recovering(0, {}, { running: null, phase: "updating", awaitsFrontier: 8 })]);
    expect(own.nodes[0]!.waits).toEqual([{ for: "copies of version 8", from: null }]);
  });

  test("what holds a decision up is the cause, before any node that is silent", () => {
    const silent: RingMember = { node: 1, pid: 101, isHere: true, state: undefined };
    const stuck = recovering(0, { isSealed: true, waitsFor: "no quorum (1 of 3)" });
    expect(explainWaits([stuck, silent]).cause).toBe("the next view waits for no quorum (1 of 3)");
    const away = recovering(2, { phase: "outside", waitsFor: "no line to node 0" });
    expect(explainWaits([away, stuck, silent]).cause).toBe("the next view waits for no quorum (1 of 3)");
    const busy = [recovering(0, { phase: "installing" }, { running: null }), member(1)];
    expect(explainWaits(busy).cause).toBe("the ring recovers: node 0");
    expect(explainWaits([member(0), { ...silent, pid: null }]).cause).toBe("node 1 does not answer: it is dead");
  });

  test("neighbours are those of the ring's order, stages those of the owners'", () => {
    const members = [member(3, { lacks: [gradient(2)] }), member(0, { lacks: [activation(5)] }), member(2), member(7)];
    const { nodes } = explain(members, [3, 0, 2]);
    expect(nodes[0]!.waits).toEqual([{ for: "gradient for 0B2", from: 0 }]);
    expect(nodes[1]!.waits).toEqual([{ for: "activation for 1F5", from: 3 }]);
    const behind = counts({ activations: [27] });
    const edge = explain([member(3), member(0), member(2, { counts: behind }), member(7)], [3, 0, 2]);
    expect(edge.cause).toBe("the edge from node 0 to node 2 holds 3 activations: sent, not arrived");
  });
});
