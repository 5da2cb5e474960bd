/**
 * @file Small records on the disk, one line a field: checksum, name, value as JSON. Any byte that is changed, cut or added is found, and
 * the field is named. The checksum is the first half of a SHA-256: against faults of the disk, not against an attacker.
 */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";

export type RecordFields = Readonly<Record<string, unknown>>;

/** Of a record's text. */
const RECORD_BYTES_MAX = 1024 * 1024;
const CHECKSUM_LENGTH = 32;

/** Names without spaces; values that JSON can hold. */
export function sealRecord(fields: RecordFields): string {
  const lines = Object.entries(fields).map(([name, value]) => {
    const content = `${name} ${JSON.stringify(value)}`;
    return `${checksum(content)} ${content}\n`;
  });
  const text = lines.join("");
  assert(Buffer.byteLength(text) <= RECORD_BYTES_MAX, `a record has at most ${RECORD_BYTES_MAX} bytes`);
  return text;
}

/** The values of exactly these fields. Throws DataError with the field and its offset where the text is not what was sealed. */
export function openRecord<Name extends string>(
  file: string,
  bytes: Buffer,
  names: readonly Name[],
  remedy: string,
): Readonly<Record<Name, unknown>> {
  const values = {} as Record<Name, unknown>;
  let offset = 0;
  for (const name of names) {
    const end = bytes.indexOf("\n", offset);
    const line = bytes.subarray(offset, Math.max(end, offset));
    const content = line.subarray(CHECKSUM_LENGTH + 1).toString();
    const isWhole = line.equals(Buffer.from(`${checksum(content)} ${content}`)) && content.startsWith(`${name} `);
    if (!isWhole) throw new DataError(`${file} is damaged at offset ${offset}, in ${name}`, remedy);
    values[name] = JSON.parse(content.slice(name.length + 1));
    offset = end + 1;
  }
  if (offset === bytes.length) return values;
  throw new DataError(`${file} is damaged at offset ${offset}: bytes after the last field`, remedy);
}

/** Undefined where there is no such file. Throws DataError as `openRecord` does, and where the file cannot be read. */
export async function readRecord<Name extends string>(
  file: string,
  names: readonly Name[],
  remedy: string,
): Promise<Readonly<Record<Name, unknown>> | undefined> {
  let bytes: Buffer;
  try {
    const { size } = await stat(file);
    if (size > RECORD_BYTES_MAX) throw new DataError(`${file} is damaged: ${size} bytes are no record`, remedy);
    bytes = await readFile(file);
  } catch (cause) {
    if (cause instanceof DataError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new DataError(`${file} cannot be read: ${(cause as Error).message}`, remedy, { cause });
  }
  return openRecord(file, bytes, names, remedy);
}

function checksum(content: string): string {
  return createHash("sha256").update(content).digest("hex").slice(0, CHECKSUM_LENGTH);
}
