/** @file How far a node works ahead, in numbers; and which codes a pipeline gives. What comes of it in a ring: test/simulation. */
import { describe, expect, test } from "vitest";
import { KIND, NOTHING, Pipeline, startWindow, taskOf, WEIGHT_ONLY } from "../../ring/core/pipeline.ts";
import type { ScheduleShape } from "../../ring/core/schedule.ts";
import { RoundTrip, splitsWeight, windowFor } from "../../ring/core/window.ts";

const rule = (nodes: number, microBatches: number, laps = 1): ScheduleShape => ({
  kind: "zero-bubble",
  nodes,
  laps,
  microBatches,
});
const costsOf = (forward: number, backward: number, weight: number) => ({ forward, backward, weight });
const EQUAL = costsOf(1, 1, 1);

describe("the round trip", () => {
  test("is nothing before the first sample, then the least", () => {
    const trip = new RoundTrip();
    expect(trip.value).toBe(0);
    for (const [sample, value] of [
      [9, 9],
      [12, 9],
      [7, 7],
      [30, 7],
    ] as const) {
      trip.add(sample);
      expect(trip.value).toBe(value);
    }
  });

  test("is never less than nothing: clocks of a microsecond may say so", () => {
    const trip = new RoundTrip();
    trip.add(-0.001);
    expect(trip.value).toBe(0);
  });

  test("forgets samples that are old: a link may become slower", () => {
    const trip = new RoundTrip();
    trip.add(1);
    for (let count = 1; count < 64; count += 1) trip.add(5);
    expect(trip.value).toBe(1);
    for (let count = 0; count < 64; count += 1) trip.add(5);
    // The 64 before the newest 64 still count.
    expect(trip.value).toBe(1);
    trip.add(5);
    expect(trip.value).toBe(5);
  });
});

describe("windows at the start", () => {
  const windows = (shape: ScheduleShape, splits = true) =>
    Array.from({ length: shape.nodes }, (_, node) => startWindow(shape, node, splits));

  test("2(p-i)-1 in flight, 2p held", () => {
    expect(windows(rule(4, 8))).toEqual([7, 5, 3, 1].map((inFlight) => ({ inFlight, held: 8 })));
  });

  test("1F1B's where B and W are one operation", () => {
    expect(windows(rule(4, 8), false)).toEqual([4, 3, 2, 1].map((inFlight) => ({ inFlight, held: Infinity })));
  });

  test("interleaved 1F1B's with laps: 2(p-1-i)+(v-1)p+1", () => {
    expect(windows(rule(4, 8, 3))).toEqual([15, 13, 11, 9].map((inFlight) => ({ inFlight, held: 16 })));
  });
});

describe("windows by measurement", () => {
  test("are those of the start where messages take no time and costs are equal", () => {
    for (const shape of [rule(8, 64), rule(4, 8, 2)]) {
      for (let node = 0; node < shape.nodes; node += 1) {
        expect(windowFor(shape, node, true, EQUAL, 0, 0)).toEqual(startWindow(shape, node, true));
      }
    }
  });

  test("grow by 2·RTT/T: in flight by the node's own, held by the whole ring's", () => {
    // p = 4, L = 1: 6 to the end and back from node 0, 2 from node 2. 4·L·(p-1-i)/T.
    expect(windowFor(rule(4, 64), 0, true, EQUAL, 6, 6)).toEqual({ inFlight: 7 + 4, held: 8 + 4 });
    expect(windowFor(rule(4, 64), 2, true, EQUAL, 2, 6)).toEqual({ inFlight: 3 + 2, held: 8 + 4 });
    expect(windowFor(rule(4, 64), 3, true, EQUAL, 0, 6)).toEqual({ inFlight: 1, held: 8 + 4 });
    // In any unit.
    expect(windowFor(rule(4, 64), 2, true, costsOf(250, 250, 250), 500, 1500)).toEqual({ inFlight: 5, held: 12 });
  });

  test("grow by RTT/T where B and W are one operation", () => {
    expect(windowFor(rule(4, 64), 0, false, EQUAL, 6, 6)).toEqual({ inFlight: 4 + 2, held: Infinity });
    expect(windowFor(rule(4, 64), 0, false, EQUAL, 6.1, 6.1)).toEqual({ inFlight: 4 + 3, held: Infinity });
  });

  test("do not grow by a rounding error", () => {
    expect(windowFor(rule(4, 64), 0, true, EQUAL, 6 + 1e-12, 6 + 1e-12)).toEqual({ inFlight: 11, held: 12 });
  });

  test("at unequal costs hold what fills a step's filling and draining, where the step is long enough", () => {
    const costs = costsOf(1, 1.2, 0.8);
    // 7 · 2.2 / 0.8 = 19.25, rounded up, and six more; in flight 1 + 7 · 2.2 / 0.8.
    expect(windowFor(rule(8, 64), 0, true, costs, 0, 0)).toEqual({ inFlight: 1 + 20, held: 20 + 6 });
    expect(windowFor(rule(8, 64), 7, true, costs, 0, 0)).toEqual({ inFlight: 1, held: 26 });
    expect(windowFor(rule(8, 25), 0, true, costs, 0, 0)).toEqual(startWindow(rule(8, 25), 0, true));
    expect(windowFor(rule(8, 26), 0, true, costs, 0, 0)).toEqual({ inFlight: 21, held: 26 });
  });

  test("stay where a heavy W fills all by itself, and before anything was measured", () => {
    const shape = rule(8, 64);
    expect(windowFor(shape, 0, true, costsOf(1, 1, 1.5), 0, 0)).toEqual(startWindow(shape, 0, true));
    expect(windowFor(shape, 0, true, costsOf(0, 0, 0), 5, 5)).toEqual(startWindow(shape, 0, true));
    expect(windowFor(shape, 0, true, costsOf(1, 1, 0), 0, 0)).toEqual(startWindow(shape, 0, true));
  });
});

