/** @file `npm run campaign -- <name> [cell…]`: long proofs, resumable, their results in `results/campaigns/`. */
import { RingTmpError, UsageError } from "../../src/types/errors.ts";
import { allocation } from "./allocation.ts";
import { balance } from "./balance.ts";
import { runCampaign } from "./campaign.ts";
import { chaos } from "./chaos.ts";
import { consistency } from "./consistency.ts";
import { explore } from "./explorer.ts";
import { localize } from "./localize.ts";
import { overlap } from "./overlap.ts";
import { psBits } from "./ps-bits.ts";
import { psKills } from "./ps-kills.ts";
import { recovery } from "./recovery.ts";
import { replication } from "./replication.ts";
import { runSeeds } from "./seed-blocks.ts";
import { schedules } from "./schedules.ts";
import { serverChain } from "./server-chain.ts";
import { server } from "./server.ts";
import { simulator } from "./simulator.ts";
import { soak } from "./soak.ts";
import { sparse } from "./sparse.ts";

const [name = "", ...ids] = process.argv.slice(2);
const RUNS = {
  allocation: () => runSeeds(allocation),
  balance: () => runCampaign(balance, ids),
  chaos: () => runCampaign(chaos, ids),
  consistency: () => runCampaign(consistency, ids),
  explorer: explore,
  localize,
  overlap: () => runCampaign(overlap, ids),
  "ps-bits": () => runCampaign(psBits, ids),
  "ps-kills": () => runCampaign(psKills, ids),
  recovery: () => runSeeds(recovery),
  replication: () => runCampaign(replication, ids),
  schedules: () => runCampaign(schedules, ids),
  server: () => runSeeds(server),
  "server-chain": () => runSeeds(serverChain),
  simulator: () => runCampaign(simulator, ids),
  soak,
  sparse,
} as const;

try {
  if (!Object.hasOwn(RUNS, name)) {
    throw new UsageError(
      name === "" ? "which campaign?" : `no campaign ${name}`,
      `npm run campaign -- ${Object.keys(RUNS).join(" | ")} [cell...]`,
    );
  }
  await RUNS[name as keyof typeof RUNS]();
} catch (error) {
  if (!(error instanceof RingTmpError)) throw error;
  process.stderr.write(`${error.message}\n  ${error.remedy}\n`);
  process.exitCode = error.exitCode;
}
