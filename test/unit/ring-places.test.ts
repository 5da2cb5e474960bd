/** @file The slots of a segment against a dumb model with sets, and what the predecessor is told of them. */
import { describe, expect, test } from "vitest";
import { Places } from "../../ring/core/places.ts";
import { RandomStream } from "../../src/types/random.ts";

const PINNED_SEED = 20_261_123;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));

function taken(capacity: number, count: number): Places {
  const places = new Places(capacity);
  for (let index = 0; index < count; index += 1) places.take(0);
  return places;
}

describe("slots", () => {
  test("are reserved once, and none when all are held", () => {
    const places = new Places(2);
    expect([places.reserve(), places.reserve(), places.free]).toEqual([0, 0, 2]);
    places.take(0);
    expect([places.slotOf(0), places.reserve(), places.free]).toEqual([0, 1, 1]);
    places.take(0);
    expect([places.slotOf(0), places.slotOf(1), places.reserve(), places.free]).toEqual([0, 1, undefined, 0]);
  });

  test.each([
    ["W first", (places: Places) => places.weightDone(), (places: Places) => places.gradientLeft()],
    ["gradient first", (places: Places) => places.gradientLeft(), (places: Places) => places.weightDone()],
  ])("are free when the W is done and the gradient has left: %s", (_, first, second) => {
    const places = taken(2, 2);
    first(places);
    expect([places.free, places.owed, places.reserve()]).toEqual([0, 0, undefined]);
    second(places);
    expect([places.free, places.owed, places.reserve()]).toEqual([1, 1, 0]);
    expect([places.takeOwed(), places.owed, places.takeOwed()]).toEqual([1, 0, 0]);
  });

  test("are used again newest first: those never needed are never touched", () => {
    const places = taken(4, 2);
    for (let sequence = 0; sequence < 50; sequence += 1) {
      places.gradientLeft();
      places.weightDone();
      places.take(0);
      expect(places.slotOf(sequence + 2)).toBeLessThan(2);
    }
  });

  test("begin at any sequence, but only when none is held", () => {
    const places = taken(2, 0);
    places.startAt(1_000_003);
    places.take(0);
    expect(places.slotOf(1_000_003)).toBe(0);
    expect(() => places.slotOf(0)).toThrow("micro-batch 0 is held");
    expect(() => places.startAt(0)).toThrow("no slot is held");
  });

  test("of what is not held, or beyond the last, are a programmer's error", () => {
    expect(() => taken(2, 1).slotOf(1)).toThrow("micro-batch 1 is held");
    expect(() => taken(2, 2).take(0)).toThrow("a slot is free");
    expect(() => new Places(0)).toThrow("a segment has a slot");
  });
});

test("times are those of the micro-batch that holds the slot", () => {
  const places = taken(2, 0);
  places.take(5);
  places.take(7);
  places.forwarded(0, 9);
  places.forwarded(1, 11);
  expect([0, 1].map((sequence) => places.arrivedMs(sequence))).toEqual([5, 7]);
  places.gradientLeft();
  places.weightDone();
  places.take(20);
  expect([1, 2].map((sequence) => places.arrivedMs(sequence))).toEqual([7, 20]);
  expect(places.forwardedMs(1)).toBe(11);
});

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("places, %s seed %i", (_, seed) => {
  test("are what sets of slots say, after every event", () => {
    const random = new RandomStream(seed, 1);
    for (let round = 0; round < 50; round += 1) {
      const capacity = 1 + random.nextBelow(9);
      const places = new Places(capacity);
      const held = new Map<number, number>();
      let [arrived, weights, gradients, released, owed] = [0, 0, 0, 0, 0];
      for (let event = 0; event < 300; event += 1) {
        const choice = random.nextBelow(4);
        if (choice === 0 && held.size < capacity) {
          const slot = places.reserve()!;
          expect([...held.values()]).not.toContain(slot);
          places.take(event);
          held.set(arrived, slot);
          arrived += 1;
        } else if (choice === 1 && weights < arrived) {
          places.weightDone();
          weights += 1;
        } else if (choice === 2 && gradients < arrived) {
          places.gradientLeft();
          gradients += 1;
        } else if (choice === 3) {
          expect(places.takeOwed()).toBe(owed);
          owed = 0;
        }
        for (; released < Math.min(weights, gradients); released += 1) {
          held.delete(released);
          owed += 1;
        }
        expect([places.free, places.owed]).toEqual([capacity - held.size, owed]);
        for (const [sequence, slot] of held) expect(places.slotOf(sequence)).toBe(slot);
      }
    }
  });
});
