/**
 * @file A run's settings: names, defaults, rules between them. Parsed once, here; flags and `--config` files carry the
 * same names. What results depend on is the job's fingerprint; nodes, schedule and output are not part of it.
 */
import * as z from "zod";
import { parseAugment } from "../data/augment.ts";
import { UsageError } from "../types/errors.ts";
import { nearest } from "../types/suggest.ts";
import { parseLink, parseMemoryLimit, parsePace } from "./emulation.ts";
import { oneOf, oneOfThisVersion, only, realNumber, text, wholeNumber } from "./fields.ts";

const COUNT_MAX = 1_000_000_000;

export const settingsSchema = z.strictObject({
  system: oneOfThisVersion(["ring", "ps", "serial"], ["allreduce", "fsdp"]).default("ring"),
  nodes: wholeNumber(1, 1024).default(4),
  model: text.default("mlp:784-256-256-256-10"),
  data: text.default("digits"),
  dataDir: text.nullable().default(null),
  augment: text.default("none"),
  steps: wholeNumber(1, COUNT_MAX).default(200),
  batch: wholeNumber(1, 1_000_000).default(128),
  microBatches: wholeNumber(1, 65_536).default(8),
  optimizer: oneOf(["sgd", "momentum", "adam", "adamw", "adagrad"]).default("adam"),
  lr: realNumber(0, 1000).default(1e-3),
  seed: wholeNumber(0, Number.MAX_SAFE_INTEGER).default(1),
  engine: oneOfThisVersion(["auto", "wasm", "wasm-exact"], ["blas"]).default("auto"),
  threads: only(1).default(1),
  schedule: oneOf(["zero-bubble", "zb-h1", "interleaved", "1f1b", "gpipe", "naive"]).default("zero-bubble"),
  laps: wholeNumber(1, 64).default(1),
  replicas: wholeNumber(0, 1023).default(1),
  balance: oneOf(["auto", "even", "off"]).default("auto"),
  servers: wholeNumber(1, 1024).default(1),
  coLocate: z.boolean().default(false),
  consistency: oneOf(["bsp", "bounded", "ssp", "async"]).default("bsp"),
  tau: wholeNumber(0, 65_535).nullable().default(null),
  workerHolds: oneOf(["model", "range"]).default("model"),
  overlap: oneOf(["on", "off"]).default("on"),
  parameters: oneOf(["pull", "broadcast"]).default("pull"),
  dataServers: wholeNumber(0, 1024).default(0),
  serverReplicas: wholeNumber(0, 16).default(0),
  wire: oneOfThisVersion(["f32"], ["f16", "bf16", "int8"]).default("f32"),
  checkpointEvery: wholeNumber(0, COUNT_MAX).default(0),
  validateEvery: wholeNumber(0, COUNT_MAX).default(0),
  stopAtLoss: realNumber(0, 1e6).nullable().default(null),
  timeline: text.default("last:20"),
  respawn: z.boolean().default(false),
  orphans: oneOf(["finish", "end"]).default("finish"),
  pace: text.nullable().default(null),
  link: text.nullable().default(null),
  memoryLimit: text.nullable().default(null),
  name: text.nullable().default(null),
});

/** What a run does, as resolved: `config.json` holds exactly this. */
export type Settings = z.infer<typeof settingsSchema>;
export type SettingName = keyof Settings;

export const SETTING_NAMES = Object.keys(settingsSchema.shape) as readonly SettingName[];

/** Of a parameter server alone. */
const SERVER_SETTINGS: readonly SettingName[] = [
  ...([
    "servers",
    "coLocate",
    "consistency",
    "tau",
    "workerHolds",
    "overlap",
    "parameters",
    "dataServers",
    "serverReplicas",
  ] as const),
];

/** What a ring can be told. */
export const RING_SETTING_NAMES = SETTING_NAMES.filter((name) => name !== "system" && !SERVER_SETTINGS.includes(name));

