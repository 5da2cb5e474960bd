/**
 * @file A campaign of simulated runs, seed after seed, on all cores. A block of seeds is written down when it is done, so that an interrupted campaign
 * goes on where it was; a seed that breaks a rule is written down too.
 */
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { ROOT } from "./campaign.ts";

/** Seeds of a block. */
export const BLOCK = 1_000;

export type Counts = Readonly<Record<string, number>>;

/** What a block of seeds came to: sums, so that blocks add up. */
export type Block<Group extends string> = Readonly<Record<Group, Counts>> & {
  /** The first. */
  readonly seed: number;
  readonly broken: readonly { readonly seed: number; readonly rule: string }[];
};

export interface SeedCampaign<Group extends string> {
  readonly name: string;
  readonly seeds: number;
  /** A module that answers the first seed of a block with the block: `answerBlocks`. */
  readonly worker: URL;
  /** Markdown. */
  readonly report: (blocks: readonly Block<Group>[]) => string;
}

export function add(into: Record<string, number>, from: Counts): void {
  for (const [name, count] of Object.entries(from)) into[name] = (into[name] ?? 0) + count;
}

export function sum<Group extends string>(blocks: readonly Block<Group>[], group: Group): [string, number][] {
  const total: Record<string, number> = {};
  for (const block of blocks) add(total, block[group]);
  return Object.entries(total);
}

export function brokenText(blocks: readonly Block<never>[]): string {
  const broken = blocks.flatMap((block) => block.broken);
  return `Seeds that break a rule: ${broken.map(({ seed, rule }) => `${seed} (${rule})`).join(", ") || "none"}.`;
}

export async function runSeeds<Group extends string>(campaign: SeedCampaign<Group>): Promise<void> {
  const { name, seeds, worker: module, report } = campaign;
  const folder = join(ROOT, "results", "campaigns", name);
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "blocks.jsonl");
  const written = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  const blocks = written.filter((line) => line !== "").map((line) => JSON.parse(line) as Block<Group>);
  const firsts = Array.from({ length: seeds / BLOCK }, (_, index) => index * BLOCK);
  const left = firsts.filter((first) => blocks.every(({ seed }) => seed !== first));
  const [startMs, before] = [performance.now(), blocks.length];
  const work = async (): Promise<void> => {
    const worker = new Worker(module);
    for (let first = left.shift(); first !== undefined; first = left.shift()) {
      worker.postMessage(first);
      const [block] = (await once(worker, "message")) as [Block<Group>];
      appendFileSync(file, `${JSON.stringify(block)}\n`);
      blocks.push(block);
      const blockMs = (performance.now() - startMs) / (blocks.length - before);
      const leftSeconds = Math.round((blockMs * (firsts.length - blocks.length)) / 1_000);
      const count = `${blocks.length * BLOCK} of ${seeds} seeds, ${block.broken.length} broken from ${first} on`;
      process.stderr.write(`${count}, about ${leftSeconds} s left\n`);
      writeFileSync(join(folder, "README.md"), report(blocks));
    }
    await worker.terminate();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  process.stdout.write(report(blocks));
}
