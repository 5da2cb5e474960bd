/** @file The event queue against a sorted array. */
import { expect, test } from "vitest";
import { EventQueue } from "../../src/sim/event-queue.ts";
import { RandomStream } from "../../src/types/random.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const EVENTS = 20_000;

test.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("events come by time, first in first out at equal times, %s seed %i", (_, seed) => {
  const random = new RandomStream(seed, 1);
  const queue = new EventQueue();
  const dumb: { readonly time: number; readonly payload: number }[] = [];
  let now = 0;
  let most = 0;
  for (let event = 0; event < EVENTS || dumb.length > 0; event += 1) {
    // Few different times, so that many are equal; phases that grow and phases that shrink.
    const grows = Math.floor(event / 3_000) % 2 === 0;
    if (event < EVENTS && (dumb.length === 0 || random.nextBelow(10) < (grows ? 8 : 3))) {
      const time = now + random.nextBelow(20) / 4;
      queue.push(time, event);
      const place = dumb.findIndex((other) => other.time > time);
      dumb.splice(place === -1 ? dumb.length : place, 0, { time, payload: event });
    } else {
      const expected = dumb.shift();
      expect(queue.time).toBe(expected?.time);
      now = queue.time;
      expect(queue.pop()).toBe(expected?.payload);
    }
    most = Math.max(most, queue.size);
    expect(queue.size).toBe(dumb.length);
  }
  // It has grown beyond what it starts with.
  expect(most).toBeGreaterThan(1_024);
});

test("an empty queue has no event to give", () => {
  const queue = new EventQueue();
  queue.push(1, 7);
  queue.pop();
  expect(() => queue.pop()).toThrow("an event is queued");
  expect(() => queue.time).toThrow("an event is queued");
});