/** Settings that later versions have, by their flag's name. */
export const LATER_SETTINGS: readonly string[] = [
  ...["watch", "dashboard", "replicate-every"],
  ...["filter", "compress", "localize"],
];

/** `micro-batches` to `microBatches`: config files may use either. */
export function settingName(flag: string): string {
  return flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** `microBatches` to `--micro-batches`, as people write it. */
export function flagName(setting: string): string {
  return `--${setting.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/**
 * Resolves named values to settings. Throws UsageError for an unknown name (with the nearest one), a value out of its
 * range, or values that do not fit each other.
 */
export function parseSettings(values: Readonly<Record<string, unknown>>): Settings {
  const named: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(values)) {
    const name = settingName(key);
    if (!Object.hasOwn(settingsSchema.shape, name)) throw unknownSetting(key);
    if (value !== undefined) named[name] = value;
  }
  const result = settingsSchema.safeParse(named);
  if (!result.success) throw invalidSetting(result.error, named);
  checkTogether(result.data, named);
  return result.data;
}

function unknownSetting(name: string): UsageError {
  if (LATER_SETTINGS.includes(name)) return new UsageError(`setting "${name}": not in this version`, "leave it out");
  return new UsageError(`unknown setting "${name}"`, `did you mean "${nearest(settingName(name), SETTING_NAMES)}"?`);
}

function invalidSetting(error: z.ZodError, values: Readonly<Record<string, unknown>>): UsageError {
  const [issue] = error.issues;
  const name = String(issue?.path[0] ?? "settings");
  const remedy = `correct ${flagName(name)}; ringtmp train --help lists every value`;
  return new UsageError(`${flagName(name)} ${JSON.stringify(values[name])}: ${issue?.message ?? "invalid"}`, remedy);
}

function checkTogether(settings: Settings, given: Readonly<Record<string, unknown>>): void {
  const { batch, microBatches, system, nodes } = settings;
  if (batch % microBatches !== 0) {
    const nearestBatch = Math.max(1, Math.round(batch / microBatches)) * microBatches;
    throw new UsageError(
      `--batch ${batch} is not divisible by --micro-batches ${microBatches}`,
      `use for example --batch ${nearestBatch}`,
    );
  }
  if (system === "serial" && given["nodes"] !== undefined && nodes !== 1) {
    throw new UsageError(
      `-n ${nodes} with --system serial, which is one process`,
      "leave -n out, or use --system ring",
    );
  }
  if (system === "serial") settings.nodes = 1;
  checkReplicas(settings, given);
  checkServer(settings);
  parseTimeline(settings.timeline);
  parseAugment(settings.augment);
  checkEmulation(settings);
}

/** Steps by which parameters may lag: none in `bsp`, without a bound in `async`, one where nothing is said. */
function checkServer(settings: Settings): void {
  const { system, consistency, tau, nodes, microBatches, workerHolds, servers, coLocate } = settings;
  const isBounded = consistency === "bounded" || consistency === "ssp";
  if (isBounded) settings.tau ??= 1;
  if (system !== "ps") return;
  if (!isBounded && tau !== null && !(consistency === "bsp" && tau === 0)) {
    const why = consistency === "bsp" ? "in which nothing lags" : "which bounds no lag";
    throw new UsageError(`--tau ${tau} with --consistency ${consistency}, ${why}`, "use --consistency bounded or ssp");
  }
  checkServerReplicas(settings);
  if (coLocate && servers > nodes) {
    throw new UsageError(
      `--servers ${servers} on the nodes of ${nodes} workers (--co-locate): a worker's process holds one server at most`,
      `use --servers ${nodes} or fewer, or leave --co-locate out`,
    );
  }
  if (microBatches < nodes) {
    throw new UsageError(
      `--micro-batches ${microBatches} for ${nodes} workers: each needs at least one of every step`,
      `use --micro-batches ${nodes} or more, or fewer workers (-n)`,
    );
  }
  if (workerHolds === "range" && microBatches !== nodes) {
    throw new UsageError(
      `--worker-holds range with ${microBatches} micro-batches for ${nodes} workers: such a worker computes one of each step`,
      `use --micro-batches ${nodes}`,
    );
  }
  checkDelivery(settings);
}

