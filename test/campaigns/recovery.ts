/**
 * @file The recovery machines in 200,000 simulated rings with faults (`test/simulation/recovery.test.ts` has 2,000 of them).
 */
import { table } from "./campaign.ts";
import { type Block, BLOCK, brokenText, type SeedCampaign, sum } from "./seed-blocks.ts";

const SEEDS = 200_000;

export type RecoveryGroup = "counts" | "crashes" | "recomputed" | "resumed";

function report(blocks: readonly Block<RecoveryGroup>[]): string {
  return [
    "# Recovery in simulated rings\n\n",
    `${blocks.length * BLOCK} seeds from 0 on: rings of 1 to 7 nodes with up to 3 replicas, faults for 4 s of virtual time, then healed. `,
    "V1 to V12, L1 to L3 of `ring/README.md` after every event. `exceeded`: more was lost than replicas and voters bear; only safety is demanded. ",
    "Remake with `npm run campaign -- recovery` (delete `blocks.jsonl` first).\n\n",
    `${brokenText(blocks)}\n\n`,
    table(["", "in all"], sum(blocks, "counts")),
    "\nCrashes by where they happen:\n\n",
    table(
      ["point", "crashes"],
      sum(blocks, "crashes").toSorted((a, b) => b[1] - a[1]),
    ),
    "\nSteps that a change of views computes again, beside the newest that anybody held:\n\n",
    table(["steps", "views"], sum(blocks, "recomputed")),
    "\nVirtual time from the end of the faults until everybody trains in one view, three steps further:\n\n",
    table(["at most ms", "runs"], sum(blocks, "resumed")),
  ].join("");
}

export const recovery: SeedCampaign<RecoveryGroup> = {
  name: "recovery",
  seeds: SEEDS,
  worker: new URL("./recovery-worker.ts", import.meta.url),
  report,
};
