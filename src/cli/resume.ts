/**
 * @file Going on with a run in its own folder: which settings must stay, and whether there is anything left to do. Nothing
 * is changed here.
 */
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { flagName, parseSettings, SETTING_NAMES, type SettingName, type Settings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { checkpointSteps } from "../runtime/checkpoint.ts";
import { chooseEngines } from "../runtime/engines.ts";
import { runningNodes } from "../runtime/process-control.ts";
import { DataError, UsageError } from "../types/errors.ts";

/** What changes nothing in the numbers may change on the way; the rest must stay. */
const FREE_ON_RESUME: readonly SettingName[] = [
  ...(["system", "nodes", "schedule", "steps", "dataDir", "checkpointEvery", "validateEvery", "stopAtLoss"] as const),
  ...(["laps", "replicas", "balance", "timeline", "respawn", "orphans", "name"] as const),
  ...([
    "pace",
    "link",
    "memoryLimit",
    "servers",
    "coLocate",
    "workerHolds",
    "overlap",
    "parameters",
    "dataServers",
  ] as const),
];

/** A checkpoint is of these: another one needs a run from the beginning. */
const KEPT_IN_FORK: readonly SettingName[] = ["model", "optimizer", "engine", "threads", "wire"];

/**
 * The settings to go on with, in the run's own folder or as a fork of it. Throws UsageError where that is no run, where `given` would change
 * what must stay, or where no step is left.
 */
export function resumedSettings(path: string, given: Readonly<Record<string, unknown>>, isFork: boolean): Settings {
  const folder = new RunFolder(path);
  checkIsRun(folder, path);
  const before = parseSettings(folder.readJson(RUN_FILES.config) as Record<string, unknown>);
  const done = checkpointSteps(folder).at(-1) ?? 0;
  if (done > 0) keepEngine(folder, before);
  // One process has one node, which a ring that goes on need not keep; the other way round likewise.
  const nodes = given["system"] === undefined || given["system"] === before.system ? before.nodes : undefined;
  // As many copies as there were, as far as there are nodes for them.
  const copies = nodes === undefined ? undefined : Math.min(before.replicas, Number(given["nodes"] ?? nodes) - 1);
  const engine = given["engine"] === "auto" ? undefined : given["engine"];
  // What is emulated holds for the nodes that it was stated for.
  const emulated = nodes === before.nodes ? {} : { pace: null, link: null, memoryLimit: null };
  const settings = parseSettings({
    ...before,
    ...emulated,
    nodes,
    replicas: copies,
    ...given,
    engine: engine ?? before.engine,
  });
  const mayDiffer = (name: SettingName): boolean =>
    isFork ? !KEPT_IN_FORK.includes(name) : FREE_ON_RESUME.includes(name);
  const differing = SETTING_NAMES.find((name) => !mayDiffer(name) && settings[name] !== before[name]);
  if (differing !== undefined) {
    const flag = flagName(differing);
    const fork = KEPT_IN_FORK.includes(differing) ? "start a new run" : "start a new run from it: add --fork --out NEW";
    throw new UsageError(
      `--resume ${path}: that run has ${flag} ${before[differing]}, not ${settings[differing]}`,
      `leave ${flag} out, or ${fork}`,
    );
  }
  if (done < settings.steps) return settings;
  throw new UsageError(
    `--resume ${path}: step ${done} is reached, and --steps is ${settings.steps}`,
    `use for example --steps ${2 * done} to go on`,
  );
}

function checkIsRun(folder: RunFolder, path: string): void {
  if (existsSync(folder.file(RUN_FILES.config))) return;
  const names = existsSync(folder.path) && statSync(folder.path).isDirectory() ? readdirSync(folder.path) : undefined;
  const what = names === undefined ? "there is no such folder" : names.length === 0 ? "it is empty" : "it is not a run";
  throw new DataError(`--resume ${path}: ${what}`, "name the folder that a run wrote (its --out)");
}

/** `auto` became one engine when the run began: another one, or the same with other bits here, must not mix in. */
function keepEngine(folder: RunFolder, settings: Settings): void {
  const { engine: id } = folder.readJson(RUN_FILES.environment) as { readonly engine: string };
  const kind = id.split(":")[0] as Exclude<Settings["engine"], "auto">;
  settings.engine = kind;
  if (chooseEngines(kind).ids.includes(id)) return;
  throw new UsageError(
    `--resume ${folder.path}: that run has engine ${id}, which gives other bits on this machine`,
    "go on with it on the machine that it began on, or start a new run with --engine wasm-exact",
  );
}

/** Two jobs in one folder would tear each other's files. */
export function refuseRunning(out: string): void {
  if (!existsSync(out)) return;
  const path = realpathSync(out);
  const running = runningNodes().find((entry) => entry.out === path);
  if (running === undefined) return;
  throw new UsageError(`${out} is the folder of the running job ${running.job}`, `end it first: ringtmp stop ${out}`);
}

/** The command that goes on from what a run has on the disk. */
export function goOnText(out: string): string {
  const step = checkpointSteps(new RunFolder(out)).at(-1);
  if (step === undefined) return "no checkpoint was written: run again, with --checkpoint-every to be able to go on";
  return `go on from step ${step}: ringtmp up --resume ${out}`;
}
