/** @file The training flags, as `up`, `train` and `join` share them, and the way from flags and config files to settings. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { Option, type Command } from "commander";
import { flagName, LATER_SETTINGS, SETTING_NAMES, settingsSchema, type SettingName } from "../config/settings.ts";
import { UsageError } from "../types/errors.ts";

const DESCRIPTIONS: Readonly<Record<SettingName, readonly [argument: string | null, text: string]>> = {
  system: ["name", "ring, ps (parameter server), or serial (one process, the reference)"],
  nodes: ["count", "nodes of the ring, or workers of a parameter server"],
  model: ["spec", "mlp:784-256-10, with ,activation=relu|gelu|tanh"],
  data: ["spec", "digits, mnist, fashion-mnist, csv:PATH, synthetic:classes=C,features=F"],
  dataDir: ["folder", "where the files of mnist or fashion-mnist are"],
  augment: ["how", "none, or noise:A: every feature of a training sample changes by up to A, drawn from the seed"],
  steps: ["count", "optimizer updates"],
  batch: ["samples", "samples of a step"],
  microBatches: ["count", "slices of a batch; they fill the pipeline"],
  optimizer: ["name", "sgd, momentum, adam, adamw, adagrad"],
  lr: ["rate", "learning rate"],
  seed: ["number", "of the initial weights and of the order of the data"],
  engine: ["name", "auto, wasm, wasm-exact (the same bits on every machine)"],
  threads: ["count", "compute threads of a node (1 in this version)"],
  schedule: ["name", "zero-bubble, zb-h1, interleaved, 1f1b, gpipe, naive"],
  laps: ["count", "rounds of a micro-batch through the ring: node i holds segments i, n+i, …"],
  replicas: [
    "count",
    "copies of each segment on the next nodes; so many neighbours may die at once (default: 1, alone 0)",
  ],
  balance: ["mode", "auto (layers move to where the time is), even (for equal nodes), off (the first cut stays)"],
  servers: ["count", "servers of a parameter server, each with an equal part of the parameters"],
  coLocate: [null, "servers live in the workers' processes, server i in that of worker i"],
  consistency: [
    "model",
    "bsp (whole steps), bounded (steps that lag by tau at most), ssp (shares at once; clocks differ by tau at most), async",
  ],
  tau: ["steps", "how far parameters may lag behind (default: 1; bsp: 0)"],
  workerHolds: ["what", "model (a worker has all parameters), range (only the layers that it computes with)"],
  overlap: ["mode", "on (a layer's push and pull while others are computed) or off"],
  parameters: [
    "how",
    "pull (workers ask for parameters) or broadcast (in bsp: servers send each new version, unasked)",
  ],
  serverReplicas: [
    "count",
    "copies of each shard on other servers; from 1 on the run survives servers and workers that die (0: it ends with the first)",
  ],
  dataServers: ["count", "processes that load the data and send workers their micro-batches; 0: workers load it"],
  wire: ["type", "f32 in this version"],
  checkpointEvery: ["steps", "steps between checkpoints; 0: only at the end"],
  validateEvery: ["steps", "steps between evaluations on the test set; 0: only at the end"],
  stopAtLoss: ["loss", "end after the first step with at most this loss"],
  timeline: ["what", "all, none or last:N steps of every node's timeline"],
  pace: ["speeds", "emulated speed of a node's (or worker's) arithmetic: 2GFLOP/s, or one a node: 2,2,1,2GFLOP/s"],
  link: ["shape", "emulated links, each direction of each edge: 100mbit,5ms (one way), or one of the two"],
  memoryLimit: ["size", "a node that takes more memory ends: 256MiB"],
  respawn: [null, "start a local node again that died"],
  orphans: ["what", "finish or end: what nodes do when their launcher dies"],
  name: ["name", "a name to find the job by"],
};

/** Every training flag. Values stay texts until `parseSettings` has read them all. */
export function addTrainingFlags(command: Command, names: readonly SettingName[] = SETTING_NAMES): Command {
  for (const name of names) {
    const [argument, text] = DESCRIPTIONS[name];
    const value = argument === null ? "" : ` <${argument}>`;
    const flags = name === "nodes" ? `-n, --nodes${value}` : `${flagName(name)}${value}`;
    const byDefault = settingsSchema.shape[name].parse(undefined);
    const isTold = byDefault === null || argument === null || text.includes("(default:");
    command.addOption(new Option(flags, isTold ? text : `${text} (default: ${byDefault})`));
  }
  return command;
}

/** Values that were given, by setting. Paths become absolute: nodes and later commands may run in another folder. */
export function givenSettings(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const given = SETTING_NAMES.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]);
  const settings = Object.fromEntries(given) as Record<string, unknown>;
  const { data, dataDir } = settings;
  if (typeof dataDir === "string" && dataDir !== "") settings["dataDir"] = resolve(dataDir);
  if (typeof data === "string" && /^csv:./.test(data)) settings["data"] = `csv:${resolve(data.slice("csv:".length))}`;
  return settings;
}

/** The same of flags and of the `--config` file; flags win. */
export function givenValues(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { config } = options;
  const fromFile = typeof config === "string" ? readConfig(config) : {};
  return { ...fromFile, ...givenSettings(options) };
}

function readConfig(file: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new UsageError(`--config ${file} cannot be read as JSON`, "name a file such as a run's config.json", {
      cause,
    });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new UsageError(`--config ${file} does not hold an object`, 'write for example { "steps": 100 }');
}

/** Flags of later versions are told apart from mistakes. */
export function refuseLaterFlags(argv: readonly string[]): void {
  for (const argument of argv) {
    const name = /^--([a-z-]+)/.exec(argument)?.[1];
    if (name !== undefined && LATER_SETTINGS.includes(name)) {
      throw new UsageError(`--${name}: not in this version`, "leave it out; ringtmp train --help lists what there is");
    }
  }
}
