/** @file `simulate`: the ring in virtual time, with the result of a real run. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import {
  calibrateFrom,
  entriesPerStep,
  IDEAL_FIT,
  OWN_SETTING_NAMES,
  parseSimulation,
  planSimulation,
  printSchedule,
  simulate,
  summarize,
  tasksPerStep,
  type CalibratedRuns,
  type Recording,
  type SimulationPlan,
  type SimulationSettings,
} from "../../ring/simulation/index.ts";
import { parseTimeline } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { chromeTrace } from "../metrics/timeline.ts";
import { nowMs } from "../runtime/clock.ts";
import { describeEnvironment } from "../runtime/process-environment.ts";
import { peakRssBytes } from "../runtime/process-sample.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { formatBytes, formatSeconds, Progress } from "./progress.ts";
import { givenValues } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;
type Summary = Readonly<Record<string, unknown>>;

/** Entries of timelines: a line of 100 bytes each, and 300 in the trace. */
const ENTRIES_KEPT_UNASKED = 200_000;
const ENTRIES_MAX = 1_000_000;
const [TERMINAL_INTERVAL_MS, PLAIN_INTERVAL_MS] = [100, 2_000];

export async function simulateCommand(options: Options): Promise<number> {
  const { json, print } = options;
  const [out, force] = [typeof options["out"] === "string" ? options["out"] : null, options["force"] === true];
  if (print === true && json === true) {
    throw new UsageError("--print with --json: both go to standard output", "leave one of them out");
  }
  const values = valuesOf(options);
  const { from } = values;
  const calibrated = Array.isArray(from) && from.length > 0 ? calibrateFrom(from.map(String)) : null;
  const settings = parseSimulation({ ...calibrated?.values, ...values }, readTasks);
  if (out !== null) RunFolder.check(out, force);
  const progress = new Progress(options["quiet"] === true);
  if (calibrated !== null) progress.say(describeCalibration(calibrated));
  const plan = planSimulation(settings, calibrated?.calibration.fit ?? IDEAL_FIT);
  const timelineSteps = out === null ? 0 : keptSteps(settings, plan, progress);
  const startedMs = nowMs();
  const onProgress = progressOf(progress, tasksPerStep(plan) * settings.run.steps, startedMs);
  const { outcome, recording, tasks } = simulate(settings, plan, {
    timelineSteps,
    wantsTasks: print === true,
    onProgress,
  });
  const seconds = (nowMs() - startedMs) / 1000;
  const rate = `${Math.round(outcome.tasks / seconds)} tasks/s`;
  progress.say(
    `${outcome.tasks} tasks in ${formatSeconds(seconds)}: ${rate}, ${formatBytes(peakRssBytes())} of memory`,
  );
  const summary = { ...summarize(settings, plan, outcome), calibration: calibrationFields(calibrated) };
  if (out !== null) write(RunFolder.create(out, force), settings, summary, recording);
  if (tasks !== null) process.stdout.write(`${printSchedule(tasks)}\n`);
  else process.stdout.write(`${json === true ? JSON.stringify(summary) : describe(summary, out)}\n`);
  return ExitCode.done;
}

/** Paths become absolute, so that the run's `config.json` can be used from anywhere. */
function valuesOf(options: Options): Record<string, unknown> {
  const values = givenValues(options);
  for (const name of OWN_SETTING_NAMES) if (options[name] !== undefined) values[name] = options[name];
  const { tasks, from } = values;
  if (typeof tasks === "string") values["tasks"] = resolve(tasks);
  if (Array.isArray(from)) values["from"] = from.map((folder) => resolve(String(folder)));
  return values;
}

function readTasks(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new UsageError(`--tasks ${file} cannot be read`, "name a file with a line of tasks for each node", { cause });
  }
}

/** Newest steps whose timelines are kept: as stated, or of the default's as many as are little. */
function keptSteps({ run, isTimelineStated }: SimulationSettings, plan: SimulationPlan, progress: Progress): number {
  const steps = Math.min(run.steps, parseTimeline(run.timeline));
  const entries = steps * entriesPerStep(plan);
  if (entries <= (isTimelineStated ? ENTRIES_MAX : ENTRIES_KEPT_UNASKED)) return steps;
  if (!isTimelineStated) {
    const kept = Math.floor(ENTRIES_KEPT_UNASKED / entriesPerStep(plan));
    progress.say(`timelines of ${kept} of ${steps} steps are kept: a step has ${entriesPerStep(plan)} entries`);
    return kept;
  }
  throw new UsageError(
    `--timeline ${run.timeline}: timelines of ${entries} entries, and at most ${ENTRIES_MAX} are kept`,
    "use --timeline last:1, fewer nodes or fewer micro-batches",
  );
}

