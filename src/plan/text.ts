/** @file A plan as text for people: at most 80 columns, units in the heads, assumptions at the end. */
import { FACTOR_MAX } from "./crossover.ts";
import type { Plan, Prediction, Resource, SchedulePrediction } from "./plan.ts";
import type { Scenario } from "./scenario.ts";

const MIB = 2 ** 20;
/** Faster by less than this is no difference that such a plan can tell. */
const TIE = 1.02;
/** A cut whose heaviest node has more of the work than this times an equal share is worth a word. */
const UNEVEN = 1.1;

/** Of the ring's step: more CPU beside it than this is told. */
const OVERHEAD_TOLD = 0.1;

/** What was not stated by the user, as text. */
export interface Assumed {
  readonly speed: string;
  readonly link: string;
}

export function planText(plan: Plan, scenario: Scenario, schedule: string, stated: Assumed): string {
  const { model, optimizer, batch, microBatches, nodes, laps, replicas, memoryBytes } = scenario;
  const memory = memoryBytes === null ? "no memory limit" : `${mebibytes(memoryBytes)} MiB of memory each`;
  return [
    ...wrap(`${model.text}: ${model.parameters} parameters, ${optimizer}, batch ${batch} in ${microBatches}`),
    ...wrap(`${nodes} ${nodes === 1 ? "node" : "nodes"} of ${stated.speed}, links ${stated.link}, ${memory}`),
    ...wrap(`The ring's figures are with --replicas ${replicas}: ${copiesText(scenario)}`),
    "",
    ...systemTable(plan.systems, plan.winner),
    "",
    ...wrap(verdict(plan)),
    ...plan.systems.flatMap((prediction) => wrap(`- ${reason(prediction, plan)}`)),
    ...leftOut(plan, scenario).flatMap(wrap),
    ...caution(plan).flatMap(wrap),
    ...wrap(runnable(plan)),
    "",
    `ring, each schedule that exists for these counts${laps === 1 ? "" : ` (${laps} laps)`}:`,
    ...scheduleTable(plan.schedules, schedule),
    "",
    ...crossoverLines(plan).flatMap(wrap),
    "",
    ...assumptions(scenario).flatMap(wrap),
  ].join("\n");
}

function copiesText({ replicas, nodes }: Scenario): string {
  if (replicas === 0) return nodes === 1 ? "one node has no copies." : "no copies, so no node may fail.";
  return `${replicas === 1 ? "a copy" : `${replicas} copies`} of each segment, kept up to date every step.`;
}

const nanoseconds = (milliseconds: number): string => String(Number((1e6 * milliseconds).toPrecision(3)));

const assumptions = ({ updates: { plainMs, keptMs } }: Scenario): readonly string[] => [
  "Predicted, not measured. ms: milliseconds a step once settled. MiB/step: payload sent by all nodes; busiest: sent and received by one node. idle: nodes that compute nothing, servers included. MiB/node: resident, of the fullest node.",
  `Assumed: equal nodes with one compute thread and one full-duplex interface each (up --link holds each edge, not each interface, to the rate), as many nodes for every system, servers included; communication beside computation wherever the order of layers allows; products are all of the work, but for what copies add to the ring's updates (${nanoseconds(keptMs)} instead of ${nanoseconds(plainMs)} ns a parameter, and the copies' own); messages take no CPU; the data set takes no memory; data-parallel workers take their share in one pass.`,
];

function systemTable(systems: readonly Prediction[], winner: Prediction | undefined): readonly string[] {
  const head = ["", "ms", "samples/s", "idle %", "MiB/step", "busiest", "MiB/node"];
  const rows = systems.map((prediction) => [
    `${prediction === winner ? "*" : " "} ${prediction.name}`,
    significant(prediction.stepMs),
    prediction.samplesPerSecond.toFixed(0),
    prediction.idlePercent.toFixed(1),
    mebibytes(prediction.bytesPerStep),
    mebibytes(prediction.busiestNodeBytesPerStep),
    mebibytes(prediction.memory.totalBytes) + (prediction.fits === false ? "!" : " "),
  ]);
  return [...table([head, ...rows], [22, 10, 11, 8, 10, 9, 10]), ...tooLarge(systems)];
}

function tooLarge(systems: readonly { readonly fits: boolean | null }[]): readonly string[] {
  return systems.some(({ fits }) => fits === false)
    ? ["  ! more than the memory limit, or than the 4 GiB of an engine"]
    : [];
}

function scheduleTable(schedules: readonly SchedulePrediction[], chosen: string): readonly string[] {
  const head = ["", "ms", "formula", "idle %", "held", "MiB/node"];
  const rows = schedules.map((prediction) => [
    `${prediction.schedule === chosen ? "*" : " "} ${prediction.schedule}`,
    significant(prediction.stepMs),
    formulaCell(prediction),
    prediction.idlePercent.toFixed(1),
    String(prediction.slots),
    mebibytes(prediction.memoryBytes) + (prediction.fits === false ? "!" : " "),
  ]);
  const note = "  ms: simulated; formula: ~ without latency; held: micro-batches in each lap";
  return [...table([head, ...rows], [22, 10, 11, 8, 10, 19]), note, ...tooLarge(schedules)];
}

function formulaCell({ formulaStepMs, formulaHasLatency }: SchedulePrediction): string {
  return formulaStepMs === null ? "-" : `${formulaHasLatency ? "" : "~"}${significant(formulaStepMs)}`;
}

