/** @file Servers of keys that die, in 20,000 simulated runs (`test/simulation/server-chain.test.ts` has 400 of them). */
import { table } from "./campaign.ts";
import { type Block, BLOCK, brokenText, type SeedCampaign, sum } from "./seed-blocks.ts";

const SEEDS = 20_000;

export type ServerChainGroup = "counts" | "faults" | "runs";

function report(blocks: readonly Block<ServerChainGroup>[]): string {
  return [
    "# Servers of keys that die, in simulated networks\n\n",
    `${blocks.length * BLOCK} seeds from 0 on: 2 to 5 servers with 1 or 2 replicas of each shard, 1 to 3 workers, up to 10 steps, up to 5 faults; links keep their order, `,
    "and lose what a dead process had not sent. C1 to C5 and L1 of `baseline-ps/README.md`, looked at after every event. `gone`: more servers died than there were ",
    "copies, which was told. Remake with `npm run campaign -- server-chain` (delete `blocks.jsonl` first).\n\n",
    `${brokenText(blocks)}\n\n`,
    table(["", "in all"], sum(blocks, "counts")),
    "\n",
    table(["fault", "in all"], sum(blocks, "faults")),
    "\n",
    table(["consistency", "runs"], sum(blocks, "runs")),
  ].join("");
}

export const serverChain: SeedCampaign<ServerChainGroup> = {
  name: "server-chain",
  seeds: SEEDS,
  worker: new URL("./server-chain-worker.ts", import.meta.url),
  report,
};
