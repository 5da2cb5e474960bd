/** @file `join`: one node in this process, in a ring that somebody else founded. */
import { join as joinPath } from "node:path";
import { parseSettings } from "../config/settings.ts";
import { STATE_FOLDER } from "../metrics/run-folder.ts";
import { nowMs } from "../runtime/clock.ts";
import { ExitCode } from "../types/errors.ts";
import { ToldFailure } from "./failure.ts";
import { printSummary } from "./print-summary.ts";
import { Progress } from "./progress.ts";
import { NodeProcess, type NodeEvent } from "./run-node.ts";
import { givenSettings } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;

export async function join(address: string, options: Options): Promise<number> {
  const out = typeof options["out"] === "string" ? options["out"] : defaultOut();
  const progress = new Progress(options["quiet"] === true);
  let steps = 0;
  let summary: Record<string, unknown> | undefined;
  const hear = (event: NodeEvent): void => {
    if (event.kind === "present") progress.waiting(`${event.present} of ${event.size} nodes are here`);
    if (event.kind === "formed") {
      steps = event.steps;
      progress.say(`node ${event.node} of job ${event.job}; results in ${out}, logs in ${joinPath(out, "logs")}`);
    }
    if (event.kind === "committed") progress.step(event.step, steps, event.loss);
    if (event.kind === "warning") progress.say(event.text);
    if (event.kind === "done") summary = event.summary;
  };
  const node = new NodeProcess(
    {
      role: { kind: "joiner", address, expected: expectedSettings(options), force: options["force"] === true },
      out,
      state: typeof options["state"] === "string" ? options["state"] : joinPath(out, STATE_FOLDER, "joined"),
      listen: [typeof options["listen"] === "string" ? options["listen"] : "/ip4/0.0.0.0/tcp/0"],
      wish: null,
      invite: typeof options["invite"] === "string" ? options["invite"] : null,
    },
    hear,
  );
  let interrupts = 0;
  const onSignal = (): void => {
    interrupts += 1;
    if (interrupts > 1) process.exit(ExitCode.interrupted);
    progress.say("interrupted: the ring finishes its step (once more ends at once)");
    node.requestStop();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const failure = await node.run();
  progress.end();
  if (failure !== undefined) throw new ToldFailure(failure);
  if (summary !== undefined) printSummary(summary, out, options["json"] === true);
  return interrupts > 0 ? ExitCode.interrupted : ExitCode.done;
}

/** Only what the user stated, in the job's own form. */
function expectedSettings(options: Options): Record<string, string | number | boolean | null> {
  const given = givenSettings(options);
  const parsed = parseSettings(given) as Readonly<Record<string, string | number | boolean | null>>;
  return Object.fromEntries(Object.keys(given).map((name) => [name, parsed[name] ?? null]));
}

function defaultOut(): string {
  const time = new Date(nowMs()).toISOString().slice(0, 19).replaceAll(":", "-");
  return joinPath("results", "runs", `${time}-joined-${process.pid}`);
}
