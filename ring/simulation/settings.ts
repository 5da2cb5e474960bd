/**
 * @file What to simulate, as flags or a `config.json` say it: the settings of a run, and those that only a simulation has.
 * Without a model times are in units: one F on a node of speed 1.
 */
import * as z from "zod";
import { text, wholeNumber } from "../../src/config/fields.ts";
import { flagName, parseSettings, settingName, type Settings } from "../../src/config/settings.ts";
import { UsageError } from "../../src/types/errors.ts";
import { parseSchedule, validateSchedule, type GivenSchedule } from "../core/schedule-text.ts";
import { checkSchedule, isFused, SCHEDULE_KINDS } from "../core/schedule.ts";
import { CAN_SPLIT, shapeOf } from "../runtime/segments.ts";

/** More than a real run's. */
const NODES_MAX = 4096;
const RUN_NODES_MAX = 1024;
const STEPS_DEFAULT = 4;
const NUMBER_MAX = 1e9;

const ownSchema = z.strictObject({
  nodes: wholeNumber(1, NODES_MAX).default(4),
  costs: text.nullable().default(null),
  hopLatency: z.union([text, z.number()]).nullable().default(null),
  jitter: z.union([text, z.number()]).nullable().default(null),
  speeds: text.nullable().default(null),
  tasks: text.nullable().default(null),
  from: z.array(text).default([]),
});
type OwnSettings = z.infer<typeof ownSchema>;

export const OWN_SETTING_NAMES = Object.keys(ownSchema.shape) as readonly (keyof OwnSettings)[];

/** Times of nodes without a model, in units. */
export interface UnitCosts {
  readonly forward: number;
  readonly backward: number;
  readonly weight: number;
  readonly hopLatency: number;
  /** Of each node: its times are divided by it. */
  readonly speeds: readonly number[];
}

export interface SimulationSettings {
  /** Where `units` is not null its model does not count. */
  readonly run: Settings;
  readonly units: UnitCosts | null;
  /** Coefficient of variation of an operation's time; null: none, or as calibrated. */
  readonly jitter: number | null;
  /** In place of the schedule's own tasks. */
  readonly given: GivenSchedule | null;
  /** Folders of runs to calibrate from. */
  readonly from: readonly string[];
  /** Whether the timeline was asked for, not only a default. */
  readonly isTimelineStated: boolean;
  /** As resolved, to repeat the simulation: what `config.json` holds. */
  readonly config: Readonly<Record<string, unknown>>;
}

/**
 * @param values by name, as given: with neither `model` nor `from` the costs are in units
 * @param readText the text of a file of tasks
 * @throws UsageError for an unknown name, a value out of its range, or values that do not fit each other
 */
export function parseSimulation(
  values: Readonly<Record<string, unknown>>,
  readText: (path: string) => string,
): SimulationSettings {
  const named = Object.entries(values).map(([key, value]) => [settingName(key), value] as const);
  const stated = Object.fromEntries(named.filter(([, value]) => value !== undefined && value !== null));
  const given = typeof stated["tasks"] === "string" ? givenSchedule(readText(stated["tasks"]), stated) : null;
  const { nodes, laps, microBatches } = given ?? {};
  const counts = given === null ? {} : { nodes, laps, microBatches, schedule: stated["schedule"] ?? "zb-h1" };
  const own = parseOwn({ ...stated, ...counts });
  const isUnits = stated["model"] === undefined && own.from.length === 0;
  const run = parseRun({ ...stated, ...counts }, own.nodes, isUnits);
  checkTogether(isUnits, run, own);
  if (given === null) checkSchedule(shapeOf(run, run.nodes), CAN_SPLIT);
  const config = { ...run, ...own, ...(isUnits ? { model: null } : {}) };
  return {
    ...{ run, config, given, from: own.from },
    units: isUnits ? unitCosts(own) : null,
    jitter: own.jitter === null ? null : numbers("jitter", own.jitter)[0],
    isTimelineStated: stated["timeline"] !== undefined,
  };
}

/** The schedule that was given says whether B and W are one operation; where none was they are two. */
function givenSchedule(lines: string, stated: Readonly<Record<string, unknown>>): GivenSchedule {
  const kind = SCHEDULE_KINDS.find((candidate) => candidate === stated["schedule"]) ?? "zb-h1";
  if (kind === "zero-bubble") {
    throw new UsageError("--schedule zero-bubble with --tasks: it has no list of tasks", "leave --schedule out");
  }
  const given = validateSchedule(parseSchedule(lines), isFused(kind));
  for (const name of ["nodes", "laps", "microBatches"] as const) {
    if (stated[name] === undefined || Number(stated[name]) === given[name]) continue;
    throw new UsageError(
      `${flag(name)} ${JSON.stringify(stated[name])}: the tasks are for ${given[name]}`,
      "leave it out",
    );
  }
  return given;
}

