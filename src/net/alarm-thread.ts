/**
 * @file The thread of an alarm: sleeps until the time that the other thread has set, and tells it. The sleep ends with the
 * time, or when another time is set: the version that this thread has seen is then no longer the current one.
 */
import { parentPort, workerData } from "node:worker_threads";
import { nowMs } from "../runtime/clock.ts";
import { assert, defined } from "../types/assert.ts";
import type { AlarmMemory } from "./alarm.ts";

const { version, dueMs } = workerData as AlarmMemory;
assert(parentPort !== null, "this runs in a thread");

for (;;) {
  const seen = Atomics.load(version, 0);
  const remainingMs = defined(dueMs[0], "one time is set") - nowMs();
  if (remainingMs > 0) {
    Atomics.wait(version, 0, seen, remainingMs);
  } else {
    parentPort.postMessage(undefined);
    Atomics.wait(version, 0, seen);
  }
}
