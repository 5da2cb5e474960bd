/** @file A disk whose faults the test decides: the real one, with one operation failing, or stopping as a crash would. */
import type { FileHandle } from "node:fs/promises";
import { type FileSystem, nodeFileSystem } from "../../src/runtime/durable.ts";

export type DiskOperation = "statfs" | "open" | "write" | "sync" | "rename" | "syncFolder";

/** The order in which a file is made durable. */
export const WRITE_ORDER: readonly DiskOperation[] = ["statfs", "open", "write", "sync", "rename", "syncFolder"];

/** What the system says of a disk that is full or broken. */
export function diskFault(code: "ENOSPC" | "EIO"): Error {
  return Object.assign(new Error(`${code}: ${code === "EIO" ? "i/o error" : "no space left on device"}`), { code });
}

export class FaultyDisk implements FileSystem {
  /** Called before each operation, with its file; what it throws is the operation's error, what it awaits delays it. */
  before: (operation: DiskOperation, file: string) => void | Promise<void> = () => {};
  /** Every operation that was begun, in order. */
  readonly begun: DiskOperation[] = [];

  readonly open = (async (file: string, flags?: string, mode?: number) => {
    const isFolder = flags === "r";
    if (!isFolder) await this.#begin("open", file);
    const handle = await nodeFileSystem.open(file, flags, mode);
    const writeFile = handle.writeFile.bind(handle);
    const sync = handle.sync.bind(handle);
    handle.writeFile = (async (bytes: Buffer) => {
      try {
        await this.#begin("write", file);
      } catch (error) {
        // As a full disk does it: part of the file is there.
        await writeFile(bytes.subarray(0, bytes.length / 2));
        throw error;
      }
      await writeFile(bytes);
    }) as FileHandle["writeFile"];
    handle.sync = async () => {
      await this.#begin(isFolder ? "syncFolder" : "sync", file);
      await sync();
    };
    return handle;
  }) as FileSystem["open"];

  readonly rename = (async (from: string, to: string) => {
    await this.#begin("rename", to);
    await nodeFileSystem.rename(from, to);
  }) as FileSystem["rename"];

  readonly rm = nodeFileSystem.rm;

  statfs = (async (folder: string) => {
    await this.#begin("statfs", folder);
    return nodeFileSystem.statfs(folder);
  }) as FileSystem["statfs"];

  async #begin(operation: DiskOperation, file: string): Promise<void> {
    this.begun.push(operation);
    await this.before(operation, file);
  }
}

/** Every way in which a file is damaged: each byte changed, each length cut (none included), one byte more. */
export function* damages(bytes: Buffer): Generator<{ readonly name: string; readonly damaged: Buffer }> {
  for (let at = 0; at < bytes.length; at++) {
    for (const change of [1, 0x20, 0x80]) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= change;
      yield { name: `byte ${at} ^ ${change}`, damaged };
    }
    yield { name: `cut to ${at}`, damaged: bytes.subarray(0, at) };
  }
  yield { name: "longer", damaged: Buffer.concat([bytes, Buffer.from("\n")]) };
}

/** What the work is refused with. Throws where it is not, or with another kind of error. */
export async function refusal<T extends Error>(
  work: Promise<unknown>,
  kind: new (...parameters: never[]) => T,
): Promise<T> {
  const error: unknown = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (!(error instanceof kind)) throw new Error(`no ${kind.name}: ${String(error)}`, { cause: error });
  return error;
}