function table(rows: readonly (readonly string[])[], widths: readonly number[]): readonly string[] {
  const cell = (text: string, index: number): string =>
    index === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[index]!);
  return rows.map((row) => row.map(cell).join("").trimEnd());
}

function verdict({ winner, second }: Plan): string {
  if (winner === undefined) return "None of these fits into memory.";
  if (second === undefined) return `Only one fits into memory: ${winner.name}.`;
  const ratio = second.stepMs / winner.stepMs;
  const margin =
    ratio < TIE
      ? `as fast as ${second.name}, to within ${(100 * (TIE - 1)).toFixed(0)} %`
      : `${ratio.toFixed(2)} times as fast as the second, ${second.name}`;
  return `Fastest: ${winner.name}, ${margin}. What bounds each:`;
}

/** A sentence on what the step mostly waits for. */
function reason(prediction: Prediction, plan: Plan): string {
  const { name, memory, fits, bound, boundShare } = prediction;
  const share = `${(100 * boundShare).toFixed(0)} %`;
  const times = `${bound === "latency" ? "a tenth of it" : "ten times the rate"} would save ${share}`;
  const told: Readonly<Record<Resource, string>> = {
    compute: computeReason(prediction, plan),
    link: `${linkOf(prediction)} (${mebibytes(prediction.busiestLinkBytesPerStep)} MiB one way a step); ${times}`,
    latency: `latency; ${times}`,
  };
  const limit = fits === false ? `; does not fit: ${mebibytes(memory.totalBytes)} MiB in a node` : "";
  return `${name}: ${told[bound]}${limit}`;
}

function computeReason({ system, idlePercent, nodes }: Prediction, { imbalance }: Plan): string {
  const idle = `, ${idlePercent.toFixed(1)} % idle`;
  if (system === "ring" && imbalance > UNEVEN) {
    return `compute of the fullest node, with ${((100 * imbalance) / nodes).toFixed(0)} % of the work${idle}`;
  }
  return `compute${idlePercent < 0.05 ? "" : idle}`;
}

function linkOf({ system }: Prediction): string {
  return system === "ps-dedicated" || system === "ps-co-located" ? "the servers' interfaces" : "the nodes' interfaces";
}

function runnable({ systems }: Plan): string {
  const names = (isRunnable: boolean): string =>
    systems
      .filter((prediction) => prediction.isRunnable === isRunnable)
      .map(({ name }) => name.replace(/,.*/, ""))
      .join(", ");
  return `Runnable in this version: ${names(true)}. Predicted only: ${names(false)}.`;
}

/** Small nets on many nodes lose to one process. */
function caution({ systems, ringOverheadMs }: Plan): readonly string[] {
  const [ring] = systems;
  if (ring === undefined || ringOverheadMs < OVERHEAD_TOLD * ring.stepMs) return [];
  return [
    `Caution: CPU of messages and operations is in none of these times. In a node of the ring it is about ${significant(ringOverheadMs)} ms a step, ${((100 * ringOverheadMs) / ring.stepMs).toFixed(0)} % of its time here: larger micro-batches would be wise.`,
  ];
}

function leftOut({ systems }: Plan, { nodes, servers }: Scenario): readonly string[] {
  if (systems.some(({ system }) => system === "ps-dedicated")) return [];
  const what = systems.some(({ system }) => system === "ps-co-located")
    ? "dedicated servers are"
    : "a parameter server is";
  return [`- ${what} left out: --servers ${servers} of ${nodes} ${nodes === 1 ? "node" : "nodes"}`];
}

function crossoverLines({ crossovers }: Plan): readonly string[] {
  if (crossovers === "too large to search") return ["Where ring and server change places: too large to be searched."];
  const { batch, rateBytesPerMs, equalTrafficBatch } = crossovers;
  const nowhere = `none within a factor ${FACTOR_MAX}`;
  const lines = [
    `Ring and parameter server change places at batch ${batch === null ? nowhere : significant(batch)}, at link rate ${rateBytesPerMs === null ? nowhere : bitRate(rateBytesPerMs)}.`,
  ];
  if (equalTrafficBatch === null) return lines;
  if (equalTrafficBatch === 0) {
    return [...lines, "The ring's copies alone are more than all-reduce's busiest link carries, at any batch."];
  }
  return [
    ...lines,
    `The ring's busiest link carries less than all-reduce's below batch ${significant(equalTrafficBatch)}.`,
  ];
}

/** Megabits a second, or what is next to them. */
export function bitRate(bytesPerMs: number): string {
  const kilobits = bytesPerMs * 8;
  if (kilobits >= 1e6) return `${significant(kilobits / 1e6)} gbit`;
  return kilobits >= 1e3 ? `${significant(kilobits / 1e3)} mbit` : `${significant(kilobits)} kbit`;
}

/** Three digits that count, without an exponent. */
export function significant(value: number): string {
  if (value === 0) return "0";
  return value.toFixed(Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(value))))));
}

const mebibytes = (bytes: number): string => (bytes >= 100 * MIB ? (bytes / MIB).toFixed(0) : (bytes / MIB).toFixed(2));

/** Lines of at most 80 characters; the following ones are moved in where the first has a dash. */
function wrap(text: string): readonly string[] {
  const indent = text.startsWith("- ") ? "  " : "";
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > 80) lines.push(indent + word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
}
