/** @file The machines of dynamic parameter allocation in 100,000 simulated runs (`test/simulation/allocation.test.ts` has 3,000 of them). */
import { table } from "./campaign.ts";
import { type Block, BLOCK, brokenText, type SeedCampaign, sum } from "./seed-blocks.ts";

const SEEDS = 100_000;

export type AllocationGroup = "counts" | "runs";

function report(blocks: readonly Block<AllocationGroup>[]): string {
  return [
    "# Dynamic parameter allocation in simulated networks\n\n",
    `${blocks.length * BLOCK} seeds from 0 on: 1 to 5 nodes with 1 or 2 workers each, 1 to 7 keys, up to 23 requests of a worker (pull, push, localize; all, none or some of them synchronous), `,
    "over links that keep the order of each pair of nodes and delay everything arbitrarily. A1 to A6 and L1 of `baseline-ps/README.md` after every event; the history of each run is sequentially ",
    "consistent for each key. Remake with `npm run campaign -- allocation` (delete `blocks.jsonl` first).\n\n",
    `${brokenText(blocks)}\n\n`,
    table(["", "in all"], sum(blocks, "counts")),
    "\n",
    table(["nodes", "runs"], sum(blocks, "runs")),
  ].join("");
}

export const allocation: SeedCampaign<AllocationGroup> = {
  name: "allocation",
  seeds: SEEDS,
  worker: new URL("./allocation-worker.ts", import.meta.url),
  report,
};
