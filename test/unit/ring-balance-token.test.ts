/** @file One token machine by hand: when plans start, and what a node refuses. Whole rings: test/property/balance-token. */
import { describe, expect, test } from "vitest";
import {
  BalanceTokenMachine,
  type BalanceToken,
  type BalanceTokenInit,
  type BalanceTokenInput,
  type BalanceTokenOutput,
} from "../../ring/core/balance-token.ts";
import type { NodeMeasurement } from "../../ring/core/balance.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { stepIndex } from "../../src/types/ids.ts";

const of = (node: number): NodeMeasurement => ({ node, layers: [{ layer: node, us: 1 }], capBytes: null });
const collect = (plan: number, nodes: number[], view = 4): BalanceToken => ({
  kind: "collect",
  view,
  plan,
  measurements: nodes.map(of),
});
const decide = (plan: number, step: number, nodes: number[], view = 4): BalanceToken => ({
  ...collect(plan, nodes, view),
  kind: "decide",
  step: stepIndex(step),
});
const token = (value: BalanceToken): BalanceTokenInput => ({ kind: "token", token: value });
const begins = (step: number): BalanceTokenInput => ({ kind: "begins", step: stepIndex(step) });
const measured = (node: number): BalanceTokenInput => ({ kind: "measured", measurement: of(node) });

function machine(node: number, changes: Partial<BalanceTokenInit> = {}, inputs: readonly BalanceTokenInput[] = []) {
  const made = new BalanceTokenMachine({ view: 4, node, nodes: 3, firstStep: 0, isEnabled: true, ...changes });
  for (const input of inputs) made.handle(input);
  return made;
}

/** The steps with which node 0 launches, where every token returns at once and plans in `moving` move layers. */
function launches(steps: number, init: Partial<BalanceTokenInit> = {}, moving: readonly number[] = []): number[] {
  const origin = machine(0, init);
  const launched: number[] = [];
  for (let step = init.firstStep ?? 0; step < steps; step += 1) {
    if (origin.handle(begins(step)).length === 0) continue;
    const plan = launched.length;
    launched.push(step);
    origin.handle(measured(0));
    origin.handle(token(collect(plan, [0, 1, 2])));
    if (moving.includes(plan)) origin.handle({ kind: "moved" });
    origin.handle(token(decide(plan, step + 1, [0, 1, 2])));
  }
  return launched;
}

describe("plans start", () => {
  test("ever more seldom, and soon after a move", () => {
    expect(launches(300)).toEqual([2, 6, 14, 30, 62, 126, 190, 254]);
    expect(launches(60, { firstStep: 10 })).toEqual([12, 16, 24, 40]);
    // The move of plan 1 takes effect before step 7, that of plan 3 before step 15.
    expect(launches(60, {}, [1, 3])).toEqual([2, 6, 10, 14, 18, 22, 30, 46]);
  });

  test("never when balancing is off, nor at a ring of one", () => {
    expect(launches(300, { isEnabled: false })).toEqual([]);
    expect(launches(300, { nodes: 1 })).toEqual([]);
  });

  test("with the third step of a run, not before", () => {
    const origin = machine(0, { firstStep: 7 }, [begins(7)]);
    expect(origin.handle(begins(8))).toEqual([]);
    expect(origin.handle(begins(9))).toEqual([{ kind: "measure" }]);
  });

  test("at node 0 only, and not while one is in flight", () => {
    expect(machine(1).handle(begins(30))).toEqual([]);
    const origin = machine(0, {}, [begins(3), measured(0), begins(9)]);
    expect(origin.handle(begins(30))).toEqual([]);
    origin.handle(token(collect(0, [0, 1, 2])));
    expect(origin.handle(begins(31)), "lap two").toEqual([]);
    origin.handle(token(decide(0, 31, [0, 1, 2])));
    expect(origin.handle(begins(32))).toEqual([{ kind: "measure" }]);
    expect(origin.handle(measured(0))).toEqual([{ kind: "send", token: collect(1, [0]) }]);
  });
});

