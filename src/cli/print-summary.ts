/** @file A run's result on standard output: for people, or as the JSON of `summary.json`; warnings on standard error. */
import { formatBytes, formatSeconds } from "./progress.ts";

export function printSummary(summary: Readonly<Record<string, unknown>>, out: string, asJson: boolean): void {
  process.stdout.write(asJson ? `${JSON.stringify(summary)}\n` : `${describe(summary, out)}\n`);
  printWarnings(summary);
}

function describe(summary: Readonly<Record<string, unknown>>, out: string): string {
  const number = (name: string, digits: number): string => {
    const value = summary[name];
    return typeof value === "number" ? value.toFixed(digits) : "none";
  };
  const text = (name: string): string => String(summary[name]);
  const { nodes, schedule, testAccuracy } = summary;
  const accuracy = typeof testAccuracy === "number" ? `${(100 * testAccuracy).toFixed(1)} %` : "not measured";
  const expected = [
    ["theory", "idlePercentTheory"],
    ["formula", "idlePercentFormula"],
  ].find(([, name]) => typeof summary[name!] === "number");
  const theory = expected === undefined ? "" : ` (${expected[0]} ${number(expected[1]!, 1)} %)`;
  const lines = [
    [
      "system",
      `${text("system")}, ${text("nodes")} ${nodes === 1 ? "node" : "nodes"}${schedule === null ? "" : `, ${text("schedule")}`}, engine ${text("engine")}`,
    ],
    ["model", `${text("model")} (${text("parameters")} parameters)`],
    ["loss", `${number("firstLoss", 4)} to ${number("finalLoss", 4)} in ${text("steps")} steps`],
    ["test accuracy", accuracy],
    [
      "time",
      `${formatSeconds(Number(summary["wallMs"]) / 1000)}, ${number("stepMsMedian", 1)} ms a step, ${number("samplesPerSecond", 0)} samples/s`,
    ],
    ["idle", `${number("idlePercentSteady", 1)} % steady${theory}, run queue ${number("runQueuePercent", 1)} %`],
    ...emulationLine(summary["emulated"] as Readonly<Record<string, unknown>>),
    ["memory", `${formatBytes(Number(summary["peakRssBytesMax"]))} at most in a process`],
    ["weights", `sha256 ${text("weightsSha256")}`],
    ["results", out],
  ];
  return lines.map(([name, value]) => `${`${name}:`.padEnd(15)}${value}`).join("\n");
}

/** Speed, link or memory that are stated, not this machine's. */
function emulationLine({ pace, link, memoryLimit }: Readonly<Record<string, unknown>>): [string, string][] {
  const stated = Object.entries({ pace: pace, link: link, "memory limit": memoryLimit });
  const texts = stated.filter(([, value]) => value !== null).map(([name, value]) => `${name} ${String(value)}`);
  return texts.length === 0 ? [] : [["emulated", texts.join(", ")]];
}

/** Where a stated pace or link was missed: on standard error, whatever else is quiet. */
function printWarnings({ system, emulated }: Readonly<Record<string, unknown>>): void {
  const { missedPaces, pacedOperations, worstPaceRatio, lateParts, shapedParts, worstLateMs } = emulated as Readonly<
    Record<string, number>
  >;
  if (missedPaces! > 0) {
    const worst = `the worst ${worstPaceRatio!.toFixed(1)} times as long`;
    // Servers run as fast as they can.
    const whose = system === "ps" ? "workers' " : "";
    warn(`${missedPaces} of ${pacedOperations} ${whose}paced operations took longer than --pace says (${worst})`);
  }
  if (lateParts! > 0) {
    const worst = `the worst by ${worstLateMs!.toFixed(1)} ms`;
    warn(`${lateParts} of ${shapedParts} parts left later than --link says (${worst})`);
  }
}

function warn(text: string): void {
  process.stderr.write(`warning: ${text}: this machine was too busy for what it stands for\n`);
}
