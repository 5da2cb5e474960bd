/**
 * @file Readings of this process for the accounts: event loop, run queue, CPU of the main thread, peak memory. The run
 * queue comes from Linux's schedstat; elsewhere it reads 0.
 */
import { existsSync, openSync, readSync } from "node:fs";
import { performance } from "node:perf_hooks";
import type { ThreadSample } from "../metrics/accounting.ts";
import { nowMs } from "./clock.ts";

const SCHEDSTAT = "/proc/thread-self/schedstat";

export class ThreadSampler {
  readonly #schedstat = existsSync(SCHEDSTAT) ? openSync(SCHEDSTAT, "r") : undefined;
  readonly #buffer = Buffer.alloc(96);

  sample(): ThreadSample {
    const { active } = performance.eventLoopUtilization();
    return { nowMs: nowMs(), loopActiveMs: active, runQueueMs: this.#runQueueMs() };
  }

  /** Second field: nanoseconds spent runnable without a core. */
  #runQueueMs(): number {
    if (this.#schedstat === undefined) return 0;
    const length = readSync(this.#schedstat, this.#buffer, 0, this.#buffer.length, 0);
    return Number(this.#buffer.toString("latin1", 0, length).split(" ")[1]) / 1e6;
  }
}

/** CPU time of the calling thread. */
export function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

/** Largest resident memory of this process so far, in bytes. */
export function peakRssBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}
