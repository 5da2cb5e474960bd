/**
 * @file The bits of a parameter server in bsp, one micro-batch a worker, as real processes: every number of workers and servers, full replicas and
 * workers that pull ranges, with overlap and without, beside one process.
 */
import { table, type Campaign, type Cell, type RunSummary } from "./campaign.ts";

const WORKERS = [1, 2, 3, 4];
const SERVERS = [1, 2, 4];
const HOLDS = ["model", "range"] as const;
const OVERLAPS = ["on", "off"] as const;
const BATCH = 48;
const STEPS = 20;

interface Result {
  /** `serial`, or servers, what a worker holds, overlap. */
  readonly system: string;
  readonly workers: number;
  readonly weights: string;
  readonly losses: string;
}

function cells(): readonly Cell[] {
  return WORKERS.flatMap((workers) => {
    const flags = [
      ...["--model", "mlp:784-64-32-10", "--batch", String(BATCH), "--micro-batches", String(workers)],
      ...["--steps", String(STEPS), "--timeline", "none"],
    ];
    const servers = SERVERS.flatMap((count) =>
      HOLDS.flatMap((holds) =>
        OVERLAPS.map((overlap) => ({
          id: `${workers} workers, ${count} servers, ${holds}, ${overlap}`,
          flags: [
            ...[...flags, "--system", "ps", "-n", String(workers), "--servers", String(count)],
            ...["--worker-holds", holds, "--overlap", overlap],
          ],
        })),
      ),
    );
    return [{ id: `${workers} workers, serial`, flags: [...flags, "--system", "serial"] }, ...servers];
  });
}

function measure({ id }: Cell, { weightsSha256, lossCurveSha256 }: RunSummary): Result {
  const [workers = "", ...system] = id.split(", ");
  return {
    ...{ system: system.join(", "), workers: Number.parseInt(workers, 10) },
    ...{ weights: weightsSha256, losses: lossCurveSha256 },
  };
}

function report(results: readonly (Result & { readonly id: string })[]): string {
  const rows = WORKERS.flatMap((workers) => {
    const runs = results.filter((result) => result.workers === workers);
    const serial = runs.find(({ system }) => system === "serial");
    if (serial === undefined) return [];
    const others = runs.filter((run) => run !== serial);
    const equal = others.filter(({ weights, losses }) => weights === serial.weights && losses === serial.losses);
    return [[workers, serial.weights.slice(0, 16), serial.losses.slice(0, 16), `${equal.length} of ${others.length}`]];
  });
  return (
    `# Bits of the parameter server\n\n\`npm run campaign -- ps-bits\`: bsp, ${STEPS} steps, one micro-batch a worker; 1, 2 and 4 servers, ` +
    "workers that hold the model and workers that pull ranges, overlap on and off, each as processes of their own.\n\n" +
    table(["workers", "weights of one process", "its losses", "runs with the same weights and losses"], rows)
  );
}

export const psBits: Campaign<Result> = { name: "ps-bits", cells, measure, report };
