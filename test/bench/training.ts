/**
 * @file A training step of a whole model on the compute thread, and how long the main thread is held up meanwhile; in a
 * process of its own. About ten seconds.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { BenchRow } from "./row.ts";

const TIME_LIMIT_MS = 60_000;

/** Throws where the process ends without rows. */
export async function benchTraining(): Promise<BenchRow[]> {
  const child = fork(join(import.meta.dirname, "training-quiet.ts"), { timeout: TIME_LIMIT_MS });
  const ended = once(child, "exit").then(([code]) => {
    throw new Error(`the training process ended with code ${code} and without rows`);
  });
  const [rows] = (await Promise.race([once(child, "message"), ended])) as [BenchRow[]];
  return rows;
}
