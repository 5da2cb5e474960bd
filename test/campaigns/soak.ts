/**
 * @file Ten minutes on a machine with four times as much to run as it has cores: nobody may be left out of the ring for slowness alone. The load is
 * processes that spin beside the ring.
 */
import { fork, spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ROOT } from "./campaign.ts";

const MINUTES = 10;
const NODES = 5;
const FLAGS = [
  "-n",
  String(NODES),
  "--replicas",
  "2",
  "--model",
  "mlp:784-256-256-256-256-256-10",
  "--timeline",
  "none",
];
const END_LIMIT_MS = 60_000;

interface Event {
  readonly kind: string;
}

export async function soak(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ringtmp-soak-"));
  const out = join(folder, "run");
  const spinners: ChildProcess[] = [];
  try {
    const flags = ["train", ...FLAGS, "--steps", "1000000", "--orphans", "end", "--quiet", "--json", "--out", out];
    const ring = spawn(join(ROOT, "bin", "ringtmp"), flags, { stdio: "ignore" });
    const ended = new Promise<number | null>((resolve) => ring.on("exit", resolve));
    // With the ring's own threads, of which about one a core runs at a time.
    const count = 3 * availableParallelism();
    for (let index = 0; index < count; index += 1) spinners.push(fork(join(import.meta.dirname, "spin.ts")));
    await sleep(MINUTES * 60_000);
    ring.kill("SIGINT");
    for (const spinner of spinners.splice(0)) spinner.kill("SIGKILL");
    const code = await Promise.race([ended, sleep(END_LIMIT_MS, "late" as const)]);
    const events = lines<Event>(join(out, "events.jsonl"));
    report(count, code, events, lines(join(out, "metrics.jsonl")).length);
  } finally {
    for (const spinner of spinners) spinner.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
}

function lines<Line>(file: string): Line[] {
  const text = readFileSync(file, "utf8").trim();
  return text === "" ? [] : text.split("\n").map((line) => JSON.parse(line) as Line);
}

function report(count: number, code: number | null | "late", events: readonly Event[], steps: number): void {
  const times = (kind: string): number => events.filter((event) => event.kind === kind).length;
  const text = [
    "# Ten minutes at four times the load\n\n",
    `\`ringtmp train ${FLAGS.join(" ")}\` beside ${count} processes that spin, on ${availableParallelism()} cores, for ${MINUTES} minutes.\n\n`,
    `- steps committed: ${steps}\n- views after the first: ${times("view")}\n- suspicions: ${times("suspected")}\n`,
    `- nodes that overslept: ${times("overslept")} times\n- views that stalled: ${times("stalled")}\n- exit code after Ctrl-C: ${code} (130 is in order)\n\n`,
    "Remake with `npm run campaign -- soak`.\n",
  ].join("");
  const folder = join(ROOT, "results", "campaigns", "soak");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "README.md"), text);
  process.stdout.write(text);
}
