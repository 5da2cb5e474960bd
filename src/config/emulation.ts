/**
 * @file The texts that state what is emulated on this machine: speed of the arithmetic, links, memory. Rates and
 * prefixes are decimal, and bits are bits, as in `tc`; only KiB, MiB and GiB are powers of two.
 */
import { UsageError } from "../types/errors.ts";

const GFLOPS_OF: Readonly<Record<string, number>> = { "mflop/s": 1e-3, "gflop/s": 1, "tflop/s": 1e3 };
const BYTES_PER_MS_OF: Readonly<Record<string, number>> = { kbit: 1e3 / 8e3, mbit: 1e6 / 8e3, gbit: 1e9 / 8e3 };
const MS_OF: Readonly<Record<string, number>> = { us: 1e-3, ms: 1, s: 1e3 };
const BYTES_OF: Readonly<Record<string, number>> = {
  ...{ kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30 },
  ...{ kb: 1e3, mb: 1e6, gb: 1e9 },
};

const LATENCY_MS_MAX = 10_000;
/** Less than what a node takes before it holds any of the model is a mistake. */
const MEMORY_LIMIT_BYTES_MIN = 64 * 2 ** 20;

/** What one direction of an edge is held to. */
export interface LinkShape {
  /** Null: as fast as the machine. */
  readonly rateBytesPerMs: number | null;
  /** One way. */
  readonly latencyMs: number;
}

interface Quantity {
  readonly value: number;
  /** Lower case; empty where the text has none. */
  readonly unit: string;
}

/** A plain number and letters behind it; undefined for anything else. */
function parseQuantity(part: string): Quantity | undefined {
  const [, value, unit] = /^(\d{1,9}(?:\.\d{1,9})?)([a-z/]*)$/i.exec(part.trim()) ?? [];
  return value === undefined || unit === undefined ? undefined : { value: Number(value), unit: unit.toLowerCase() };
}

/**
 * `2GFLOP/s` for every node, or one value a node: `2,2,1,2GFLOP/s`. A value without a unit has that of the next one.
 * @returns GFLOP/s of each node
 * @throws UsageError for another form, or another count than `nodes`
 */
export function parsePace(text: string, nodes: number): readonly number[] {
  const speeds = text.split(",").map(parseQuantity);
  const paces = speeds.map((speed, node) => {
    const unit = speeds.slice(node).find((other) => other?.unit !== "")?.unit ?? "";
    return (speed?.value ?? 0) * (GFLOPS_OF[unit] ?? 0);
  });
  if (!paces.every((pace) => pace > 0)) {
    throw new UsageError(
      `--pace ${JSON.stringify(text)}: speeds above 0 with MFLOP/s, GFLOP/s or TFLOP/s are needed`,
      "write --pace 2GFLOP/s for every node, or --pace 2,1GFLOP/s for two",
    );
  }
  const [first] = paces;
  if (paces.length === 1 && first !== undefined) return Array.from({ length: nodes }, () => first);
  if (paces.length === nodes) return paces;
  throw new UsageError(
    `--pace ${JSON.stringify(text)} has ${paces.length} speeds for ${nodes} node${nodes === 1 ? "" : "s"}`,
    nodes === 1 ? "give one speed" : `give one speed for all, or ${nodes}`,
  );
}

/**
 * `100mbit,5ms`, or one of the two.
 * @throws UsageError for another form
 */
export function parseLink(text: string): LinkShape {
  let rateBytesPerMs: number | undefined;
  let latencyMs: number | undefined;
  for (const part of text.split(",")) {
    const { value = 0, unit = "" } = parseQuantity(part) ?? {};
    const rate = value * (BYTES_PER_MS_OF[unit] ?? Number.NaN);
    const latency = value * (MS_OF[unit] ?? Number.NaN);
    if (rate > 0 && rateBytesPerMs === undefined) rateBytesPerMs = rate;
    else if (latency >= 0 && latency <= LATENCY_MS_MAX && latencyMs === undefined) latencyMs = latency;
    else throw badLink(text, part);
  }
  return { rateBytesPerMs: rateBytesPerMs ?? null, latencyMs: latencyMs ?? 0 };
}

function badLink(text: string, part: string): UsageError {
  const where = part === text ? "" : `: ${JSON.stringify(part.trim())}`;
  return new UsageError(
    `--link ${JSON.stringify(text)}${where}: a rate in kbit, mbit or gbit, a latency in us, ms or s (at most ${LATENCY_MS_MAX / 1000}s), or both, is needed`,
    "write for example --link 100mbit,5ms: bits a second, and one way",
  );
}

/**
 * `256MiB`, `1GiB` (powers of two), `512MB` (decimal).
 * @returns bytes
 * @throws UsageError for another form, or less than any node takes
 */
export function parseMemoryLimit(text: string): number {
  const { value = 0, unit = "" } = parseQuantity(text) ?? {};
  const limitBytes = Math.floor(value * (BYTES_OF[unit] ?? Number.NaN));
  if (limitBytes >= MEMORY_LIMIT_BYTES_MIN) return limitBytes;
  const isTooSmall = limitBytes < MEMORY_LIMIT_BYTES_MIN && value > 0;
  throw new UsageError(
    `--memory-limit ${JSON.stringify(text)}: ${isTooSmall ? "at least 64MiB is needed" : "an amount in MiB, GiB, MB or GB is needed"}`,
    "write for example --memory-limit 256MiB: a node alone takes about 170MiB",
  );
}
