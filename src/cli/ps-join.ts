/** @file `join RUN --as server|worker`: one process more for a parameter server that trains on this machine and survives its processes. */
import * as z from "zod";
import type { PsRole } from "../../baseline-ps/index.ts";
import { parseSettings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import type { NodeEntry } from "../runtime/process-control.ts";
import { DataError, ExitCode, UsageError } from "../types/errors.ts";
import { ToldFailure } from "./failure.ts";
import { findJob } from "./job-answers.ts";
import { Progress } from "./progress.ts";
import { PsProcess } from "./ps-process.ts";
import type { NodeEvent } from "./run-node.ts";

const KINDS = ["server", "worker"] as const;
const jobSchema = z.object({ manager: z.array(z.string()).min(1) });

/** Until the run is over, or this process has left it: Ctrl-C asks for that. */
export async function joinServers(run: string, as: string, isQuiet: boolean): Promise<number> {
  const kind = KINDS.find((known) => known === as);
  if (kind === undefined) throw new UsageError(`--as "${as}": server or worker is needed`, "add --as server");
  const { settings, out, manager } = readRun(run);
  const progress = new Progress(isQuiet);
  const hear = (event: NodeEvent): void => {
    if (event.kind === "warning") progress.say(event.text);
  };
  const members: readonly PsRole[] = [{ kind, index: 0 }];
  const joiner = new PsProcess(
    { system: "ps", settings, out, role: { kind: "member", members, manager, joins: true } },
    hear,
  );
  let interrupts = 0;
  const onSignal = (): void => {
    interrupts += 1;
    if (interrupts > 1) process.exit(ExitCode.interrupted);
    progress.say("interrupted: leaving in order (once more ends at once)");
    joiner.leave();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, onSignal);
  progress.say(`joins ${out} as a ${kind}`);
  const failure = await joiner.run();
  progress.end();
  if (failure !== undefined) throw new ToldFailure(failure);
  return interrupts > 0 ? ExitCode.interrupted : ExitCode.done;
}

function readRun(run: string) {
  const [{ system, out }] = findJob(run) as readonly [NodeEntry];
  if (system !== "ps")
    throw new UsageError(`--as with ${run}, whose system is ${system}`, "join a ring by its address");
  const folder = new RunFolder(out);
  const job = jobSchema.safeParse(folder.readJson(RUN_FILES.job));
  if (!job.success) throw new DataError(`${out} does not say where its manager is`, "was it started by this build?");
  const settings = parseSettings(folder.readJson(RUN_FILES.config) as Record<string, unknown>);
  if (settings.serverReplicas > 0) return { settings, out, manager: job.data.manager };
  throw new UsageError(`${out} takes nobody: it has no --server-replicas`, "start it with --server-replicas 1 or more");
}
