/**
 * @file Checkpoints of a run folder: `checkpoints/<step>/`, where `<step>` steps are complete: one safetensors shard for each
 * segment, and a manifest that is written when all shards are there and durable. Without a manifest it is no checkpoint. A checkpoint
 * does not depend on how many nodes wrote it. No byte of it can change without being found.
 */
import { createHash } from "node:crypto";
import {
  closeSync, createReadStream, existsSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, renameSync, rmSync,
} from "node:fs"; // prettier-ignore
import { rm } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { type Fingerprint, firstDifference } from "../config/fingerprint.ts";
import type { RunFolder } from "../metrics/run-folder.ts";
import { describeDamage, type WrittenFile } from "../nn/safetensors.ts";
import { DataError, UsageError } from "../types/errors.ts";
import { type FileSystem, isLeftover, nodeFileSystem, syncFolder, writeDurably } from "./durable.ts";

const FOLDER = "checkpoints";
const MANIFEST = "manifest.json";
const FORMAT = "ringtmp-checkpoint-2";
const DRAFT = ".draft";
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
  format: z.literal(FORMAT),
  step: z.int().min(0),
  fingerprint: z.record(z.string(), z.union([z.string(), z.number()])),
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

/** What a checkpoint is of. */
export interface Manifest {
  readonly step: number;
  /** Of the job that it belongs to. */
  readonly fingerprint: Fingerprint;
  readonly shards: readonly Shard[];
}

/** Where a segment's shard is written first; `nameShard` gives it its name. Throws DataError where its folder cannot be made. */
export function shardDraft(folder: RunFolder, step: number, layers: LayerRange): string {
  const path = folder.file(FOLDER, String(step));
  onDisk(path, () => mkdirSync(path, { recursive: true }));
  return join(path, `${layers[0]}-${layers[1]}${DRAFT}`);
}

/**
 * The shard's name carries its digest, so that two writers never mix. It is durable when a manifest names it. Throws DataError where it
 * cannot be named.
 */
export function nameShard(draft: string, layers: LayerRange, written: WrittenFile): Shard {
  const file = `${layers[0]}-${layers[1]}.${written.sha256.slice(0, 16)}.safetensors`;
  onDisk(draft, () => renameSync(draft, join(draft, "..", file)));
  return { layers, file, sha256: written.sha256, sizeBytes: written.sizeBytes };
}

function onDisk(file: string, work: () => unknown): void {
  try {
    work();
  } catch (cause) {
    throw new DataError(`${file}: ${(cause as Error).message}`, "free space on its disk, or use another disk", {
      cause,
    });
  }
}

/** Whether a checkpoint is on the disk: where not, training goes on, and the user is told. */
export type Durability = { readonly kind: "durable" } | { readonly kind: "notDurable"; readonly reason: string };

/**
 * Makes the shards a checkpoint, then deletes what is older than the newest few, if this one reads back as it was written. One at a
 * time.
 */
export async function writeManifest(
  folder: RunFolder,
  manifest: Manifest,
  fileSystem: FileSystem = nodeFileSystem,
): Promise<Durability> {
  const path = folder.file(FOLDER, String(manifest.step));
  const shards = manifest.shards.toSorted((a, b) => a.layers[0] - b.layers[0]);
  try {
    // The shards' names, and those of the folders above them, before the manifest that counts on them.
    for (const each of [path, folder.file(FOLDER), folder.path]) await syncFolder(each, fileSystem);
    await writeDurably(join(path, MANIFEST), formatManifest({ ...manifest, shards }), { fileSystem });
    await deleteOlder(folder, manifest.step);
    return { kind: "durable" };
  } catch (error) {
    // Also the system's own, of reading back or deleting.
    const isOfDisk = error instanceof DataError || (error instanceof Error && "errno" in error);
    if (isOfDisk) return { kind: "notDurable", reason: error.message };
    throw error;
  }
}

/** Also what never became a checkpoint: all have saved this one, so nobody writes to one before it any more. */
async function deleteOlder(folder: RunFolder, step: number): Promise<void> {
  const older = checkpointSteps(folder).filter((each) => each <= step);
  const [oldestKept = step] = older.slice(-KEPT_CHECKPOINTS);
  const deleted = stepFolders(folder).filter((each) => each < oldestKept);
  if (deleted.length === 0) return;
  const path = folder.file(FOLDER, String(step));
  // Shards of nodes on other machines are on theirs.
  const shards = readManifest(path, step).shards.filter(({ file }) => existsSync(join(path, file)));
  if (shards.length === 0) throw new DataError(`${path} holds no shard`, "run again with --checkpoint-every");
  for (const shard of shards) {
    const hash = createHash("sha256");
    for await (const piece of createReadStream(join(path, shard.file), { highWaterMark: PIECE_BYTES })) {
      hash.update(piece as Buffer);
    }
    if (hash.digest("hex") !== shard.sha256) throw damagedShard(path, shard);
  }
  for (const each of deleted) {
    // The manifest first: what is half deleted is no checkpoint.
    await rm(folder.file(FOLDER, String(each), MANIFEST), { force: true });
    await rm(folder.file(FOLDER, String(each)), { recursive: true, force: true });
  }
}