test("a W is an operation of its own in zb-h1 and zero-bubble, on layers that can", () => {
  const kinds = ["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zero-bubble"] as const;
  const shape = rule(2, 2);
  expect(kinds.filter((kind) => splitsWeight({ ...shape, kind }, true))).toEqual(["zb-h1", "zero-bubble"]);
  expect(kinds.filter((kind) => splitsWeight({ ...shape, kind }, false))).toEqual([]);
});

describe("a pipeline", () => {
  /** One node of one: no neighbours, no credits. */
  function alone(kind: ScheduleShape["kind"], places = Infinity): Pipeline {
    const shape = { kind, nodes: 1, laps: 1, microBatches: 2 };
    const pipeline = new Pipeline({ shape, node: 0, slices: [2], canSplit: true });
    pipeline.startAt(0, 0);
    pipeline.setPlaces(places);
    return pipeline;
  }

  function play(pipeline: Pipeline): string[] {
    const names = ["F", "B", "W", "X"];
    const codes: string[] = [];
    for (let code = pipeline.next(true); code !== NOTHING; code = pipeline.next(true)) {
      codes.push(`${names[code & 3]}${taskOf(code, 2).microBatch}`);
      pipeline.done(code);
    }
    return codes;
  }

  test("names each slice of a W, and one code for B and W together", () => {
    expect(play(alone("zb-h1"))).toEqual(["F0", "B0", "W0", "W0", "F1", "B1", "W1", "W1"]);
    expect(play(alone("zero-bubble"))).toEqual(["F0", "B0", "F1", "B1", "W0", "W0", "W1", "W1"]);
    expect(play(alone("gpipe"))).toEqual(["F0", "F1", "X0", "X1"]);
  });

  test("begins the next step only when it is told to", () => {
    const pipeline = alone("zero-bubble");
    play(pipeline);
    expect([pipeline.isStepDone, pipeline.next(true), pipeline.lacks()]).toEqual([true, NOTHING, []]);
    pipeline.beginStep(1);
    expect([pipeline.isStepDone, pipeline.hasBegun, play(pipeline).length]).toEqual([false, false, 8]);
  });

  test("says what it lacks: a place, the window", () => {
    const waiting = alone("zero-bubble", 0);
    expect([waiting.next(true), waiting.lacks()]).toEqual([NOTHING, [{ kind: "place" }]]);
    const pipeline = alone("zero-bubble");
    pipeline.setWindow({ inFlight: 0, held: 2 });
    expect([pipeline.next(true), pipeline.lacks()]).toEqual([NOTHING, [{ kind: "window" }]]);
  });

  test("holds no more than its window from F's start to W's end, and asks before a W", () => {
    const pipeline = alone("zero-bubble");
    pipeline.setWindow({ inFlight: 2, held: 1 });
    for (const kind of [KIND.forward, KIND.backward]) {
      const code = pipeline.next(false);
      expect(code & 3).toBe(kind);
      pipeline.done(code);
    }
    expect(pipeline.next(false)).toBe(WEIGHT_ONLY);
    pipeline.done(pipeline.next(true));
    expect(pipeline.slice).toBe(1);
    expect(pipeline.next(false)).toBe(WEIGHT_ONLY);
    pipeline.done(pipeline.next(true));
    expect(pipeline.next(false) & 3).toBe(KIND.forward);
  });
});
