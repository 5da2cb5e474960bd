/** @file `npm run campaign -- <name>`: long proofs, resumable, their results in `results/campaigns/`. */
import { balance } from "./balance.ts";
import { runCampaign } from "./campaign.ts";
import { chaos } from "./chaos.ts";
import { explore } from "./explorer.ts";
import { recovery } from "./recovery.ts";
import { replication } from "./replication.ts";
import { schedules } from "./schedules.ts";
import { simulator } from "./simulator.ts";
import { soak } from "./soak.ts";

const RUNS = {
  balance: () => runCampaign(balance),
  chaos: () => runCampaign(chaos),
  explorer: explore,
  recovery,
  replication: () => runCampaign(replication),
  schedules: () => runCampaign(schedules),
  simulator: () => runCampaign(simulator),
  soak,
} as const;

const name = process.argv[2] ?? "";
if (Object.hasOwn(RUNS, name)) await RUNS[name as keyof typeof RUNS]();
else {
  process.stderr.write(`usage: npm run campaign -- ${Object.keys(RUNS).join(" | ")}\n`);
  process.exitCode = 2;
}
