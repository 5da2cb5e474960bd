/**
 * @file Checkpoints of a run folder: `checkpoints/<step>/`, where `<step>` steps are complete: one safetensors shard for each
 * segment, and a manifest that is written when all shards are there. Without a manifest it is no checkpoint. A checkpoint does not depend
 * on how many nodes wrote it.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import * as z from "zod";
import type { RunFolder } from "../metrics/run-folder.ts";
import type { WrittenFile } from "../nn/safetensors.ts";
import { DataError } from "../types/errors.ts";

const FOLDER = "checkpoints";
const MANIFEST = "manifest.json";
/** Older ones are deleted when a newer one is complete. */
const KEPT_CHECKPOINTS = 3;

export interface Shard {
  /** `[start, end)`. */
  readonly layers: readonly [number, number];
  /** Name inside the checkpoint's folder. */
  readonly file: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

const manifestSchema = z.strictObject({
  format: z.literal("ringtmp-checkpoint-1"),
  step: z.int().min(0),
  model: z.string(),
  optimizer: z.string(),
  shards: z
    .array(
      z.strictObject({
        layers: z.tuple([z.int(), z.int()]).readonly(),
        file: z.string().regex(/^[\w.-]+$/),
        sha256: z.string(),
        sizeBytes: z.int(),
      }),
    )
    .min(1),
});
export type Manifest = z.infer<typeof manifestSchema>;

/** Where a segment's shard is written first; `nameShard` gives it its name. */
export function shardDraft(folder: RunFolder, step: number, layers: readonly [number, number]): string {
  const path = folder.file(FOLDER, String(step));
  mkdirSync(path, { recursive: true });
  return join(path, `${layers[0]}-${layers[1]}.draft`);
}

/** The shard's name carries its digest, so that two writers never mix. */
export function nameShard(draft: string, layers: readonly [number, number], written: WrittenFile): Shard {
  const file = `${layers[0]}-${layers[1]}.${written.sha256.slice(0, 16)}.safetensors`;
  renameSync(draft, join(draft, "..", file));
  return { layers, file, sha256: written.sha256, sizeBytes: written.sizeBytes };
}

/** Makes the shards a checkpoint, then deletes what is older than the newest few. */
export function writeManifest(folder: RunFolder, manifest: Omit<Manifest, "format">): void {
  const path = folder.file(FOLDER, String(manifest.step));
  mkdirSync(path, { recursive: true });
  const shards = manifest.shards.toSorted((a, b) => a.layers[0] - b.layers[0]);
  const temporary = join(path, `.${MANIFEST}.tmp`);
  writeFileSync(temporary, `${JSON.stringify({ format: "ringtmp-checkpoint-1", ...manifest, shards }, null, 2)}\n`, {
    flush: true,
  });
  renameSync(temporary, join(path, MANIFEST));
  const complete = checkpointSteps(folder).filter((step) => step <= manifest.step);
  for (const step of complete.slice(0, -KEPT_CHECKPOINTS)) {
    rmSync(folder.file(FOLDER, String(step)), { recursive: true, force: true });
  }
}

/** Steps of the complete checkpoints, ascending. */
export function checkpointSteps(folder: RunFolder): readonly number[] {
  const path = folder.file(FOLDER);
  if (!existsSync(path)) return [];
  const names = readdirSync(path).filter((name) => /^\d+$/.test(name) && existsSync(join(path, name, MANIFEST)));
  return names.map(Number).toSorted((a, b) => a - b);
}

export interface Checkpoint {
  readonly manifest: Manifest;
  /** Paths of all shards, which are there and have their stated sizes; their content is checked where it is read. */
  readonly files: readonly string[];
}

/** The newest checkpoint of a run. Throws DataError where there is none, or where shards are missing. */
export function newestCheckpoint(folder: RunFolder): Checkpoint {
  const step = checkpointSteps(folder).at(-1);
  if (step === undefined) {
    throw new DataError(
      `${folder.path} holds no complete checkpoint`,
      "run again with --checkpoint-every, or name another run folder",
    );
  }
  return openCheckpoint(folder, step);
}

export function openCheckpoint(folder: RunFolder, step: number): Checkpoint {
  const path = folder.file(FOLDER, String(step));
  const file = join(path, MANIFEST);
  let manifest: Manifest;
  try {
    manifest = manifestSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    throw new DataError(`${file} is not a manifest`, "delete its folder to use an older checkpoint", { cause });
  }
  const files = manifest.shards.map((shard) => join(path, shard.file));
  const missing = files.filter((shard) => !existsSync(shard)).map((shard) => basename(shard));
  if (missing.length > 0) {
    const remedy = "copy it there from the machine whose node wrote it";
    throw new DataError(`checkpoint ${path} lacks ${missing.join(", ")}`, remedy);
  }
  return { manifest, files };
}