/** How parameters and batches come to the workers of a parameter server. */
function checkServerReplicas({ serverReplicas, servers, parameters, coLocate, dataServers }: Settings): void {
  if (serverReplicas === 0) return;
  if (serverReplicas >= servers) {
    throw new UsageError(
      `--server-replicas ${serverReplicas} of ${servers} ${servers === 1 ? "server" : "servers"}: each copy of a shard is on a server of its own`,
      `use --servers ${serverReplicas + 1} or more`,
    );
  }
  const others = [
    parameters === "broadcast" ? "--parameters broadcast" : "",
    coLocate ? "--co-locate" : "",
    dataServers > 0 ? "--data-servers" : "",
  ].filter((flag) => flag !== "");
  if (others.length === 0) return;
  throw new UsageError(
    `--server-replicas with ${others.join(" and ")} is not in this version`,
    `leave ${others[0]} out`,
  );
}

function checkDelivery({ parameters, consistency, workerHolds, dataServers, microBatches }: Settings): void {
  if (parameters === "broadcast" && consistency !== "bsp") {
    throw new UsageError(
      `--parameters broadcast with --consistency ${consistency}: a new version could come while a worker computes with the one before`,
      "use --consistency bsp, or --parameters pull",
    );
  }
  if (parameters === "broadcast" && workerHolds === "range") {
    throw new UsageError(
      "--parameters broadcast with --worker-holds range: such a worker has no room for layers that it does not compute with",
      "use --worker-holds model, or --parameters pull",
    );
  }
  if (dataServers > microBatches) {
    throw new UsageError(
      `--data-servers ${dataServers} for ${microBatches} micro-batches: each serves at least one of every step`,
      `use --data-servers ${microBatches} or fewer, or more --micro-batches`,
    );
  }
}

/** One replica where there is a second node to hold it, unless stated. */
function checkReplicas(settings: Settings, given: Readonly<Record<string, unknown>>): void {
  const { system, nodes, replicas } = settings;
  // The settings of a ring are good for its reference too.
  if (system !== "ring") settings.replicas = 0;
  else if (given["replicas"] === undefined) settings.replicas = Math.min(1, nodes - 1);
  else if (replicas >= nodes) {
    throw new UsageError(
      `--replicas ${replicas} of ${nodes} ${nodes === 1 ? "node" : "nodes"}: each copy needs another node than the owner's`,
      `use --replicas ${nodes - 1} or fewer, or more nodes`,
    );
  }
}

function checkEmulation({ system, nodes, pace, link, memoryLimit }: Settings): void {
  if (pace !== null) parsePace(pace, nodes);
  if (link !== null) parseLink(link);
  if (memoryLimit !== null) parseMemoryLimit(memoryLimit);
  if (system !== "serial") return;
  if (link !== null) {
    throw new UsageError(
      `--link ${link} with --system serial, which has no network`,
      "leave --link out, or use --system ring",
    );
  }
  if (memoryLimit !== null) {
    throw new UsageError(
      `--memory-limit ${memoryLimit} with --system serial, which holds the whole model`,
      "leave --memory-limit out, or use --system ring",
    );
  }
}

/** Steps at the end of a run whose timeline is kept: `all` is Infinity, `none` 0, `last:N` is N. */
export function parseTimeline(value: string): number {
  if (value === "all") return Infinity;
  if (value === "none") return 0;
  const match = /^last:(\d{1,9})$/.exec(value);
  if (match === null)
    throw new UsageError(`--timeline ${JSON.stringify(value)} is not known`, "use all, none or last:20");
  return Number(match[1]);
}
