/**
 * @file The recovery machines in 200,000 simulated rings with faults (`test/simulation/recovery.test.ts` has 2,000 of them). A block of seeds is
 * written down when it is done, so that an interrupted campaign goes on where it was; a seed that breaks a rule is written down too.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawScenario } from "../helpers/recovery-simulation-scenario.ts";
import { brokenRule } from "../helpers/recovery-simulation-shrink.ts";
import { simulateRecovery, type RecoveryOutcome } from "../helpers/recovery-simulation.ts";
import { ROOT, table } from "./campaign.ts";

const SEEDS = 200_000;
const BLOCK = 1_000;
/** Upper ends, in virtual milliseconds. */
const RESUME_MS = [100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 90_000];

type Counts = Readonly<Record<string, number>>;

/** What a block of seeds came to; sums, so that blocks add up. */
interface Block {
  readonly seed: number;
  readonly counts: Counts;
  readonly crashes: Counts;
  readonly recomputed: Counts;
  readonly resumed: Counts;
  readonly broken: readonly { readonly seed: number; readonly rule: string }[];
}

function add(into: Record<string, number>, from: Counts): void {
  for (const [name, count] of Object.entries(from)) into[name] = (into[name] ?? 0) + count;
}

function runBlock(first: number): Block {
  const [counts, crashes, recomputed, resumed] = [{}, {}, {}, {}] as Record<string, number>[];
  const broken: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + BLOCK; seed += 1) {
    const scenario = drawScenario(seed);
    let outcome: RecoveryOutcome;
    try {
      outcome = simulateRecovery(scenario);
    } catch {
      broken.push({ seed, rule: brokenRule(scenario) ?? "it does not break again" });
      continue;
    }
    const { events, views, steps, restarts, isExceeded, resumeMs } = outcome;
    add(counts!, { events, views, steps, restarts, exceeded: isExceeded ? 1 : 0 });
    add(crashes!, outcome.crashes);
    for (const each of outcome.recomputed) add(recomputed!, { [each]: 1 });
    if (resumeMs !== null && !isExceeded) add(resumed!, { [RESUME_MS.find((end) => resumeMs <= end) ?? "more"]: 1 });
  }
  return { seed: first, counts: counts!, crashes: crashes!, recomputed: recomputed!, resumed: resumed!, broken };
}

function report(blocks: readonly Block[]): string {
  const sum = (of: (block: Block) => Counts): [string, number][] => {
    const total: Record<string, number> = {};
    for (const block of blocks) add(total, of(block));
    return Object.entries(total);
  };
  const broken = blocks.flatMap((block) => block.broken);
  return [
    "# Recovery in simulated rings\n\n",
    `Seeds 0 to ${blocks.length * BLOCK - 1}: rings of 1 to 7 nodes with up to 3 replicas, faults for 4 s of virtual time, then healed. `,
    "V1 to V12, L1 to L3 of `ring/README.md` after every event. `exceeded`: more was lost than replicas and voters bear; only safety is demanded. ",
    "Remake with `npm run campaign -- recovery` (delete `blocks.jsonl` first).\n\n",
    `Seeds that break a rule: ${broken.map(({ seed, rule }) => `${seed} (${rule})`).join(", ") || "none"}.\n\n`,
    table(
      ["", "in all"],
      sum(({ counts }) => counts),
    ),
    "\nCrashes by where they happen:\n\n",
    table(
      ["point", "crashes"],
      sum(({ crashes }) => crashes).toSorted((a, b) => b[1] - a[1]),
    ),
    "\nSteps that a change of views computes again, beside the newest that anybody held:\n\n",
    table(
      ["steps", "views"],
      sum(({ recomputed }) => recomputed),
    ),
    "\nVirtual time from the end of the faults until everybody trains in one view, three steps further:\n\n",
    table(
      ["at most ms", "runs"],
      sum(({ resumed }) => resumed),
    ),
  ].join("");
}

export function recovery(): void {
  const folder = join(ROOT, "results", "campaigns", "recovery");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "blocks.jsonl");
  const written = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  const blocks = written.filter((line) => line !== "").map((line) => JSON.parse(line) as Block);
  for (let seed = blocks.length * BLOCK; seed < SEEDS; seed += BLOCK) {
    const block = runBlock(seed);
    appendFileSync(file, `${JSON.stringify(block)}\n`);
    blocks.push(block);
    process.stderr.write(`${blocks.length * BLOCK} of ${SEEDS} seeds, ${block.broken.length} broken\n`);
    writeFileSync(join(folder, "README.md"), report(blocks));
  }
  process.stdout.write(report(blocks));
}
