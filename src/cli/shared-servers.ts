/**
 * @file Several worker groups on one group of servers (Li 2014, section 3): a run's servers serve another run too, whose workers, task scheduler and
 * manager are its own. Each run has its own keys; the servers belong to the first one, and end with it where it fails.
 */
import { z } from "zod";
import { parseSettings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { ask, isJob, type NodeEntry, type Obeyed, runningNodes } from "../runtime/process-control.ts";
import { NodeLostError, UsageError } from "../types/errors.ts";

/** A process that is busy may not answer at once. */
const ATTEMPTS = 10;

/** What a server is asked by another run. */
export const serveRequestSchema = z.strictObject({
  server: z.int().nonnegative(),
  manager: z.array(z.string().max(256)).min(1).max(16).readonly(),
  /** The other run's folder. */
  out: z.string().max(4096),
});
export type ServeRequest = z.infer<typeof serveRequestSchema>;

/** How many servers a run under way has. @throws UsageError where there is no such run */
export function sharedServerCount(run: string): number {
  const [entry] = processesOf(run);
  const config = new RunFolder(entry!.out).readJson(RUN_FILES.config) as Record<string, unknown>;
  return parseSettings(config).servers;
}

/** The servers of a run under way join this one as its servers. @throws NodeLostError where one does not answer */
export async function shareServers(run: string, { manager, out }: Omit<ServeRequest, "server">): Promise<void> {
  const entries = processesOf(run);
  for (let server = 0; server < sharedServerCount(run); server += 1) {
    const request = Buffer.from(JSON.stringify({ server, manager, out })).toString("base64url");
    if (await isTaken(entries, `serve ${request}`)) continue;
    throw new NodeLostError(`server ${server} of ${run} does not answer`, "see that run's logs; start this one again");
  }
}

async function isTaken(entries: readonly NodeEntry[], request: `serve ${string}`): Promise<boolean> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const answers = await Promise.all(entries.map((entry) => ask(entry, request)));
    if (answers.some((answer) => (answer as Obeyed | undefined)?.isDone === true)) return true;
  }
  return false;
}

function processesOf(run: string): readonly NodeEntry[] {
  const entries = runningNodes().filter((entry) => entry.system === "ps" && isJob(entry, run));
  if (entries.length > 0) return entries;
  throw new UsageError(
    `--servers-of ${run}: no parameter server runs there`,
    "ringtmp jobs lists what runs on this machine; name a run that trains, or start one with --servers",
  );
}
