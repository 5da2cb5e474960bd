/**
 * @file What copies cost where nothing fails: step times and idle times of the same ring with 0, 1 and 2 replicas, paced with all nodes well within the
 * cores, over links on which a gradient takes half a step, and unpaced. Repetitions take turns.
 */
import { paceFor, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const NODES = 4;
const LAYERS = 8;
const WIDTH = 256;
const ROWS = 16;
const MICRO_BATCHES = 16;
const FORWARD_MS = 10;
const REPETITIONS = 5;
/** Of 2 layers in float32, 0.53 MB, in half of a step of (16 + 3) times F, B and W. */
const SLOW_LINK = "15mbit,1ms";
/** CPU of the owner's update with its copies and digest, and of a replica's: nanoseconds a parameter, from `npm run bench -- engine`. */
const UPDATE_NS = 2.5;

type Setting = "paced" | "slow link" | "unpaced";

interface Result {
  readonly setting: Setting;
  readonly replicas: number;
  readonly stepMs: number;
  readonly idle: number;
  readonly bytesPerStep: number;
  /** Of all nodes, over the wall time: cores in use, compute that sleeps for its pace not counted. */
  readonly missedPaces: number;
  readonly weights: string;
}

function cells(): readonly Cell[] {
  const flags = [
    "--system",
    "ring",
    "-n",
    String(NODES),
    ...uniformModel(LAYERS, WIDTH),
    "--optimizer",
    "adam",
    "--balance",
    "off",
  ];
  const batch = [
    "--batch",
    String(ROWS * MICRO_BATCHES),
    "--micro-batches",
    String(MICRO_BATCHES),
    "--timeline",
    "none",
  ];
  const pace = ["--pace", `${paceFor(LAYERS / NODES, WIDTH, ROWS, FORWARD_MS)}GFLOP/s`, "--steps", "20"];
  const settings: readonly (readonly [Setting, readonly string[]])[] = [
    ["paced", pace],
    ["slow link", [...pace, "--link", SLOW_LINK]],
    ["unpaced", ["--steps", "100"]],
  ];
  return settings.flatMap(([setting, more]) =>
    Array.from({ length: REPETITIONS }, (_, repetition) =>
      [0, 1, 2].map((replicas) => ({
        id: `${setting}, ${replicas} replicas, ${repetition}`,
        flags: [...flags, ...batch, ...more, "--replicas", String(replicas)],
      })),
    ).flat(),
  );
}

function measure({ id }: Cell, summary: RunSummary & { readonly bytesPerStep: number }): Result {
  const [setting, replicas] = id.split(", ") as [Setting, string];
  const { stepMsMedian, idlePercentSteady, bytesPerStep, emulated, weightsSha256 } = summary;
  const counts = { bytesPerStep, missedPaces: emulated.missedPaces, weights: weightsSha256 };
  return { setting, replicas: Number(replicas[0]), stepMs: stepMsMedian, idle: idlePercentSteady, ...counts };
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

function report(results: readonly (Result & { readonly id: string })[]): string {
  const of = (setting: Setting, replicas: number): readonly Result[] =>
    results.filter((result) => result.setting === setting && result.replicas === replicas);
  const rows = (["paced", "slow link", "unpaced"] as const).flatMap((setting) =>
    [0, 1, 2].flatMap((replicas) => {
      const runs = of(setting, replicas);
      if (runs.length === 0) return [];
      const stepMs = runs.map((run) => run.stepMs);
      const baseMs = median(of(setting, 0).map((run) => run.stepMs));
      const baseIdle = median(of(setting, 0).map((run) => run.idle));
      const idle = median(runs.map((run) => run.idle));
      return [
        [
          setting,
          replicas,
          runs.length,
          median(stepMs).toFixed(1),
          `${Math.min(...stepMs).toFixed(1)}..${Math.max(...stepMs).toFixed(1)}`,
          `${(100 * (median(stepMs) / baseMs - 1)).toFixed(1)} %`,
          idle.toFixed(1),
          (idle - baseIdle).toFixed(1),
          (median(runs.map((run) => run.bytesPerStep)) / 1e6).toFixed(2),
          runs.reduce((sum, run) => sum + run.missedPaces, 0),
        ],
      ];
    }),
  );
  const head = [
    "setting",
    "replicas",
    "runs",
    "step ms",
    "spread",
    "dearer",
    "idle %",
    "points more",
    "MB a step",
    "missed paces",
  ];
  const weights = new Set(results.filter(({ setting }) => setting !== "unpaced").map((result) => result.weights));
  const parameters = LAYERS * (WIDTH + 1) * WIDTH;
  return [
    "# What copies cost where nothing fails\n\n",
    `${LAYERS} layers of width ${WIDTH} on ${NODES} nodes, ${MICRO_BATCHES} micro-batches of ${ROWS}, adam. Paced: F ${FORWARD_MS} ms. Slow link: ${SLOW_LINK}, on which `,
    "a node's gradient takes half a step. Medians; repetitions take turns.\n\n",
    table(head, rows),
    `\nUnpaced on saturated cores the copies' CPU is the price: ${UPDATE_NS} ns a parameter for each replica and as much for the owner's older version, `,
    `${((UPDATE_NS * parameters) / 1e6).toFixed(1)} ms a step and replica over all nodes, and the messages. `,
    `Weights: ${weights.size === 1 ? "one hash in all paced runs" : `${weights.size} different hashes`}.\n\nRemake with \`npm run campaign -- replication\`.\n`,
  ].join("");
}

export const replication: Campaign<Result, RunSummary & { readonly bytesPerStep: number }> = {
  name: "replication",
  cells,
  measure,
  report,
};
