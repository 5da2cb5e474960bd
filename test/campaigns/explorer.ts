/** @file Every state of the view change within wide bounds: the searches of the test run and those that take minutes. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Explorer, type Explored } from "../helpers/view-explorer.ts";
import { WIDE } from "../helpers/view-explorer-bounds.ts";
import { ROOT, table } from "./campaign.ts";

interface Result extends Explored {
  readonly seconds: number;
}

/** Goes on where it was; throws where a search finds a violation. */
export function explore(): void {
  const folder = join(ROOT, "results", "campaigns", "explorer");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "cells.jsonl");
  const lines = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  const results = lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Result);
  const report = (): void => writeFileSync(join(folder, "README.md"), reportOf(results));
  report();
  for (const bounds of WIDE) {
    if (results.some(({ name }) => name === bounds.name)) continue;
    const startMs = performance.now();
    const explored = new Explorer(bounds).run();
    const result = { ...explored, seconds: Math.round((performance.now() - startMs) / 100) / 10 };
    if (result.violation !== null) {
      throw new Error([bounds.name, result.violation.what, ...result.violation.story].join("\n"));
    }
    process.stderr.write(`${bounds.name}: ${result.states} states, ${result.seconds} s\n`);
    appendFileSync(file, `${JSON.stringify(result)}\n`);
    results.push(result);
    report();
  }
  process.stdout.write(reportOf(results));
}

function reportOf(results: readonly Result[]): string {
  const rows = WIDE.flatMap((bounds) => {
    const result = results.find(({ name }) => name === bounds.name);
    if (result === undefined) return [];
    const { views, proposals, proposalsEach, crashes, failures, mortal, steps } = bounds;
    const who = mortal.length === 0 ? "" : ` of ${mortal.join(" ")}`;
    const extent = result.isComplete ? "all" : "breadth first, to the limit";
    const asked = [bounds.name, views, `${proposals} (${proposalsEach})`, `${crashes}${who}`, failures, steps];
    return [[...asked, result.states, result.transitions, result.decided.join(", "), extent, result.seconds]];
  });
  const total = results.reduce((sum, { states }) => sum + states, 0);
  const seconds = results.reduce((sum, each) => sum + each.seconds, 0);
  const head = [
    "search",
    "view changes",
    "rounds (each)",
    "crashes",
    "failed writes",
    "steps",
    "states",
    "transitions",
  ];
  return [
    "# Every state of the view change\n\n",
    "Three voters, the product's agreement, restore-evidence rule and next view; messages delivered in any order, repeatedly or never; writes done or ",
    "failing at any time; crashes before and after a write is durable. Checked in every state: V1, V3, V4, V9.\n\n",
    table([...head, "states with view 1, 2 decided", "extent", "s"], rows),
    `\n${total} states without a violation, ${Math.round(total / seconds)} a second. Remake with \`npm run campaign -- explorer\`.\n`,
  ].join("");
}
