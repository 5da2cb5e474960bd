/** @file Moves by hand: their order and routes, and what one migration machine refuses. Whole rings: test/property/moves. */
import { describe, expect, test } from "vitest";
import {
  MigrationMachine,
  movesBetween,
  routeOf,
  transfersAt,
  type MigrationInput,
  type Neighbour,
} from "../../ring/core/moves.ts";
import { AssertionFailed } from "../../src/types/assert.ts";

const received = (layer: number, from: Neighbour): MigrationInput => ({ kind: "received", layer, from });
const begin = { kind: "begin" } as const;

test("moves are what differs between two cuts, by ascending layer", () => {
  const before = [
    [0, 3],
    [3, 4],
    [4, 6],
  ] as const;
  expect(movesBetween(before, before, 3)).toEqual([]);
  expect(
    movesBetween(
      before,
      [
        [0, 1],
        [1, 5],
        [5, 6],
      ],
      3,
    ),
  ).toEqual([
    { layer: 1, from: 0, to: 1 },
    { layer: 2, from: 0, to: 1 },
    { layer: 4, from: 2, to: 1 },
  ]);
});

test("with laps a layer may change its stage and stay where it is", () => {
  const before = [
    [0, 1],
    [1, 2],
    [2, 3],
    [3, 5],
  ] as const;
  expect(
    movesBetween(
      before,
      [
        [0, 1],
        [1, 2],
        [2, 4],
        [4, 5],
      ],
      2,
    ),
  ).toEqual([{ layer: 3, from: 1, to: 0 }]);
});

test.each([
  [0, 1, "successor", 1],
  [1, 0, "predecessor", 1],
  [0, 2, "successor", 2],
  [3, 1, "predecessor", 2],
  // Never over the closure edge, however long the way.
  [0, 7, "successor", 7],
  [7, 0, "predecessor", 7],
] as const)("from %i to %i: by the %s, %i hops", (from, to, way, hops) => {
  expect(routeOf({ layer: 0, from, to })).toEqual({ hops, way });
});

describe("what one node does", () => {
  // Node 1 of 4 gives layer 5 on, relays layer 7 from node 0 to node 2, and gets layer 9 from node 2.
  const moves = [
    { layer: 2, from: 2, to: 3 },
    { layer: 5, from: 1, to: 0 },
    { layer: 7, from: 0, to: 2 },
    { layer: 9, from: 2, to: 1 },
  ];
  const transfers = transfersAt(moves, 1);

  test("is its own layers first, then relays", () => {
    expect(transfers).toEqual({
      outgoing: [
        { layer: 5, to: "predecessor", isRelay: false },
        { layer: 7, to: "successor", isRelay: true },
      ],
      incoming: [
        { layer: 7, from: "predecessor", isRelay: true, isMine: false },
        { layer: 9, from: "successor", isRelay: false, isMine: true },
      ],
    });
    expect(transfersAt(moves, 3)).toEqual({
      outgoing: [],
      incoming: [{ layer: 2, from: "predecessor", isRelay: false, isMine: true }],
    });
  });

  test("is the same at a ring of two, where both neighbours are one peer", () => {
    const exchange = [
      { layer: 1, from: 0, to: 1 },
      { layer: 4, from: 1, to: 0 },
    ];
    expect(transfersAt(exchange, 0)).toEqual({
      outgoing: [{ layer: 1, to: "successor", isRelay: false }],
      incoming: [{ layer: 4, from: "successor", isRelay: false, isMine: true }],
    });
    expect(transfersAt(exchange, 1)).toEqual({
      outgoing: [{ layer: 4, to: "predecessor", isRelay: false }],
      incoming: [{ layer: 1, from: "predecessor", isRelay: false, isMine: true }],
    });
  });

  test("from the first node to the last is a relay at all between, and nothing over the closure edge", () => {
    const across = [{ layer: 0, from: 0, to: 3 }];
    for (const node of [1, 2]) {
      expect(transfersAt(across, node)).toEqual({
        outgoing: [{ layer: 0, to: "successor", isRelay: true }],
        incoming: [{ layer: 0, from: "predecessor", isRelay: true, isMine: false }],
      });
    }
    expect(transfersAt(across, 0).outgoing).toEqual([{ layer: 0, to: "successor", isRelay: false }]);
    expect(transfersAt(across, 3).incoming).toMatchObject([{ from: "predecessor", isMine: true }]);
    expect([...transfersAt(across, 0).incoming, ...transfersAt(across, 3).outgoing]).toEqual([]);
  });

  test("what comes early is kept until the step is over", () => {
    const machine = new MigrationMachine(transfers);
    expect(machine.handle(received(9, "successor"))).toEqual([]);
    expect(machine.handle(received(7, "predecessor"))).toEqual([]);
    expect(machine.handle(begin)).toEqual([
      { kind: "send", layer: 5, to: "predecessor" },
      { kind: "send", layer: 7, to: "successor" },
      { kind: "done" },
    ]);
    expect(() => machine.handle(begin)).toThrow(AssertionFailed);
  });

  test("a node that nothing concerns is done when its step is over", () => {
    const machine = new MigrationMachine(transfersAt([{ layer: 0, from: 0, to: 1 }], 2));
    expect(machine.handle(begin)).toEqual([{ kind: "done" }]);
  });

  test("what the plan does not say is refused, and changes nothing", () => {
    const machine = new MigrationMachine(transfers);
    const refused = (layer: number, from: Neighbour) => [
      { kind: "violation", from, reason: `layer ${layer} is not awaited from the ${from}` },
    ];
    expect(machine.handle(received(5, "predecessor")), "its own").toEqual(refused(5, "predecessor"));
    expect(machine.handle(received(9, "predecessor")), "the other side").toEqual(refused(9, "predecessor"));
    machine.handle(received(9, "successor"));
    expect(machine.handle(received(9, "successor")), "twice").toEqual(refused(9, "successor"));
    expect(machine.handle(begin).map(({ kind }) => kind)).toEqual(["send"]);
    expect(machine.handle(received(7, "predecessor"))).toEqual([
      { kind: "send", layer: 7, to: "successor" },
      { kind: "done" },
    ]);
    expect(machine.handle(received(7, "predecessor")), "after the end").toEqual(refused(7, "predecessor"));
  });
});