function progressOf(progress: Progress, count: number, startedMs: number): (tasks: number) => void {
  const intervalMs = process.stderr.isTTY ? TERMINAL_INTERVAL_MS : PLAIN_INTERVAL_MS;
  let shownMs = startedMs;
  return (tasks) => {
    const now = nowMs();
    if (now - shownMs < intervalMs) return;
    shownMs = now;
    const perSecond = (1000 * tasks) / (now - startedMs);
    const left = formatSeconds((count - tasks) / perSecond);
    progress.waiting(`task ${tasks} of ${count}  ${Math.round(perSecond)} tasks/s  ${left} left`);
  };
}

function write(folder: RunFolder, settings: SimulationSettings, summary: Summary, recording: Recording | null): void {
  folder.writeJson(RUN_FILES.config, settings.config);
  folder.writeJson(RUN_FILES.environment, {
    ...describeEnvironment("simulator", settings.run),
    clockSource: "virtual time",
  });
  const { nodes } = settings.run;
  if (recording !== null) {
    const timelines = Array.from({ length: nodes }, (_, node) => ({ node, entries: recording.entries(node) }));
    for (const { node, entries } of timelines) folder.appendLines(`timeline/${node}.jsonl`, entries);
    folder.writeJson(RUN_FILES.trace, chromeTrace(timelines, nodes));
  }
  folder.writeJson(RUN_FILES.summary, summary);
}

/** For the summary; null without `--from`. */
function calibrationFields(calibrated: CalibratedRuns | null): Summary | null {
  if (calibrated === null) return null;
  const { calibration, residuals } = calibrated;
  const { fit, errors, gaps, messages } = calibration;
  const sorted = errors.toSorted((a, b) => a - b);
  const errorPercent = { median: 100 * (sorted[sorted.length >> 1] ?? 0), most: 100 * (sorted.at(-1) ?? 0) };
  return { fit, medians: errors.length, errorPercent, gaps, messages, residuals };
}

function describeCalibration(calibrated: CalibratedRuns): string {
  const { fit, errors, messages } = calibrated.calibration;
  const { passes, update } = fit;
  const [ms, percent] = [
    (value: unknown) => `${Number(value).toFixed(3)} ms`,
    (value: number) => `${(100 * value).toFixed(1)} %`,
  ];
  const pass = ({ slope, intercept }: typeof update): string =>
    fit.isPaced ? `as paced + ${ms(intercept)}` : `${ms(slope * 1e6)} a MFLOP + ${ms(intercept)}`;
  const worst = errors.reduce((most, error) => Math.max(most, error), 0);
  return [
    `fitted: F ${pass(passes.forward)}, B ${pass(passes.backwardInput)}, W ${pass(passes.backwardWeight)}; update ${ms(update.slope * 1e6)} a million parameters + ${ms(update.intercept)}`,
    `  between operations ${ms(fit.operationOverheadMs)}; messages ${ms(fit.latencyMs)} + ${ms(fit.msPerByte * 1e6)} a MB, CPU ${ms(fit.messageCpuMs)} at each end (${messages} messages)`,
    `  spread ${percent(fit.variation)} of an operation; ${errors.length} medians fitted within ${percent(worst)}`,
    ...calibrated.residuals.map(
      ({ folder, nodes, schedule, idlePercentSteady: idle, stepMs }) =>
        `  ${folder} (${nodes} nodes, ${schedule}): step ${ms(stepMs.measured)}, simulated ${ms(stepMs.simulated)}; idle ${percent((idle.measured ?? Number.NaN) / 100)}, simulated ${percent(Number(idle.simulated) / 100)}`,
    ),
  ].join("\n");
}

function describe(summary: Summary, out: string | null): string {
  const text = (name: string): string => String(summary[name]);
  const number = (name: string): string => {
    const value = summary[name];
    return typeof value === "number" ? String(Math.round(1000 * value) / 1000) : "none";
  };
  const percent = (name: string): string => (summary[name] === null ? "none" : `${number(name)} %`);
  const lines = [
    ["system", `simulated ring, ${text("nodes")} nodes, ${text("schedule")}, ${text("microBatches")} micro-batches`],
    ["model", text("model")],
    ["time", `${number("stepMsMedian")} ${text("timeUnit")} a step, ${number("wallMs")} in all`],
    ["idle", `${percent("idlePercentSteady")} steady (theory ${percent("idlePercentTheory")})`],
    ["closed form", percent("idlePercentFormula")],
    ["bytes", `${number("bytesPerStep")} a step, ${number("busiestNodeBytesPerStep")} at the busiest node`],
    ["results", out ?? "not kept (--out DIR keeps them)"],
  ] as const;
  return lines.map(([name, value]) => `${`${name}:`.padEnd(15)}${value}`).join("\n");
}