function parseRun(stated: Readonly<Record<string, unknown>>, nodes: number, isUnits: boolean): Settings {
  const { batch, microBatches, steps = STEPS_DEFAULT, system = "ring" } = stated;
  if (system !== "ring") {
    throw new UsageError(`--system ${JSON.stringify(system)}: only rings are simulated`, "leave it out");
  }
  const run = parseSettings({
    ...Object.fromEntries(Object.entries(stated).filter(([name]) => !isOwn(name))),
    ...{ nodes: Math.min(nodes, RUN_NODES_MAX), steps },
    // Without samples there is nothing to divide.
    ...(isUnits && batch === undefined && microBatches !== undefined ? { batch: microBatches } : {}),
  });
  return { ...run, nodes };
}

const isOwn = (name: string): boolean => OWN_SETTING_NAMES.some((own) => own === name);

function parseOwn(given: Readonly<Record<string, unknown>>): OwnSettings {
  const result = ownSchema.safeParse(Object.fromEntries(OWN_SETTING_NAMES.map((name) => [name, given[name]])));
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const name = String(issue?.path[0]);
  throw new UsageError(`${flag(name)} ${JSON.stringify(given[name])}: ${issue?.message}`, `correct ${flag(name)}`);
}

function checkTogether(isUnits: boolean, run: Settings, own: OwnSettings): void {
  const refuse = (name: string, value: string | number | null, why: string, remedy: string): void => {
    if (value !== null) throw new UsageError(`${flag(name)} ${value}: ${why}`, remedy);
  };
  if (isUnits) {
    const why = "it needs a model's sizes, and unit costs have none";
    refuse("pace", run.pace, why, "use --speeds, or name a --model");
    refuse("link", run.link, why, "use --hop-latency, or name a --model");
    refuse("memoryLimit", run.memoryLimit, why, "name a --model and a --pace");
    return;
  }
  const why = "it is of unit costs, and a model's times are in milliseconds";
  refuse("costs", own.costs, why, "leave it out: the model and --pace give the costs");
  refuse("speeds", own.speeds, why, "use --pace, one speed a node");
  refuse("hopLatency", own.hopLatency, why, "use --link 5ms");
}

function unitCosts({ costs, hopLatency, speeds, nodes }: OwnSettings): UnitCosts {
  const [forward, backward, weight, ...others] = numbers("costs", costs ?? "1,1,1");
  const work = forward + (backward ?? 0) + (weight ?? 0);
  if (backward === undefined || weight === undefined || others.length > 0 || work === 0) {
    throw new UsageError(`--costs ${costs}: three numbers are needed, not all 0`, "write tF,tB,tW: --costs 1,1.2,0.8");
  }
  return {
    ...{ forward, backward, weight },
    hopLatency: numbers("hopLatency", hopLatency ?? 0)[0],
    speeds: speedsOf(speeds, nodes),
  };
}

function speedsOf(speeds: string | null, nodes: number): readonly number[] {
  const stated = numbers("speeds", speeds ?? "1");
  if (stated.includes(0)) throw new UsageError(`--speeds ${speeds}: a speed of 0`, "speeds are above 0");
  if (stated.length === 1) return Array<number>(nodes).fill(stated[0]);
  if (stated.length === nodes) return stated;
  throw new UsageError(
    `--speeds ${speeds} has ${stated.length} speeds for ${nodes} nodes`,
    `give one speed for all, or ${nodes}`,
  );
}

/** Numbers between commas, at least one, all of at least 0. */
function numbers(name: string, value: string | number): readonly [number, ...number[]] {
  const [first, ...rest] = String(value)
    .split(",")
    .map((part) => (/^\s*(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(part) ? Number(part) : Number.NaN));
  if (first !== undefined && [first, ...rest].every((number) => number >= 0 && number <= NUMBER_MAX)) {
    return [first, ...rest];
  }
  throw new UsageError(
    `${flag(name)} ${JSON.stringify(value)}: numbers from 0 to ${NUMBER_MAX} are needed`,
    `correct ${flag(name)}; ringtmp simulate --help shows the form`,
  );
}

const flag = (name: string): string => (name === "nodes" ? "-n" : flagName(name));
