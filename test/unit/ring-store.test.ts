/** @file The threads that a node's store boots: each is used or ended, whenever a view begins and whenever the run ends. */
import type { Worker } from "node:worker_threads";
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { within } from "../../src/net/wait.ts";
import type { KeeperInput } from "../../ring/core/keeper-messages.ts";
import { planNode } from "../../ring/runtime/segments.ts";
import { Store } from "../../ring/runtime/store.ts";
import { until } from "../helpers/cli.ts";
import { tinySettings } from "../helpers/memory-ring.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const LIMIT_MS = 10_000;
const SETTINGS = tinySettings();
const VIEW = madeView(2, { cut: [[0, 2], [2, 4]] }); // prettier-ignore

/** Threads that were started in this test and have not ended. */
let living = 0;
const count = (worker: Worker): void => {
  living += 1;
  worker.once("exit", () => (living -= 1));
};
beforeEach(() => void process.on("worker", count));
afterEach(() => void process.off("worker", count));

/** Of the event loop: whatever is due now has been done. */
const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

function storeOf() {
  const loaded = Promise.withResolvers<void>();
  const failures: unknown[] = [];
  const store = new Store({
    ...{ node: () => 0, settings: SETTINGS, engine: "wasm", pace: null, files: [], worked: () => {} },
    segments: ({ cut, owners }) => planNode(SETTINGS, "wasm", cut, owners.length, 0).segments,
    tell: (input: KeeperInput) => {
      if (input.kind === "loaded") loaded.resolve();
    },
    failed: (error) => failures.push(error),
  });
  return { store, loaded: loaded.promise, failures };
}

test("a thread that is booted for the next view while this one's starts is ended with the run", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  const { store, loaded, failures } = storeOf();
  store.prepare();
  store.load(VIEW, 0, true);
  // Its thread boots now, which takes some 50 ms.
  await turn();
  expect(living).toBe(1);
  vi.advanceTimersByTime(1_000);
  await turn();
  expect(living).toBe(2);
  vi.useRealTimers();
  await within(loaded, LIMIT_MS, () => expect.fail("the view was not loaded"));
  await store.close();
  await until(() => living === 0, "the end of all threads");
  expect(failures).toEqual([]);
});

test("a run that ends while a thread starts ends that thread", async () => {
  const { store, failures } = storeOf();
  store.load(VIEW, 0, true);
  await turn();
  expect(living).toBe(1);
  await store.close();
  await until(() => living === 0, "the end of all threads");
  expect(failures).toEqual([]);
});
