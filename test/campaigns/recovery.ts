/**
 * @file The recovery machines in 200,000 simulated rings with faults (`test/simulation/recovery.test.ts` has 2,000 of them), on all cores. A block of
 * seeds is written down when it is done, so that an interrupted campaign goes on where it was; a seed that breaks a rule is written down too.
 */
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { ROOT, table } from "./campaign.ts";
import { add, BLOCK, type Block, type Counts } from "./recovery-blocks.ts";

const SEEDS = 200_000;

function report(blocks: readonly Block[]): string {
  const sum = (of: (block: Block) => Counts): [string, number][] => {
    const total: Record<string, number> = {};
    for (const block of blocks) add(total, of(block));
    return Object.entries(total);
  };
  const broken = blocks.flatMap((block) => block.broken);
  return [
    "# Recovery in simulated rings\n\n",
    `${blocks.length * BLOCK} seeds from 0 on: rings of 1 to 7 nodes with up to 3 replicas, faults for 4 s of virtual time, then healed. `,
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

export async function recovery(): Promise<void> {
  const folder = join(ROOT, "results", "campaigns", "recovery");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "blocks.jsonl");
  const written = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  const blocks = written.filter((line) => line !== "").map((line) => JSON.parse(line) as Block);
  const firsts = Array.from({ length: SEEDS / BLOCK }, (_, index) => index * BLOCK);
  const left = firsts.filter((first) => blocks.every(({ seed }) => seed !== first));
  const work = async (): Promise<void> => {
    const worker = new Worker(new URL("./recovery-worker.ts", import.meta.url));
    for (let first = left.shift(); first !== undefined; first = left.shift()) {
      worker.postMessage(first);
      const [block] = (await once(worker, "message")) as [Block];
      appendFileSync(file, `${JSON.stringify(block)}\n`);
      blocks.push(block);
      process.stderr.write(`${blocks.length * BLOCK} of ${SEEDS} seeds, ${block.broken.length} broken in ${first}\n`);
      writeFileSync(join(folder, "README.md"), report(blocks));
    }
    await worker.terminate();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  process.stdout.write(report(blocks));
}
