/** @file Who is waited for when a node has all reports: those that live, in the ring and outside, and nobody for long. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { ControlMessage } from "../../ring/runtime/control-messages.ts";
import { Finish } from "../../ring/runtime/finish.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const VIEW = madeView(3);
const OUTCOME = { completedSteps: 7, summary: {} };
const ENDED = { say: "ended", last: VIEW, completedSteps: 7 } as const;

beforeEach(() => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance", "Date"] }));
afterEach(() => void vi.useRealTimers());

/** Of node 0; 1 and 2 are the other members. `departed`: those that answer. */
function finishing(departed: readonly number[] = []) {
  const told: { readonly message: ControlMessage; readonly to: number | undefined }[] = [];
  let isFinished = false;
  const finish = new Finish({
    tell: (message, to) => told.push({ message, to }),
    others: () => [1, 2],
    callDeparted: () => Promise.resolve(departed),
    finished: (outcome) => {
      expect(outcome).toBe(OUTCOME);
      isFinished = true;
    },
  });
  const after = async (ms: number): Promise<boolean> => {
    await vi.advanceTimersByTimeAsync(ms);
    return isFinished;
  };
  return { finish, told, after };
}

test("it goes when all other members are complete, and not before", async () => {
  const { finish, told, after } = finishing();
  finish.complete(VIEW, OUTCOME);
  expect(told).toEqual([{ message: { say: "complete", view: VIEW.view }, to: undefined }]);
  finish.heard(1);
  expect(await after(1_000)).toBe(false);
  finish.heard(2);
  expect(await after(100)).toBe(true);
});

test("what is complete waits for nobody longer than five seconds", async () => {
  const { finish, after } = finishing();
  finish.complete(VIEW, OUTCOME);
  expect(await after(4_900)).toBe(false);
  expect(await after(200)).toBe(true);
});

test("one outside that speaks is told of the end, and waited for until it has everything", async () => {
  const { finish, told, after } = finishing();
  finish.met(3);
  finish.heard(1);
  finish.heard(2);
  finish.complete(VIEW, OUTCOME);
  finish.met(3);
  expect(told.at(-1)).toEqual({ message: ENDED, to: 3 });
  for (let asked = 0; asked < 5; asked += 1) {
    expect(await after(300)).toBe(false);
    finish.met(3);
  }
  expect(told.filter(({ to }) => to === 3).length, "it is answered once in a while").toBeLessThan(4);
  finish.heard(3);
  expect(await after(100)).toBe(true);
});

test("one outside that has fallen silent is not waited for", async () => {
  const { finish, after } = finishing();
  finish.met(3);
  expect(await after(2_000)).toBe(false);
  finish.heard(1);
  finish.heard(2);
  finish.complete(VIEW, OUTCOME);
  expect(await after(100)).toBe(true);
});

test("a departed one that answers is told, and is waited for a second if it says no more", async () => {
  const { finish, told, after } = finishing([4]);
  finish.heard(1);
  finish.heard(2);
  finish.complete(VIEW, OUTCOME);
  expect(await after(500)).toBe(false);
  expect(told.at(-1)).toEqual({ message: ENDED, to: 4 });
  expect(await after(600)).toBe(true);
});

test("members of a later view are told that the run ended before it", () => {
  const { finish, told } = finishing();
  finish.viewed();
  expect(told, "it has not ended").toEqual([]);
  finish.complete(VIEW, OUTCOME);
  finish.viewed();
  expect(told.at(-1)).toEqual({ message: ENDED, to: undefined });
});
