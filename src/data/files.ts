/** @file Reading whole files with a limit, so that nothing is allocated for a file that cannot be right. */
import { readFile, stat } from "node:fs/promises";
import { DataError } from "../types/errors.ts";

/** The file's bytes; a DataError with this remedy when it is missing, unreadable or larger than `sizeBytesMax`. */
export async function readBounded(file: string, sizeBytesMax: number, remedy: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(file);
    if (size > sizeBytesMax) throw new DataError(`${file} has ${size} bytes; at most ${sizeBytesMax} are read`, remedy);
    return await readFile(file);
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw new DataError(`cannot read ${file}: ${causeOf(error)}`, remedy, { cause: error });
  }
}

/** The system's own words for a failure, in one line. */
export function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ("code" in error && error.code === "ENOENT") return "no such file";
  const inner = error.cause instanceof Error ? ` (${causeOf(error.cause)})` : "";
  return `${error.message}${inner}`;
}
