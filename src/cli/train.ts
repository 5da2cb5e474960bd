/** @file `up` and `train`: resolve the settings, run the system, print the result. */
import { join } from "node:path";
import { parseModel } from "../nn/spec.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { batchBytes, divideKeys, serverBytes, workerBytes } from "../../baseline-ps/index.ts";
import { parseMemoryLimit } from "../config/emulation.ts";
import { CAN_SPLIT, checkSchedule, firstCut, planNode, shapeOf } from "../../ring/index.ts";
import { parseSettings, type Settings } from "../config/settings.ts";
import { nowMs } from "../runtime/clock.ts";
import { TENSOR_BYTES_MAX } from "../wire/header.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { forkRun } from "./fork.ts";
import { launchRing } from "./launcher.ts";
import { launchParameterServer } from "./ps-launcher.ts";
import { Progress } from "./progress.ts";
import type { RunRequest } from "./run-request.ts";
import { refuseRunning, resumedSettings } from "./resume.ts";
import { countServersOf } from "./servers-of.ts";
import { trainSerial } from "./serial.ts";
import { printSummary } from "./print-summary.ts";
import { givenValues } from "./training-flags.ts";

const SYSTEMS = { ring: launchRing, ps: launchParameterServer, serial: trainSerial } as const;

type Options = Readonly<Record<string, unknown>>;

export async function train(options: Options): Promise<number> {
  const progress = new Progress(options["quiet"] === true);
  const request = await requestOf(options, progress);
  const { settings, out } = request;
  const result = await SYSTEMS[settings.system](request, progress);
  progress.end();
  printSummary(result.summary, out, options["json"] === true);
  return result.interrupted ? ExitCode.interrupted : ExitCode.done;
}

async function requestOf(options: Options, progress: Progress): Promise<RunRequest> {
  const { resume, out, fork } = options;
  if (fork === true && typeof resume !== "string") {
    throw new UsageError("--fork of which run?", "name its folder with --resume");
  }
  if (typeof resume !== "string") return newRequest(parseSettings(valuesOf(options)), options);
  if (fork !== true && out !== undefined) {
    throw new UsageError("--resume goes on in its own folder", "leave --out out, or add --fork");
  }
  const settings = resumedSettings(resume, valuesOf(options), fork === true);
  if (fork !== true) {
    return requestFor(settings, { ...options, out: resume }, true);
  }
  const request = requestFor(settings, options, true);
  const warn = (text: string): void => progress.say(`warning: ${text}`);
  await forkRun(resume, request.out, settings, { force: request.force, warn });
  return request;
}

/** Whoever uses another run's servers has as many as there are. */
function valuesOf(options: Options): Record<string, unknown> {
  const { serversOf, servers } = options;
  const given = givenValues(options);
  if (typeof serversOf !== "string") return given;
  if (servers === undefined) return { ...given, servers: countServersOf(serversOf) };
  throw new UsageError("--servers with --servers-of: that run has as many as it has", "leave --servers out");
}

/** Of a run from the beginning. Throws UsageError for what can be known to be wrong before any process starts. */
export function newRequest(settings: Settings, options: Options): RunRequest {
  return requestFor(settings, options, false);
}

function requestFor(settings: Settings, options: Options, resume: boolean): RunRequest {
  checkModel(settings, typeof options["serversOf"] === "string");
  const out = textOf(options["out"]) ?? defaultOut(settings);
  refuseRunning(out);
  const local = localCount(textOf(options["local"]), settings.nodes);
  const { listen, invite, force } = options;
  const serversOf = textOf(options["serversOf"]);
  if (serversOf !== null && settings.system !== "ps") {
    throw new UsageError(`--servers-of with --system ${settings.system}`, "add --system ps");
  }
  const texts = { listen: textOf(listen), invite: textOf(invite), serversOf };
  return { settings, out, force: force === true, resume, local, ...texts };
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function localCount(value: string | null, nodes: number): number {
  if (value === null) return nodes;
  const count = Number(value);
  if (Number.isInteger(count) && count >= 1 && count <= nodes) return count;
  throw new UsageError(
    `--local "${value}": a whole number from 1 to -n (${nodes}) is needed`,
    "say how many of the nodes start here",
  );
}

/** What can be known to be wrong before any process starts. Servers of another run keep within that run's --memory-limit. */
function checkModel(settings: Settings, hasOthersServers: boolean): void {
  const { layers, parameters, features } = parseModel(settings.model);
  parseOptimizer(settings.optimizer);
  if (settings.system === "ps") {
    checkServers(settings, parameters, hasOthersServers);
    checkDataServers(settings, features);
  }
  if (settings.system !== "ring") return;
  const { nodes } = settings;
  checkSchedule(shapeOf(settings, nodes), CAN_SPLIT);
  const members = { members: Array.from({ length: nodes }), layerCosts: layers.map(() => 1) };
  const cut = firstCut(settings, members);
  if (settings.memoryLimit === null) return;
  for (let node = 0; node < nodes; node += 1) planNode(settings, "wasm", cut, nodes, node);
}

/** A micro-batch travels in one frame. */
function checkDataServers({ dataServers, batch, microBatches }: Settings, features: number): void {
  if (dataServers === 0 || batchBytes(batch / microBatches, features) <= TENSOR_BYTES_MAX) return;
  throw new UsageError(
    `--data-servers ${dataServers}: a micro-batch of ${batch / microBatches} samples is above the ${TENSOR_BYTES_MAX / 2 ** 20} MiB of a message`,
    "use more --micro-batches, or --data-servers 0",
  );
}

/** Keys for each server, and room for them. */
function checkServers(settings: Settings, parameters: number, areOthers: boolean): void {
  const { servers, coLocate, optimizer, tau, memoryLimit, serverReplicas } = settings;
  const { shards } = divideKeys(parameters, servers);
  if (memoryLimit === null || areOthers) return;
  const largest = Math.max(...shards.map(({ start, end }) => end - start)) * (1 + serverReplicas);
  const states = parseOptimizer(optimizer).stateNames.length;
  // Of a run that survives, the parameters before the newest update too.
  const ofServer = serverBytes(largest, states + (serverReplicas > 0 ? 1 : 0), tau ?? 0);
  const neededBytes = ofServer + (coLocate ? workerBytes(settings) : 0);
  if (neededBytes <= parseMemoryLimit(memoryLimit)) return;
  const needed = `${Math.ceil(neededBytes / 2 ** 20)}MiB`;
  throw new UsageError(
    `--memory-limit ${memoryLimit}: a ${coLocate ? "worker and a " : ""}server with ${largest} parameters needs ${needed}`,
    `use --memory-limit ${needed} or more, or more servers`,
  );
}

function defaultOut({ system, nodes, name }: Settings): string {
  const time = new Date(nowMs()).toISOString().slice(0, 19).replaceAll(":", "-");
  return join("results", "runs", `${time}-${name ?? `${system}-n${nodes}`}`);
}
