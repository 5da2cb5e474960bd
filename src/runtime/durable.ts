/**
 * @file The one way a small file is made durable: a temporary file beside it, synced, renamed, its folder synced. Under its final
 * name a file is whole, also after a loss of power. Asynchronous: the event loop carries heartbeats. The compute thread's shards
 * follow the same order, synchronously, in `src/nn/safetensors.ts`.
 */
import { randomBytes } from "node:crypto";
import * as node from "node:fs/promises";
import { dirname, join } from "node:path";
import { DataError } from "../types/errors.ts";

/** What is asked of the system: tests inject its faults here. */
export type FileSystem = Pick<typeof node, "open" | "rename" | "rm" | "statfs">;

export const nodeFileSystem: FileSystem = node;

/** What a crash leaves of a file that was being written, here or in the compute thread. */
export function isLeftover(name: string): boolean {
  return /\.[0-9a-f]{12}\.partial$/.test(name);
}

export interface DurableOptions {
  /** Permissions of a file that others may not read; without it the user's default. */
  readonly mode?: number;
  readonly fileSystem?: FileSystem | undefined;
}

/**
 * Replaces `file`; when it resolves, the content survives a loss of power. Rejects with DataError where that cannot be said; `file` is
 * then whole, the old or the new one. A failed sync is never tried again on the same descriptor: the system may have dropped what it
 * could not write, and a second sync would say that all is well.
 */
export async function writeDurably(file: string, content: string, options: DurableOptions = {}): Promise<void> {
  const { mode = 0o666, fileSystem = nodeFileSystem } = options;
  const bytes = Buffer.from(content);
  const temporary = `${file}.${randomBytes(6).toString("hex")}.partial`;
  try {
    await checkSpace(dirname(file), bytes.length, fileSystem);
    await writeSynced(temporary, bytes, mode, fileSystem);
    await fileSystem.rename(temporary, file);
    await sync(dirname(file), fileSystem);
  } catch (cause) {
    // Where it cannot be removed either, the next start does it.
    await fileSystem.rm(temporary, { force: true }).catch(() => {});
    throw notDurable(file, cause);
  }
}

function notDurable(file: string, cause: unknown): DataError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new DataError(`${file} cannot be made durable: ${reason}`, "free space on its disk, or use another disk", {
    cause,
  });
}

async function writeSynced(file: string, bytes: Buffer, mode: number, fileSystem: FileSystem): Promise<void> {
  const handle = await fileSystem.open(file, "wx", mode);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function checkSpace(folder: string, sizeBytes: number, fileSystem: FileSystem): Promise<void> {
  const { bavail, bsize, blocks } = await fileSystem.statfs(folder);
  // A file system that counts no blocks does not say how much is left.
  if (blocks === 0 || bavail * bsize >= sizeBytes) return;
  throw new Error(`${sizeBytes} bytes are needed, ${bavail * bsize} are free`);
}

/** A new name in a folder is durable only when the folder is. Rejects with DataError. */
export async function syncFolder(folder: string, fileSystem: FileSystem = nodeFileSystem): Promise<void> {
  try {
    await sync(folder, fileSystem);
  } catch (cause) {
    throw notDurable(folder, cause);
  }
}

async function sync(folder: string, fileSystem: FileSystem): Promise<void> {
  const handle = await fileSystem.open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Removes what crashes left in a folder to which nobody else is writing. */
export async function removeLeftovers(folder: string): Promise<void> {
  const names = (await node.readdir(folder)).filter(isLeftover);
  for (const name of names) await node.rm(join(folder, name), { force: true });
}
