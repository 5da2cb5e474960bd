/**
 * @file How much of a parameter server's communication the computing hides: the same paced run over slow links with overlap and without. Exposed
 * communication is what a step takes beyond what its worker computes.
 */
import { paceFor, table, uniformModel, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WORKERS = 2;
const LAYERS = 8;
const WIDTH = 128;
const ROWS = 16;
/** F of a share, whose B and W take as long. */
const FORWARD_MS = 40;
const STEPS = 24;
const REPETITIONS = 3;
const PARAMETER_BYTES = 4 * LAYERS * (WIDTH + 1) * WIDTH;
/** Of a model's bytes one way: in all of a step's computing, in half of it, in a fifth. */
const TRANSFER_MS = [120, 60, 24];
const HOLDS = ["model", "range"] as const;

interface Result {
  readonly holds: string;
  readonly transferMs: number;
  readonly overlap: string;
  readonly stepMs: number;
  readonly computeMs: number;
  readonly exposedMs: number;
  readonly missedPaces: number;
  readonly weights: string;
}

interface Output extends Omit<RunSummary, "perNode"> {
  readonly steps: number;
  readonly perNode: readonly { readonly role: string; readonly computeMs: number }[];
}

function cells(): readonly Cell[] {
  const pace = paceFor(LAYERS, WIDTH, ROWS, FORWARD_MS);
  const repetitions = Array.from({ length: REPETITIONS }, (_, repetition) => repetition);
  return repetitions.flatMap((repetition) =>
    HOLDS.flatMap((holds) =>
      TRANSFER_MS.flatMap((transferMs) =>
        ["on", "off"].map((overlap) => ({
          id: `${holds}, ${transferMs} ms, ${overlap}, ${repetition}`,
          flags: [
            ...["--system", "ps", "-n", String(WORKERS), "--servers", "1", ...uniformModel(LAYERS, WIDTH)],
            ...["--batch", String(ROWS * WORKERS), "--micro-batches", String(WORKERS), "--steps", String(STEPS)],
            ...["--optimizer", "sgd", "--lr", "0.05", "--timeline", "none", "--pace", `${pace.toFixed(9)}GFLOP/s`],
            ...["--link", `${((8 * PARAMETER_BYTES) / transferMs / 1_000).toFixed(3)}mbit,1ms`],
            ...["--overlap", overlap, "--worker-holds", holds],
          ],
        })),
      ),
    ),
  );
}

function measure({ id }: Cell, summary: Output): Result {
  const [holds = "", transfer = "", overlap = ""] = id.split(", ");
  const workers = summary.perNode.filter(({ role }) => role === "worker");
  const computeMs = Math.max(...workers.map((worker) => worker.computeMs)) / summary.steps;
  const { stepMsMedian: stepMs, weightsSha256: weights } = summary;
  const facts = { exposedMs: stepMs - computeMs, missedPaces: summary.emulated.missedPaces, weights };
  return { holds, transferMs: Number.parseFloat(transfer), overlap, stepMs, computeMs, ...facts };
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

function report(results: readonly (Result & { readonly id: string })[]): string {
  const rows = HOLDS.flatMap((holds) =>
    TRANSFER_MS.flatMap((transferMs) => {
      const of = (overlap: string): readonly Result[] =>
        results.filter((run) => run.holds === holds && run.transferMs === transferMs && run.overlap === overlap);
      const [on, off] = [of("on"), of("off")];
      if (on.length === 0 || off.length === 0) return [];
      const exposed = (runs: readonly Result[]): number => median(runs.map(({ exposedMs }) => exposedMs));
      const spread = (runs: readonly Result[]): string => {
        const all = runs.map(({ exposedMs }) => exposedMs);
        return `${exposed(runs).toFixed(1)} (${Math.min(...all).toFixed(1)}..${Math.max(...all).toFixed(1)})`;
      };
      const computeMs = median([...on, ...off].map((run) => run.computeMs));
      const falls = (100 * (1 - exposed(on) / exposed(off))).toFixed(0);
      return [[holds, transferMs, computeMs.toFixed(1), spread(off), spread(on), falls]];
    }),
  );
  const head = ["a worker holds", "model one way, ms", "computing a step, ms", "exposed, overlap off, ms", "on, ms"];
  const hashes = new Set(results.map(({ weights }) => weights)).size;
  return (
    `# Overlap of communication and computing\n\n\`npm run campaign -- overlap\`: ${WORKERS} paced workers, one server, bsp, ` +
    `${LAYERS} equal layers, a link on which the model takes the stated time, each way. Exposed: a step's time beyond its worker's ` +
    `computing; medians of ${REPETITIONS} runs, and their range. Different weights among all runs: ${hashes} (1: all the same).\n\n` +
    table([...head, "falls by %"], rows)
  );
}

export const overlap: Campaign<Result, Output> = { name: "overlap", cells, measure, report };
