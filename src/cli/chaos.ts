/** @file `chaos`: a run under random faults, then the same run undisturbed, and whether the two differ in a bit. */
import { join } from "node:path";
import { parseSettings, type Settings } from "../config/settings.ts";
import { RUN_FILES, RunFolder, type MetricsLine } from "../metrics/run-folder.ts";
import { ExitCode, NodeLostError, UsageError } from "../types/errors.ts";
import { parseFaults } from "./chaos-plan.ts";
import { buildReport, recoveriesWithTimes, type ChaosReport, type ReportInit, type RunFiles } from "./chaos-report.ts";
import { ChaosRun, type ChaosOutcome } from "./chaos-run.ts";
import { launchRing } from "./launcher.ts";
import { printSummary } from "./print-summary.ts";
import { Progress } from "./progress.ts";
import type { RunRequest } from "./run-request.ts";
import { newRequest } from "./train.ts";
import { givenValues } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;

const CHAOS_FILE = "chaos.json";
const REFERENCE_FOLDER = "reference";
/** When the last fault is recovered the run is stopped. */
const STEPS_MAX = 1_000_000_000;

export async function chaos(options: Options): Promise<number> {
  const progress = new Progress(options["quiet"] === true);
  const values = givenValues(options);
  const stepsMin = values["steps"] === undefined ? 1 : parseSettings({ steps: values["steps"] }).steps;
  const settings = parseSettings({ ...values, system: "ring", respawn: true, orphans: "end", steps: STEPS_MAX });
  const { seed, nodes, replicas } = settings;
  const kinds = parseFaults(textOf(options["faults"], "kill"), nodes, replicas);
  const kills = numberOf(options["kills"], "--kills", 5, { least: 1, most: 1_000_000, isWhole: true });
  const everyMs = 1000 * numberOf(options["every"], "--every", 3, { least: 0, most: 3600, isWhole: false });
  const request = newRequest(settings, options);
  progress.say(`${kills} ${kills === 1 ? "fault" : "faults"} on a ring of ${nodes} nodes; results in ${request.out}`);
  const outcome = await new ChaosRun({ request, kinds, kills, everyMs, seed, stepsMin }, progress).run();
  if (outcome.result === null) {
    throw new NodeLostError(outcome.stuck ?? "the run did not end", `see ${join(request.out, "logs")}`);
  }
  if (outcome.result.interrupted) return ExitCode.interrupted;
  const steps = Number(outcome.result.summary["steps"]);
  if (!(await runReference(request, steps, progress))) return ExitCode.interrupted;
  const report = conclude(request.out, outcome);
  if (options["json"] === true) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else {
    printSummary(outcome.result.summary, request.out, false);
    process.stdout.write(`${describe(report)}\n`);
  }
  return report.isEqual ? ExitCode.done : ExitCode.unexpected;
}

/** The same settings, without faults. Returns false where the user ended it. */
async function runReference(request: RunRequest, steps: number, progress: Progress): Promise<boolean> {
  progress.say(`the same ${steps} steps undisturbed:`);
  const settings: Settings = { ...request.settings, steps, respawn: false, name: null };
  const out = join(request.out, REFERENCE_FOLDER);
  const { interrupted } = await launchRing({ ...request, settings, out, force: true }, progress);
  progress.end();
  return !interrupted;
}

function conclude(out: string, outcome: ChaosOutcome): ChaosReport {
  const folder = new RunFolder(out);
  const init: ReportInit = {
    ...outcome,
    events: folder.readLines(RUN_FILES.events) as readonly Readonly<Record<string, unknown>>[],
    run: filesOf(folder),
    reference: filesOf(new RunFolder(join(out, REFERENCE_FOLDER))),
  };
  const report = buildReport(init);
  folder.writeJson(CHAOS_FILE, report);
  const { lostCommittedSteps } = report;
  const recoveries = recoveriesWithTimes(init);
  folder.writeJson(RUN_FILES.summary, { ...init.run.summary, lostCommittedSteps, recoveries });
  return report;
}

function filesOf(folder: RunFolder): RunFiles {
  return {
    summary: folder.readJson(RUN_FILES.summary) as Readonly<Record<string, unknown>>,
    metrics: folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[],
  };
}

function describe(report: ChaosReport): string {
  const { faults, steps, differences, recomputedSteps, lostCommittedSteps, isEqual } = report;
  const told = faults.map(({ kind, nodes, step, faultToDetectedMs, faultToResumedMs }) => {
    const who = `${nodes.length === 1 ? "node" : "nodes"} ${nodes.join(", ")}`;
    const resumed = faultToResumedMs === null ? "no step waited for it" : `resumed after ${faultToResumedMs} ms`;
    const seen =
      faultToDetectedMs === null ? "back before anybody missed it" : `seen after ${faultToDetectedMs} ms, ${resumed}`;
    return `${kind.padEnd(9)} ${who} at step ${step}: ${seen}`;
  });
  const lines = [
    ["detected", percentileText(report.faultToDetectedMs)],
    ["resumed", percentileText(report.faultToResumedMs)],
    ["recomputed", `${recomputedSteps} of ${String(steps)} steps`],
    ["lost", `${lostCommittedSteps} committed steps`],
  ].map(([name, value]) => `${`${name}:`.padEnd(15)}${value}`);
  const verdict = isEqual
    ? `after ${faults.length} ${faults.length === 1 ? "fault" : "faults"} weights and losses are those of the undisturbed run, bit for bit`
    : "the run under faults is NOT the undisturbed run:";
  return [...told, ...lines, verdict, ...differences.map((difference) => `  ${difference}`)].join("\n");
}

function percentileText(values: ChaosReport["faultToDetectedMs"]): string {
  if (values === null) return "none";
  return `p50 ${values.p50} ms, p99 ${values.p99} ms, max ${values.max} ms after the signal (${values.count})`;
}

const textOf = (value: unknown, byDefault: string): string => (typeof value === "string" ? value : byDefault);

function numberOf(
  option: unknown,
  flag: string,
  byDefault: number,
  { least, most, isWhole }: { readonly least: number; readonly most: number; readonly isWhole: boolean },
): number {
  if (option === undefined) return byDefault;
  const value = textOf(option, "");
  const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
  if (number >= least && number <= most && (!isWhole || Number.isInteger(number))) return number;
  const kind = isWhole ? "a whole number" : "a number";
  throw new UsageError(
    `${flag} "${value}": ${kind} from ${least} to ${most} is needed`,
    `use for example ${flag} ${byDefault}`,
  );
}
