/**
 * @file What a result depends on, and nothing else. Two processes with equal fingerprints compute the same bits; the
 * first field that differs is what a refusal names.
 */
import { createHash } from "node:crypto";
import type { Settings } from "./settings.ts";

/** Bumped when the arithmetic or its order changes: nodes of different builds do not train together. */
export const BUILD = "ringtmp-0.1.0";

export type Fingerprint = Readonly<Record<string, string | number>>;

/** @param engineId kind and probe digest of the engine that runs. */
export function fingerprintOf(settings: Settings, dataSha256: string, engineId: string): Fingerprint {
  const { model, augment, seed, batch, microBatches, optimizer, lr, wire } = settings;
  return {
    build: BUILD,
    model,
    data: dataSha256,
    // Where there is none, it is as before there was such a thing.
    ...(augment === "none" ? {} : { augment }),
    seed,
    batch,
    microBatches,
    optimizer,
    lr,
    wire,
    engine: engineId,
  };
}

/** The first field in which two fingerprints differ, or undefined. */
export function firstDifference(expected: Fingerprint, actual: Fingerprint): string | undefined {
  return Object.keys({ ...expected, ...actual }).find((field) => expected[field] !== actual[field]);
}

/** SHA-256 over the fields in their order, hexadecimal. */
export function fingerprintDigest(fingerprint: Fingerprint): string {
  return createHash("sha256").update(JSON.stringify(fingerprint)).digest("hex");
}
