/**
 * @file Every schedule on real paced processes beside its formula: 2, 4 and 8 nodes, 8, 16 and 32 micro-batches, a uniform
 * model; and a hop latency of one forward on 8 nodes with 64 micro-batches.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "simple-statistics";
import type { TimelineEntry } from "../../src/metrics/timeline.ts";
import { paceFor, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WIDTH = 32;
const ROWS = 4;
const LAYERS_PER_NODE = 4;
/** One node's F of a micro-batch. */
const FORWARD_MS = 20;

interface Result {
  readonly schedule: string;
  readonly nodes: number;
  readonly microBatches: number;
  readonly link: string;
  readonly idle: number;
  readonly theory: number;
  readonly formula: number | null;
  readonly runQueue: number;
  readonly missedPaces: number;
  readonly stepMs: number;
  /** From the end of an F to its activation's arrival at the successor: CPU of both ends, and the way; median. */
  readonly messageMs: number;
  /** Everything that the main threads did, over the messages. */
  readonly mainThreadMs: number;
  readonly weights: string;
}

const SCHEDULES: readonly (readonly [string, number])[] = [
  ["naive", 1],
  ["gpipe", 1],
  ["1f1b", 1],
  ["interleaved", 2],
  ["zb-h1", 1],
  ["zero-bubble", 1],
];

function cell(schedule: string, laps: number, nodes: number, microBatches: number, link = "", repetition = 0): Cell {
  const layers = LAYERS_PER_NODE * nodes;
  const pace = paceFor(LAYERS_PER_NODE, WIDTH, ROWS, FORWARD_MS).toFixed(9);
  const name = `${schedule}${laps > 1 ? `-v${laps}` : ""} p=${nodes} m=${microBatches}`;
  return {
    id: `${name}${link === "" ? "" : ` link=${link}`}${repetition > 0 ? ` #${repetition}` : ""}`,
    flags: [
      ...["--system", "ring", "-n", String(nodes), ...uniformModel(layers, WIDTH)],
      ...["--batch", String(ROWS * microBatches), "--micro-batches", String(microBatches)],
      ...["--steps", "4", "--optimizer", "sgd", "--lr", "0.01", "--schedule", schedule, "--laps", String(laps)],
      ...["--pace", `${pace}GFLOP/s`, "--balance", "off", ...(link === "" ? [] : ["--link", link])],
    ],
  };
}

function cells(): readonly Cell[] {
  const all: Cell[] = [];
  for (const nodes of [2, 4, 8]) {
    for (const microBatches of [8, 16, 32]) {
      for (const [schedule, laps] of SCHEDULES) all.push(cell(schedule, laps, nodes, microBatches));
    }
  }
  for (let repetition = 1; repetition <= 2; repetition += 1) {
    all.push(cell("zero-bubble", 1, 8, 16, "", repetition), cell("1f1b", 1, 8, 16, "", repetition));
  }
  const link = `${FORWARD_MS}ms`;
  for (let repetition = 1; repetition <= 2; repetition += 1) {
    all.push(cell("zero-bubble", 1, 8, 64, link, repetition), cell("1f1b", 1, 8, 64, link, repetition));
  }
  return all;
}

function measure({ id }: Cell, summary: RunSummary, folder: string): Result {
  const [schedule = "", nodes = "", microBatches = ""] = id.split(" ");
  const messages = summary.perNode.reduce((sum, node) => sum + node.messagesSent, 0);
  const cpuMs = summary.perNode.reduce((sum, node) => sum + node.communicationCpuMs, 0);
  return {
    schedule,
    nodes: Number(nodes.slice(2)),
    microBatches: Number(microBatches.slice(2)),
    link: / link=(\S+)/.exec(id)?.[1] ?? "",
    idle: summary.idlePercentSteady,
    theory: summary.idlePercentTheory,
    formula: summary.idlePercentFormula,
    runQueue: summary.runQueuePercent,
    missedPaces: summary.emulated.missedPaces,
    stepMs: summary.stepMsMedian,
    messageMs: messageMs(folder, summary.nodes),
    mainThreadMs: cpuMs / messages,
    weights: summary.weightsSha256,
  };
}

/** A node sends the activation of a micro-batch before its gradient, and receives it before its gradient. */
function messageMs(folder: string, nodes: number): number {
  const firsts = (node: number, kind: string): ReadonlyMap<string, number> => {
    const entries = readFileSync(join(folder, "timeline", `${node}.jsonl`), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as TimelineEntry)
      .filter((entry) => entry.kind === kind && entry.step > 0);
    return new Map(
      entries
        .toSorted((a, b) => b.startMs - a.startMs)
        .map((entry) => [`${entry.step}/${entry.lap}/${entry.microBatch}`, entry.startMs]),
    );
  };
  const times: number[] = [];
  for (let node = 0; node + 1 < nodes; node += 1) {
    const received = firsts(node + 1, "receive");
    for (const [key, sentMs] of firsts(node, "send")) times.push(received.get(key)! - sentMs);
  }
  return median(times);
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const one = (value: number | null): string => (value === null ? "" : value.toFixed(1));
  const rows = results.map((result) => [
    result.id,
    one(result.idle),
    one(result.theory),
    one(result.formula),
    result.link === "" ? one(result.idle - result.theory) : "",
    one(result.runQueue),
    result.messageMs.toFixed(2),
    result.mainThreadMs.toFixed(2),
    result.missedPaces,
    result.stepMs.toFixed(0),
  ]);
  const head = [
    "run",
    "idle %",
    "dry run %",
    "formula %",
    "idle - dry run",
    "run queue %",
    "message ms",
    "main thread ms a message",
    "missed paces",
    "step ms",
  ];
  return [
    "# Schedules on real processes, paced\n\n",
    `Uniform model, ${LAYERS_PER_NODE} dense layers of width ${WIDTH} a node, F of a micro-batch ${FORWARD_MS} ms a node, all nodes on one machine. `,
    "Idle is steady: from a node's second step's start to its last step's. The dry run has the same first layer without dX. ",
    "Remake with `npm run campaign -- schedules` (delete `cells.jsonl` first).\n\n",
    table(head, rows),
  ].join("");
}

export const schedules: Campaign<Result> = { name: "schedules", cells, measure, report };
