/** @file The parameter server's machines in 40,000 simulated runs (`test/simulation/server.test.ts` has 800 of them). */
import { table } from "./campaign.ts";
import { type Block, BLOCK, brokenText, type SeedCampaign, sum } from "./seed-blocks.ts";

const SEEDS = 40_000;

export type ServerGroup = "counts" | "lags" | "runs";

function report(blocks: readonly Block<ServerGroup>[]): string {
  const lags = sum(blocks, "lags").map(([name, count]) => {
    const [model = "", lag = ""] = name.split(": ");
    return { model, lag: Number(lag), count };
  });
  const rows = sum(blocks, "runs").map(([model, runs]) => {
    const own = lags.filter((each) => each.model === model);
    const shares = own.reduce((total, { count }) => total + count, 0);
    const mean = own.reduce((total, { lag, count }) => total + lag * count, 0) / shares;
    return [model, runs, shares, Math.max(...own.map(({ lag }) => lag)), mean.toFixed(2)];
  });
  const order = new Intl.Collator("en", { numeric: true });
  return [
    "# The parameter server in simulated networks\n\n",
    `${blocks.length * BLOCK} seeds from 0 on: 1 to 4 workers and servers, up to 12 steps, over a network that loses up to 20 % of the messages, `,
    "doubles up to 30 %, delays and reorders them; half of the runs have a straggler. S1 to S12 and L1 of `baseline-ps/README.md` after every ",
    "event. Remake with `npm run campaign -- server` (delete `blocks.jsonl` first).\n\n",
    `${brokenText(blocks)}\n\n`,
    table(["", "in all"], sum(blocks, "counts")),
    "\nSteps by which the parameters of shares lagged:\n\n",
    table(
      ["consistency", "runs", "shares", "greatest lag", "mean lag"],
      rows.toSorted(([a], [b]) => order.compare(String(a), String(b))),
    ),
  ].join("");
}

export const server: SeedCampaign<ServerGroup> = {
  name: "server",
  seeds: SEEDS,
  worker: new URL("./server-worker.ts", import.meta.url),
  report,
};