/** The digest of the rest stands at the end; no byte can be written otherwise. */
function formatManifest({ step, fingerprint, shards }: Manifest): string {
  const content = { format: FORMAT, step, fingerprint, shards };
  const sha256 = createHash("sha256").update(JSON.stringify(content)).digest("hex");
  return `${JSON.stringify({ ...content, sha256 }, null, 2)}\n`;
}

/** Throws DataError where it is not what was written. */
function readManifest(path: string, step: number): Manifest {
  const file = join(path, MANIFEST);
  const remedy = "copy it there again, or delete its folder to use an older checkpoint";
  let manifest: Manifest;
  try {
    const bytes = readFileSync(file);
    const { sha256: _, ...content } = JSON.parse(bytes.toString()) as Record<string, unknown>;
    manifest = manifestSchema.parse(content);
    if (!bytes.equals(Buffer.from(formatManifest(manifest)))) throw new Error("its digest is another one");
  } catch (cause) {
    throw new DataError(`${file} is not a manifest, or damaged`, remedy, { cause });
  }
  if (manifest.step === step) return manifest;
  throw new DataError(`${file} is the manifest of step ${manifest.step}`, remedy);
}

/** Steps of the complete checkpoints, ascending. */
export function checkpointSteps(folder: RunFolder): readonly number[] {
  return stepFolders(folder).filter((step) => existsSync(folder.file(FOLDER, String(step), MANIFEST)));
}

function stepFolders(folder: RunFolder): readonly number[] {
  const path = folder.file(FOLDER);
  if (!existsSync(path)) return [];
  const names = readdirSync(path).filter((name) => /^\d+$/.test(name));
  return names.map(Number).toSorted((a, b) => a - b);
}

/** Removes what crashes left: files that never got their names. Nobody else may be writing to the folder. */
export function removeDrafts(folder: RunFolder): void {
  for (const step of stepFolders(folder)) {
    const path = folder.file(FOLDER, String(step));
    for (const name of readdirSync(path)) {
      if (name.endsWith(DRAFT) || isLeftover(name)) rmSync(join(path, name), { force: true });
    }
  }
}

export interface Checkpoint {
  readonly manifest: Manifest;
  /** Paths of the shards that hold the wanted layers; their content is what the manifest says. */
  readonly files: readonly string[];
}

/**
 * The newest checkpoint of a run that is whole; `warn` hears one line for each newer one that is not. Throws DataError where there is none:
 * what is wrong with the newest.
 */
export function newestCheckpoint(
  folder: RunFolder,
  warn: (text: string) => void,
  layers: LayerRange = ALL_LAYERS,
): Checkpoint {
  const faults: DataError[] = [];
  for (const step of checkpointSteps(folder).toReversed()) {
    try {
      const checkpoint = openCheckpoint(folder, step, layers);
      for (const { message } of faults) warn(`${message}; using the checkpoint of step ${step} instead`);
      return checkpoint;
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      faults.push(error);
    }
  }
  if (faults[0] !== undefined) throw faults[0];
  throw new DataError(
    `${folder.path} holds no complete checkpoint`,
    "run again with --checkpoint-every, or name another run folder",
  );
}

/**
 * Reads the shards that hold `layers` once, to compare them with the manifest: a changed byte would train on unnoticed.
 * Throws DataError where one is missing or damaged.
 */
export function openCheckpoint(folder: RunFolder, step: number, layers: LayerRange = ALL_LAYERS): Checkpoint {
  const path = folder.file(FOLDER, String(step));
  const manifest = readManifest(path, step);
  const shards = manifest.shards.filter((shard) => shard.layers[0] < layers[1] && layers[0] < shard.layers[1]);
  for (const shard of shards) checkShard(path, shard);
  return { manifest, files: shards.map((shard) => join(path, shard.file)) };
}

/** Throws UsageError with the first difference where the checkpoint is of another job; `what` begins the message. */
export function checkSameJob({ fingerprint, step }: Manifest, job: Fingerprint, what: string): void {
  const field = firstDifference(job, fingerprint);
  if (field === undefined) return;
  throw new UsageError(
    `${what}: the checkpoint of step ${step} has ${field} ${fingerprint[field] ?? "none"}, not ${job[field] ?? "none"}`,
    `go on with its ${field}, or start a new run`,
  );
}

function checkShard(path: string, shard: Shard): void {
  const file = join(path, shard.file);
  if (!existsSync(file)) {
    throw new DataError(`checkpoint ${path} lacks ${shard.file}`, "copy it there from the machine whose node wrote it");
  }
  if (sha256Of(file) === shard.sha256) return;
  throw damagedShard(path, shard);
}

function damagedShard(path: string, shard: Shard): DataError {
  const file = join(path, shard.file);
  return new DataError(
    `${file} is damaged: ${describeDamage(file)}`,
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
