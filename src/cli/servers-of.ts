/** @file `--servers-of RUN`: the servers of a run that is under way on this machine, for another group of workers. */
import { parseSettings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { ask, type NodeEntry, type Obeyed } from "../runtime/process-control.ts";
import { NodeLostError, UsageError } from "../types/errors.ts";
import { findJob } from "./job-answers.ts";
import type { Invitation } from "./ps-guests.ts";

/** A server that computes answers when it has done so. */
const HOST_LIMIT_MS = 5_000;

/** How many there are. Throws UsageError where no such run is under way, or it has no servers. */
export function countServersOf(run: string): number {
  const [{ system, out }] = findJob(run) as readonly [NodeEntry];
  if (system !== "ps") {
    throw new UsageError(`--servers-of ${run}: that run's system is ${system}`, "name a run of --system ps");
  }
  return parseSettings(new RunFolder(out).readJson(RUN_FILES.config) as Record<string, unknown>).servers;
}

/**
 * Asks the servers of `run` to come to another run's manager, and returns their processes.
 * @throws UsageError where the run has ended; NodeLostError where not every one says that it comes
 */
export async function askServersOf(
  run: string,
  servers: number,
  invitation: Invitation,
): Promise<readonly NodeEntry[]> {
  const entries = findJob(run);
  const request = `host ${JSON.stringify(invitation)}` as const;
  const answers = (await Promise.all(entries.map((entry) => ask(entry, request, HOST_LIMIT_MS)))) as readonly (
    Obeyed | undefined
  )[];
  const coming = entries.filter((_, index) => answers[index]?.isDone === true);
  if (coming.length === servers) return coming;
  throw new NodeLostError(
    `--servers-of ${run}: ${coming.length} of its ${servers} servers serve another run now`,
    "see whether it goes on (ringtmp status), and try again",
  );
}
