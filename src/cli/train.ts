/** @file `up` and `train`: resolve the settings, run the system, print the result. */
import { join } from "node:path";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { parseModel } from "../nn/spec.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { cutLayers } from "../../ring/core/partition.ts";
import { parseSettings, flagName, type SettingName, type Settings } from "../config/settings.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { launchRing } from "./launcher.ts";
import { Progress } from "./progress.ts";
import { trainSerial } from "./serial.ts";
import { printSummary } from "./print-summary.ts";
import { givenSettings, readConfig, resolveSettings } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;

/** What a run is asked for beside its settings. */
export interface RunRequest {
  readonly settings: Settings;
  readonly out: string;
  readonly force: boolean;
  readonly resume: boolean;
  readonly local: number;
  readonly listen: string | null;
  readonly invite: string | null;
}

/** A run that ended in order; `interrupted` where the user ended it. */
export interface RunResult {
  readonly summary: Record<string, unknown>;
  readonly interrupted: boolean;
}

export async function train(options: Options): Promise<number> {
  const request = requestOf(options);
  const progress = new Progress(options["quiet"] === true);
  const { settings, out } = request;
  const result = await (settings.system === "serial" ? trainSerial(request, progress) : launchRing(request, progress));
  progress.end();
  printSummary(result.summary, out, options["json"] === true);
  return result.interrupted ? ExitCode.interrupted : ExitCode.done;
}

function requestOf(options: Options): RunRequest {
  const { resume, out } = options;
  const isResume = typeof resume === "string";
  if (isResume && out !== undefined) throw new UsageError("--resume goes on in its own folder", "leave --out out");
  const settings = isResume ? resumedSettings(resume, options) : resolveSettings(options);
  checkModel(settings);
  return {
    settings,
    out: isResume ? resume : typeof out === "string" ? out : defaultOut(settings),
    force: options["force"] === true,
    resume: isResume,
    local: localCount(options["local"], settings.nodes),
    listen: textOf(options["listen"]),
    invite: textOf(options["invite"]),
  };
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function localCount(value: unknown, nodes: number): number {
  if (value === undefined) return nodes;
  const count = Number(value);
  if (Number.isInteger(count) && count >= 1 && count <= nodes) return count;
  throw new UsageError(
    `--local "${String(value)}": a whole number from 1 to -n (${nodes}) is needed`,
    "say how many of the nodes start here",
  );
}

/** What can be known to be wrong before any process starts. */
function checkModel(settings: Settings): void {
  const { layers } = parseModel(settings.model);
  parseOptimizer(settings.optimizer);
  if (settings.system === "ring") {
    cutLayers(
      layers.map(() => 1),
      settings.nodes,
    );
  }
}

/** What changes nothing in the numbers may change on the way; the rest must stay. */
const FREE_ON_RESUME: readonly SettingName[] = [
  ...(["system", "nodes", "schedule", "steps", "dataDir", "checkpointEvery", "validateEvery", "stopAtLoss"] as const),
  ...(["timeline", "orphans", "name", "engine"] as const),
];

function resumedSettings(folder: string, options: Options): Settings {
  const before = parseSettings(new RunFolder(folder).readJson(RUN_FILES.config) as Record<string, unknown>);
  const fromFile = typeof options["config"] === "string" ? readConfig(options["config"]) : {};
  const given = { ...fromFile, ...givenSettings(options) };
  // One process has one node, which a ring that goes on need not keep; the other way round likewise.
  const nodes = given["system"] === undefined || given["system"] === before.system ? before.nodes : undefined;
  const settings = parseSettings({ ...before, nodes, ...given });
  const differing = (Object.keys(settings) as SettingName[]).find(
    (name) => !FREE_ON_RESUME.includes(name) && settings[name] !== before[name],
  );
  if (differing !== undefined) {
    throw new UsageError(
      `--resume ${folder}: that run has ${flagName(differing)} ${before[differing]}, not ${settings[differing]}`,
      `leave ${flagName(differing)} out, or start a new run`,
    );
  }
  return settings;
}

function defaultOut({ system, nodes, name }: Settings): string {
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  return join("results", "runs", `${time}-${name ?? `${system}-n${nodes}`}`);
}
