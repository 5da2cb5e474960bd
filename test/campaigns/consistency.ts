/**
 * @file How much a parameter server's workers wait, by consistency: four paced workers of which one is five times slower, and four equal ones
 * behind links as slow as a third of a share. Beside it the formula of bsp, the greatest lag, and what the lag costs: the loss after the same steps.
 */
import { paceFor, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WORKERS = 4;
const LAYERS = 3;
const WIDTH = 64;
const ROWS = 8;
/** F of a share, whose B and W take as long. */
const FORWARD_MS = 24;
const SLOWNESS = 5;
const STEPS = 40;
const LATENCY = "24ms";
const TAUS = [0, 1, 2, 4, 8, 16];

const SETTINGS = ["straggler", "latency"] as const;
type Setting = (typeof SETTINGS)[number];

interface Result {
  readonly setting: Setting;
  readonly consistency: string;
  readonly tau: number | null;
  /** Wait over wall time: of the workers, and of all nodes, the server included. */
  readonly workersIdle: number;
  readonly idle: number;
  readonly idleFormula: number | null;
  readonly stepMs: number;
  readonly greatestLag: number;
  readonly meanLag: number;
  readonly loss: number;
  readonly missedPaces: number;
}

interface Output extends Omit<RunSummary, "perNode"> {
  readonly lagHistogram: readonly number[];
  readonly finalLoss: number;
  readonly perNode: readonly { readonly role: string; readonly waitMs: number; readonly wallMs: number }[];
}

const CONSISTENCIES: readonly (readonly [string, number | null])[] = [
  ["bsp", null],
  ...["bounded", "ssp"].flatMap((kind) => TAUS.map((tau) => [kind, tau] as const)),
  ["async", null],
];

function cells(): readonly Cell[] {
  const pace = paceFor(LAYERS, WIDTH, ROWS, FORWARD_MS);
  const paces = { straggler: [pace / SLOWNESS, pace, pace, pace], latency: [pace, pace, pace, pace] };
  return SETTINGS.flatMap((setting) =>
    CONSISTENCIES.map(([consistency, tau]) => ({
      id: `${setting}, ${consistency}${tau === null ? "" : `, ${tau}`}`,
      flags: [
        ...["--system", "ps", "-n", String(WORKERS), "--servers", "1", ...uniformModel(LAYERS, WIDTH)],
        ...["--batch", String(ROWS * WORKERS), "--micro-batches", String(WORKERS), "--steps", String(STEPS)],
        ...["--optimizer", "sgd", "--lr", "0.05", "--timeline", "none", "--consistency", consistency],
        ...["--pace", `${paces[setting].map((each) => each.toFixed(9)).join(",")}GFLOP/s`],
        ...(tau === null ? [] : ["--tau", String(tau)]),
        ...(setting === "latency" ? ["--link", LATENCY] : []),
      ],
    })),
  );
}

function measure({ id }: Cell, summary: Output): Result {
  const [setting, consistency = "", tau] = id.split(", ") as [Setting, string?, string?];
  const workers = summary.perNode.filter(({ role }) => role === "worker");
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const { lagHistogram } = summary;
  return {
    ...{ setting, consistency, tau: tau === undefined ? null : Number(tau) },
    workersIdle: (100 * sum(workers.map(({ waitMs }) => waitMs))) / sum(workers.map(({ wallMs }) => wallMs)),
    ...{ idle: summary.idlePercentSteady, idleFormula: summary.idlePercentFormula, stepMs: summary.stepMsMedian },
    greatestLag: lagHistogram.length - 1,
    meanLag: sum(lagHistogram.map((count, lag) => count * lag)) / sum(lagHistogram),
    ...{ loss: summary.finalLoss, missedPaces: summary.emulated.missedPaces },
  };
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const parts = SETTINGS.map((setting) => {
    const rows = results
      .filter((result) => result.setting === setting)
      .map((result) => [
        `${result.consistency}${result.tau === null ? "" : `, tau ${result.tau}`}`,
        result.workersIdle.toFixed(1),
        result.idle.toFixed(1),
        result.consistency === "bsp" ? (result.idleFormula ?? 0).toFixed(1) : "",
        result.stepMs.toFixed(1),
        result.greatestLag,
        result.meanLag.toFixed(2),
        result.loss.toFixed(4),
        result.missedPaces,
      ]);
    const title =
      setting === "straggler"
        ? `One of ${WORKERS} workers ${SLOWNESS} times slower`
        : `${WORKERS} equal workers, messages take ${LATENCY} each way`;
    const head = ["consistency", "idle % of workers", "of all nodes", "formula", "step ms", "greatest lag", "mean lag"];
    return `## ${title}\n\n${table([...head, `loss after ${STEPS} steps`, "missed paces"], rows)}`;
  });
  return (
    `# Idle time by consistency\n\n\`npm run campaign -- consistency\`: ${WORKERS} paced workers (a share takes ` +
    `${3 * FORWARD_MS} ms), one server, ${STEPS} steps each. Idle: wait over wall time. The formula is that of bsp where messages ` +
    `take no time, of all nodes; the server counts as a node, and mostly waits.\n\n${parts.join("\n")}`
  );
}

export const consistency: Campaign<Result, Output> = { name: "consistency", cells, measure, report };
