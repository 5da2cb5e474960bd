/**
 * @file An alarm that rings within about a tenth of a millisecond. Node's timers count whole milliseconds; polling for the
 * last one took a third of a core at 200 departures a second, and the accounts would call it communication. Here a thread
 * sleeps to the microsecond and wakes the loop; only the last `LEAD_MS`, in which the loop wakes up, are polled.
 * It costs a thread, so it is for emulation alone.
 */
import { Worker } from "node:worker_threads";
import { nowMs } from "../runtime/clock.ts";

/** What a thread's sleep and the way from it to this loop take together, nearly always. */
const LEAD_MS = 0.15;

export interface Alarm {
  nowMs(): number;
  /** Rings once, at `dueMs` or after, never within this call; a call replaces the one before. Infinity: not at all. */
  set(dueMs: number): void;
  /** It does not ring any more. */
  close(): void;
}

/** Shared with the thread. */
export interface AlarmMemory {
  /** One number, which changes when another time is set. */
  readonly version: Int32Array<SharedArrayBuffer>;
  /** One time, on the common clock. */
  readonly dueMs: Float64Array<SharedArrayBuffer>;
}

export class ThreadAlarm implements Alarm {
  readonly nowMs = nowMs;
  readonly #ring: () => void;
  readonly #memory: AlarmMemory = {
    version: new Int32Array(new SharedArrayBuffer(4)),
    dueMs: new Float64Array(new SharedArrayBuffer(8)),
  };
  readonly #thread: Worker;
  #dueMs = Infinity;
  #polling: NodeJS.Immediate | undefined;

  constructor(ring: () => void) {
    this.#ring = ring;
    this.#memory.dueMs[0] = Infinity;
    this.#thread = new Worker(new URL("alarm-thread.ts", import.meta.url), { workerData: this.#memory });
    this.#thread.on("message", () => this.#look());
    // What is under way does not keep a process that has nothing else to do.
    this.#thread.unref();
  }

  set(dueMs: number): void {
    this.#dueMs = dueMs;
    const { version, dueMs: threadDueMs } = this.#memory;
    if (dueMs - LEAD_MS <= nowMs()) {
      this.#polling ??= setImmediate(() => {
        this.#polling = undefined;
        this.#look();
      });
      return;
    }
    threadDueMs[0] = dueMs - LEAD_MS;
    Atomics.add(version, 0, 1);
    Atomics.notify(version, 0);
  }

  close(): void {
    this.#dueMs = Infinity;
    clearImmediate(this.#polling);
    void this.#thread.terminate();
  }

  #look(): void {
    const dueMs = this.#dueMs;
    if (dueMs > nowMs()) {
      if (dueMs < Infinity) this.set(dueMs);
      return;
    }
    this.#dueMs = Infinity;
    this.#ring();
  }
}
