/**
 * @file `npm run bench [-- NAME …]`: the benchmarks, one after the other, as one table. Without names, all. Figures hold
 * for the machine that is named above them, and only while nothing else runs there.
 */
import { availableParallelism, cpus } from "node:os";
import type { BenchRow } from "./row.ts";

const BENCHMARKS: Readonly<Record<string, () => Promise<BenchRow[]>>> = {
  engine: async () => (await import("./engine.ts")).benchEngine(),
  keys: async () => (await import("./keys.ts")).benchKeys(),
  localize: async () => (await import("./localize.ts")).benchLocalize(),
  net: async () => (await import("./net.ts")).benchNet(),
  schedule: async () => (await import("./schedule.ts")).benchSchedule(),
  training: async () => (await import("./training.ts")).benchTraining(),
};
const HEADINGS = ["name", "median", "unit", "spread", "beside"];

function printTable(rows: readonly BenchRow[]): void {
  const lines = [
    HEADINGS,
    ...rows.map(({ name, value, unit, spread, beside }) => [name, format(value), unit, spread, beside ?? ""]),
  ];
  const widths = HEADINGS.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  for (const line of lines) {
    const cells = line.map((cell, column) =>
      HEADINGS[column] === "median" ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!),
    );
    console.log(cells.join("  ").trimEnd());
  }
}

/** Three digits that count. */
function format(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

async function main(names: readonly string[]): Promise<void> {
  const unknown = names.find((name) => !Object.hasOwn(BENCHMARKS, name));
  if (unknown !== undefined) {
    console.error(`no benchmark "${unknown}"\nuse some of: ${Object.keys(BENCHMARKS).join(", ")}`);
    process.exitCode = 2;
    return;
  }
  const rows: BenchRow[] = [];
  for (const name of names.length > 0 ? names : Object.keys(BENCHMARKS)) {
    console.error(`measuring ${name}`);
    rows.push(...(await BENCHMARKS[name]!()));
  }
  console.log(`${cpus()[0]?.model ?? "unknown CPU"}, ${availableParallelism()} cores, Node ${process.versions.node}`);
  printTable(rows);
}

await main(process.argv.slice(2));