describe("a token", () => {
  test("collects, and comes again with all measurements", () => {
    const middle = machine(1, {}, [begins(0)]);
    expect(middle.handle(token(collect(0, [0])))).toEqual([{ kind: "measure" }]);
    expect(middle.handle(measured(1))).toEqual([{ kind: "send", token: collect(0, [0, 1]) }]);
    const spread = decide(0, 1, [0, 1, 2]);
    const decision = (plan: number, earlierMoves: number, step: number): BalanceTokenOutput => ({
      ...{ kind: "decide", plan, earlierMoves, step: stepIndex(step) },
      measurements: [0, 1, 2].map(of),
    });
    expect(middle.handle(token(spread))).toEqual([{ kind: "send", token: spread }, decision(0, 0, 1)]);
    middle.handle({ kind: "moved" });
    middle.handle(token(collect(1, [0])));
    middle.handle(measured(1));
    expect(middle.handle(token(decide(1, 9, [0, 1, 2])))[1]).toEqual(decision(1, 1, 9));
  });

  test("turns round at node 0 with the step that it begins next", () => {
    const origin = machine(0, {}, [begins(3), measured(0), begins(4)]);
    const [send, decision] = origin.handle(token(collect(0, [0, 1, 2])));
    expect(send).toEqual({ kind: "send", token: decide(0, 5, [0, 1, 2]) });
    expect(decision).toMatchObject({ kind: "decide", step: 5, earlierMoves: 0 });
  });

  const collected = [begins(6), token(collect(2, [0])), measured(1)];
  const launched = [begins(3), measured(0)];
  test.each([
    ["another view", 1, [], collect(0, [0], 3), "collect token of plan 3/0: this ring is at view 4"],
    ["lap two first", 1, [], decide(0, 9, [0, 1, 2]), "decide token of plan 4/0: this node is idle"],
    [
      "a plan again",
      1,
      [...collected, token(decide(2, 7, [0, 1, 2]))],
      collect(2, [0]),
      "collect token of plan 4/2: the newest plan is 2",
    ],
    ["a second plan in flight", 1, collected, collect(3, [0]), "collect token of plan 4/3: this node is collecting"],
    [
      "lap two of another plan",
      1,
      collected,
      decide(1, 7, [0, 1, 2]),
      "decide token of plan 4/1: the newest plan is 2",
    ],
    ["a node left out", 1, [], collect(0, []), "collect token of plan 4/0: measurements of 1 nodes are due"],
    ["nodes out of order", 2, [], collect(0, [1, 0]), "collect token of plan 4/0: measurements of 2 nodes are due"],
    [
      "lap two without all",
      1,
      collected,
      decide(2, 7, [0, 1]),
      "decide token of plan 4/2: measurements of 3 nodes are due",
    ],
    ["a step that has begun", 1, collected, decide(2, 6, [0, 1, 2]), "decide token of plan 4/2: step 6 has begun here"],
    ["node 0 launched nothing", 0, [], collect(0, [0, 1, 2]), "collect token of plan 4/0: this node is idle"],
    ["node 0 launched another", 0, launched, collect(1, [0, 1, 2]), "collect token of plan 4/1: the newest plan is 0"],
    [
      "node 0 gets lap two first",
      0,
      launched,
      decide(0, 4, [0, 1, 2]),
      "decide token of plan 4/0: this node is collecting",
    ],
  ])("is refused: %s", (_, node, inputs, refused, reason) => {
    expect(machine(node, {}, inputs).handle(token(refused))).toEqual([{ kind: "violation", reason }]);
  });

  test("that is refused changes nothing", () => {
    const middle = machine(1, {}, collected);
    middle.handle(token(decide(2, 6, [0, 1, 2])));
    expect(middle.handle(token(decide(2, 7, [0, 1, 2]))).map(({ kind }) => kind)).toEqual(["send", "decide"]);
  });
});

test("what was not asked for is the program's error", () => {
  expect(() => machine(1).handle(measured(1))).toThrow(AssertionFailed);
  expect(() => machine(1).handle({ kind: "moved" })).toThrow(AssertionFailed);
  expect(() => machine(1, {}, [begins(2)]).handle(begins(2))).toThrow(AssertionFailed);
  expect(() => machine(1, {}, [token(collect(0, [0]))]).handle(measured(2))).toThrow(AssertionFailed);
});
