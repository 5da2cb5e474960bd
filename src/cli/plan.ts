/** @file `plan`: what a step would take on the ring and on the systems that it is compared with, before any of them runs. */
import { parseLink, parseMemoryLimit, parsePace } from "../config/emulation.ts";
import { parseSettings } from "../config/settings.ts";
import { EngineMemory } from "../engine/memory.ts";
import { loadKernels } from "../engine/load.ts";
import { parseModel } from "../nn/spec.ts";
import { makePlan, type Plan } from "../plan/plan.ts";
import type { Scenario } from "../plan/scenario.ts";
import { planText } from "../plan/text.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { MESSAGE_US, OPERATION_US, UPDATES } from "./estimate.ts";
import { givenValues } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;

const SPEED_DEFAULT = "20GFLOP/s";
const LINK_DEFAULT = "1gbit,0.2ms";

export async function plan(options: Options): Promise<number> {
  const settings = parseSettings({ ...givenValues(options), system: "ring" });
  const { model, batch, microBatches, optimizer, nodes, laps, replicas, schedule, engine } = settings;
  const given = {
    speed: textOf(options["speed"]) ?? settings.pace,
    link: settings.link,
    memory: textOf(options["memory"]) ?? settings.memoryLimit,
  };
  const link = parseLink(given.link ?? LINK_DEFAULT);
  const scenario: Scenario = {
    ...{ batch, microBatches, optimizer, nodes, laps, replicas },
    model: parseModel(model),
    kernels: loadKernels(engine === "auto" ? "wasm" : engine, new EngineMemory(0).memory),
    servers: settings.servers,
    flopsPerMs: 1e6 * speedOf(given.speed ?? SPEED_DEFAULT),
    link: { rateBytesPerMs: link.rateBytesPerMs ?? Infinity, latencyMs: link.latencyMs },
    updates: UPDATES,
    ...{ operationMs: OPERATION_US / 1000, messageMs: MESSAGE_US / 1000 },
    memoryBytes: given.memory === null ? null : memoryOf(given.memory),
  };
  const result = makePlan(scenario, schedule);
  const stated = {
    speed: given.speed ?? `${SPEED_DEFAULT} (assumed)`,
    link: given.link ?? `${LINK_DEFAULT} (assumed)`,
  };
  const text =
    options["json"] === true
      ? JSON.stringify(asJson(result, scenario, { schedule, ...given }))
      : planText(result, scenario, schedule, stated);
  process.stdout.write(`${text}\n`);
  return ExitCode.done;
}

const textOf = (value: unknown): string | null => (typeof value === "string" ? value : null);

/** All numbers, with what they rest on. An unlimited rate is null. */
function asJson(result: Plan, scenario: Scenario, stated: Readonly<Record<string, unknown>>): object {
  const { model, kernels: _, link, ...counts } = scenario;
  const { winner, second, ...rest } = result;
  return {
    ...{ predicted: true, model: model.text, parameters: model.parameters, ...counts, ...stated },
    // What was not given is what the defaults say.
    assumed: {
      ...(stated["speed"] === null ? { speed: SPEED_DEFAULT } : {}),
      ...(stated["link"] === null ? { link: LINK_DEFAULT } : {}),
    },
    linkLatencyMs: link.latencyMs,
    linkRateBytesPerMs: Number.isFinite(link.rateBytesPerMs) ? link.rateBytesPerMs : null,
    ...{ winner: winner?.system ?? null, second: second?.system ?? null },
    margin: winner === undefined || second === undefined ? null : second.stepMs / winner.stepMs,
    ...rest,
  };
}

/** GFLOP/s of every node, in the form of --pace. */
function speedOf(text: string): number {
  try {
    return parsePace(text, 1)[0]!;
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new UsageError(
      `--speed ${JSON.stringify(text)}: one speed above 0 with MFLOP/s, GFLOP/s or TFLOP/s is needed`,
      `write for example --speed ${SPEED_DEFAULT}: a plan is for equal nodes`,
      { cause },
    );
  }
}

/** In the form of --memory-limit. */
function memoryOf(text: string): number {
  try {
    return parseMemoryLimit(text);
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new UsageError(
      cause.message.replace("--memory-limit", "--memory"),
      "write for example --memory 512MiB: a node alone takes about 170MiB",
      { cause },
    );
  }
}
