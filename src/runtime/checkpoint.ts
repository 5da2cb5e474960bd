/**
 * @file Checkpoints of a run folder: `checkpoints/<step>/`, where `<step>` steps are complete: one safetensors shard for each
 * segment, and a manifest that is written when all shards are there. Without a manifest it is no checkpoint. A checkpoint does not depend
 * on how many nodes wrote it.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import type { RunFolder } from "../metrics/run-folder.ts";
import type { WrittenFile } from "../nn/safetensors.ts";
import { DataError } from "../types/errors.ts";

const FOLDER = "checkpoints";
const MANIFEST = "manifest.json";
const PIECE_BYTES = 1024 * 1024;
/** Older ones are deleted when a newer one is complete. */
const KEPT_CHECKPOINTS = 3;

/** `[start, end)`. */
type LayerRange = readonly [start: number, end: number];
const ALL_LAYERS: LayerRange = [0, Infinity];

export interface Shard {
  readonly layers: LayerRange;
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
export function shardDraft(folder: RunFolder, step: number, layers: LayerRange): string {
  const path = folder.file(FOLDER, String(step));
  mkdirSync(path, { recursive: true });
  return join(path, `${layers[0]}-${layers[1]}.draft`);
}

/** The shard's name carries its digest, so that two writers never mix. */
export function nameShard(draft: string, layers: LayerRange, written: WrittenFile): Shard {
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
  /** Paths of the shards that hold the wanted layers; their content is what the manifest says. */
  readonly files: readonly string[];
}

/** The newest checkpoint of a run. Throws DataError where there is none, and as `openCheckpoint` does. */
export function newestCheckpoint(folder: RunFolder, layers: LayerRange = ALL_LAYERS): Checkpoint {
  const step = checkpointSteps(folder).at(-1);
  if (step === undefined) {
    throw new DataError(
      `${folder.path} holds no complete checkpoint`,
      "run again with --checkpoint-every, or name another run folder",
    );
  }
  return openCheckpoint(folder, step, layers);
}

/**
 * Reads the shards that hold `layers` once, to compare them with the manifest: a changed byte would train on unnoticed.
 * Throws DataError where one is missing or damaged.
 */
export function openCheckpoint(folder: RunFolder, step: number, layers: LayerRange = ALL_LAYERS): Checkpoint {
  const path = folder.file(FOLDER, String(step));
  const file = join(path, MANIFEST);
  let manifest: Manifest;
  try {
    manifest = manifestSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    throw new DataError(`${file} is not a manifest`, "delete its folder to use an older checkpoint", { cause });
  }
  const shards = manifest.shards.filter((shard) => shard.layers[0] < layers[1] && layers[0] < shard.layers[1]);
  for (const shard of shards) checkShard(path, shard);
  return { manifest, files: shards.map((shard) => join(path, shard.file)) };
}

function checkShard(path: string, shard: Shard): void {
  const file = join(path, shard.file);
  if (!existsSync(file)) {
    throw new DataError(`checkpoint ${path} lacks ${shard.file}`, "copy it there from the machine whose node wrote it");
  }
  if (sha256Of(file) === shard.sha256) return;
  throw new DataError(
    `${file} is damaged: its SHA-256 is not the one in ${MANIFEST}`,
    `copy it there again, or delete ${path} to use an older checkpoint`,
  );
}

function sha256Of(file: string): string {
  const hash = createHash("sha256");
  const piece = Buffer.allocUnsafe(PIECE_BYTES);
  const descriptor = openSync(file, "r");
  try {
    for (let length = -1; length !== 0;) {
      length = readSync(descriptor, piece);
      hash.update(piece.subarray(0, length));
    }
  } finally {
    closeSync(descriptor);
  }
  return hash.digest("hex");
}
