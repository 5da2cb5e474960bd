/** @file Steps that are committed and wait for the disk: who writes no more when it has them leaves the file to the one who does. What a late one lacks. */
import { afterAll, expect, test, vi } from "vitest";
import { History } from "../../ring/runtime/history.ts";
import type { NodeState } from "../../ring/runtime/node-state.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, type MetricsLine } from "../../src/metrics/run-folder.ts";
import { Scratch } from "../helpers/memory-ring.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

/** Of the machine's writer, with two steps that the disk does not know as told yet. */
function waiting() {
  const folder = scratch.folder();
  const recorder = new Recorder({ folder, batch: 12, earlier: [], startedMs: 0 });
  const onDurable: (step: number) => void = () => {};
  const state = { isDurable: true, note: () => {}, onDurable };
  const told: number[] = [];
  const history = new History({
    ...{ recorder, state: state as unknown as NodeState },
    told: (step) => told.push(step),
  });
  recorder.write(true);
  history.committed(0, 3, 1);
  history.committed(1, 2, 1);
  const written = () => (folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[]).map(({ step }) => step);
  expect([recorder.losses, told, written()]).toEqual([[], [], []]);
  return { folder, recorder, state, history, told, written };
}

test("the disk has them: they are written and told", () => {
  const { recorder, state, told, written } = waiting();
  state.onDurable(0);
  expect([recorder.losses, told, written()]).toEqual([[3], [0], [0]]);
});

test("another one writes from now on: they are known, and neither written nor told", () => {
  const { recorder, history, told, written } = waiting();
  recorder.write(false);
  history.flush();
  expect([recorder.losses, told, written()]).toEqual([[3, 2], [], []]);
});

test("another one has written them while this process was stopped, which does not know it yet", () => {
  const { folder, recorder, state } = waiting();
  state.onDurable(0);
  const lines = [1, 2].map((step) => ({ step, loss: 3 - step, samples: 0, elapsedMs: 0, view: 2 }));
  folder.appendLines(RUN_FILES.metrics, lines);
  state.onDurable(1);
  expect(recorder.losses).toEqual([3, 2]);
  expect(folder.readLines(RUN_FILES.metrics)).toMatchObject([{ step: 0, view: 1 }, ...lines]);
});

test("who comes late asks for what it lacks as soon as it has been answered", async () => {
  // Where nothing but answers moves it, no time passes between them.
  vi.useFakeTimers({ toFake: ["setTimeout"] });
  try {
    const recorder = new Recorder({ folder: scratch.folder(), batch: 12, earlier: [], startedMs: 0 });
    const history = new History({ recorder, state: undefined, told: () => {} });
    const asked: number[] = [];
    const ask = (from: number): void => {
      asked.push(from);
      const losses = Array.from({ length: 2_000 }, (_, index) => from + index);
      setImmediate(() => history.heardLosses(from, losses));
    };
    expect(await history.catchUp(madeView(3, { restoreStep: 5_000 }), ask, () => false)).toBe(6_000);
    expect(asked).toEqual([0, 2_000, 4_000]);
    expect(recorder.losses[4_999]).toBe(4_999);
  } finally {
    vi.useRealTimers();
  }
});
