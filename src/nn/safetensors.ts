/**
 * @file Strict reader and writer of safetensors files, synchronous. A file is hostile until read: nothing is allocated
 * from a length field beyond the header's limit, and float32 values must be finite. A file under its final name is
 * complete: it is written beside it, synced and renamed, and the folder is synced. The metadata `crc32` of shards, eight digits a
 * tensor in the order of the data, tells which tensor is damaged. For little-endian machines, as WebAssembly memory is.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import {
  formatHeader,
  HEADER_BYTES_MAX,
  HeaderFault,
  parseHeader,
  type Header,
  type TensorInfo,
} from "./safetensors-header.ts";

const LENGTH_BYTES = 8;
const REMEDY = "use another copy of the file or an older checkpoint";
/** One call of the system reads or writes at most this much. */
const CALL_BYTES_MAX = 1 << 30;
/** Of a tensor that is only checked. */
const PIECE_BYTES = 1024 * 1024;
const CHECKSUMS = "crc32";
const CHECKSUM_LENGTH = 8;

/** An open file whose header has been checked. Close it. */
export class SafetensorsFile {
  readonly file: string;
  readonly #descriptor: number;
  readonly #dataStartBytes: number;
  readonly #tensors: ReadonlyMap<string, TensorInfo>;
  /** By tensor; empty in files without. */
  readonly #checksums: ReadonlyMap<string, string>;
  /** Without the checksums. */
  readonly metadata: ReadonlyMap<string, string>;

  /** Throws `DataError` where the file is missing, torn or not in the format. */
  constructor(file: string) {
    this.file = file;
    this.#descriptor = attempt(file, () => openSync(file, constants.O_RDONLY | constants.O_NONBLOCK));
    try {
      const { header, headerBytes } = attempt(file, () => readHeader(this.#descriptor));
      this.#dataStartBytes = LENGTH_BYTES + headerBytes;
      this.#tensors = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
      this.#checksums = attempt(file, () => checksumsOf(header));
      this.metadata = new Map([...header.metadata].filter(([key]) => key !== CHECKSUMS));
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  get tensors(): readonly TensorInfo[] {
    return [...this.#tensors.values()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  /** Fills `into`, the caller's, with a float32 tensor of exactly `shape`. Throws `DataError`; `into` is then undefined. */
  readFloat32(name: string, shape: readonly number[], into: Float32Array): void {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw fault(this.file, `tensor ${name}: missing`);
    const { dtype, offsetBytes } = tensor;
    if (dtype !== "F32" || tensor.shape.join() !== shape.join()) {
      throw fault(this.file, `tensor ${name}: ${dtype} [${tensor.shape.join()}], not F32 [${shape.join()}]`);
    }
    assert(into.byteLength === tensor.sizeBytes, "the array fits the shape");
    attempt(this.file, () => readFully(this.#descriptor, bytesOf(into), this.#dataStartBytes + offsetBytes));
    this.#compare(tensor, crc32(bytesOf(into)));
    const index = firstNotFinite(into);
    if (index !== -1) throw fault(this.file, `tensor ${name}: not finite at offset ${offsetBytes + 4 * index}`);
  }

  /** Reads every tensor once. Throws `DataError` that names the first one that is damaged. */
  checkTensors(): void {
    const piece = new Uint8Array(PIECE_BYTES);
    for (const tensor of this.#tensors.values()) {
      let checksum = 0;
      for (let done = 0; done < tensor.sizeBytes; done += piece.length) {
        const part = piece.subarray(0, tensor.sizeBytes - done);
        const offsetBytes = this.#dataStartBytes + tensor.offsetBytes + done;
        attempt(this.file, () => readFully(this.#descriptor, part, offsetBytes));
        checksum = crc32(part, checksum);
      }
      this.#compare(tensor, checksum);
    }
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #compare({ name, offsetBytes, sizeBytes }: TensorInfo, checksum: number): void {
    const stated = this.#checksums.get(name);
    if (stated === undefined || stated === checksumText(checksum)) return;
    const start = this.#dataStartBytes + offsetBytes;
    throw fault(this.file, `tensor ${name}: damaged between offset ${start} and ${start + sizeBytes}`);
  }
}

function checksumsOf({ tensors, metadata }: Header): ReadonlyMap<string, string> {
  const text = metadata.get(CHECKSUMS);
  if (text === undefined) return new Map();
  if (text.length !== CHECKSUM_LENGTH * tensors.length)
    throw new HeaderFault(`metadata ${CHECKSUMS}: not one a tensor`);
  return new Map(
    tensors.map(({ name }, i) => [name, text.slice(CHECKSUM_LENGTH * i, CHECKSUM_LENGTH * (i + 1))] as const),
  );
}

function checksumText(checksum: number): string {
  return checksum.toString(16).padStart(CHECKSUM_LENGTH, "0");
}

/** Index, or -1. Five times faster than `findIndex`. */
function firstNotFinite(array: Float32Array): number {
  for (let i = 0; i < array.length; i++) if (!Number.isFinite(array[i])) return i;
  return -1;
}

/** Where a shard differs from what was written, given that it does: the tensor and its offsets, or the header. */
export function describeDamage(file: string): string {
  try {
    const opened = new SafetensorsFile(file);
    try {
      opened.checkTensors();
    } finally {
      opened.close();
    }
  } catch (error) {
    if (error instanceof DataError) return error.message.slice(`${file}: `.length);
    throw error;
  }
  return "its header is not the one that was written";
}

export interface Float32Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export interface WrittenFile {
  readonly sizeBytes: number;
  /** Of the whole file, in hexadecimal. */
  readonly sha256: string;
}

/** The metadata with a checksum of each tensor, so that a reader can name the one that is damaged. */
export function withChecksums(
  tensors: readonly Float32Tensor[],
  metadata: ReadonlyMap<string, string>,
): ReadonlyMap<string, string> {
  const checksums = tensors.map(({ data }) => checksumText(crc32(bytesOf(data)))).join("");
  return new Map([...metadata, [CHECKSUMS, checksums]]);
}

/** Writes the tensors in order; when it returns, they are on the disk. Throws `DataError`, and leaves no file then. */
export function writeSafetensors(
  file: string,
  tensors: readonly Float32Tensor[],
  metadata: ReadonlyMap<string, string>,
): WrittenFile {
  const parts = [...formatStart(tensors, metadata), ...tensors.map(({ data }) => bytesOf(data))];
  const temporary = `${file}.${randomBytes(6).toString("hex")}.partial`;
  try {
    checkSpace(
      dirname(file),
      parts.reduce((sum, { length }) => sum + length, 0),
    );
    const written = writeParts(temporary, parts);
    renameSync(temporary, file);
    syncFolder(dirname(file));
    return written;
  } catch (cause) {
    try {
      unlinkSync(temporary);
    } catch {
      // It was never made, or already has its final name.
    }
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new DataError(`cannot write ${file}: ${reason}`, "free space or choose another folder", { cause });
  }
}

/** A disk that has no place must not be filled to its end first: others write to it too. */
function checkSpace(folder: string, sizeBytes: number): void {
  const { bavail, bsize, blocks } = statfsSync(folder);
  // A file system that counts no blocks does not say how much is left.
  if (blocks === 0 || bavail * bsize >= sizeBytes) return;
  throw new Error(`${sizeBytes} bytes are needed, ${bavail * bsize} are free`);
}

function formatStart(tensors: readonly Float32Tensor[], metadata: ReadonlyMap<string, string>): Uint8Array[] {
  let offsetBytes = 0;
  const infos = tensors.map(({ name, shape, data }): TensorInfo => {
    assert(data.length === shape.reduce((product, size) => product * size, 1), `tensor ${name} fits its shape`);
    const info = { name, dtype: "F32", shape, offsetBytes, sizeBytes: data.byteLength };
    offsetBytes += data.byteLength;
    return info;
  });
  const header = formatHeader({ tensors: infos, metadata });
  assert(header.length <= HEADER_BYTES_MAX, "the header is within the reader's limit");
  const length = new Uint8Array(LENGTH_BYTES);
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
  return [length, header];
}

function writeParts(file: string, parts: readonly Uint8Array[]): WrittenFile {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const descriptor = openSync(file, "wx");
  try {
    for (const part of parts) {
      for (let done = 0; done < part.length;) {
        const count = writeSync(descriptor, part, done, Math.min(part.length - done, CALL_BYTES_MAX));
        hash.update(part.subarray(done, done + count));
        done += count;
      }
      sizeBytes += part.length;
    }
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  return { sizeBytes, sha256: hash.digest("hex") };
}

/** A rename is durable only when its folder is. */
function syncFolder(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function readHeader(descriptor: number): { header: Header; headerBytes: number } {
  const status = fstatSync(descriptor);
  if (!status.isFile()) throw new HeaderFault("not a regular file");
  const length = new Uint8Array(LENGTH_BYTES);
  if (status.size < LENGTH_BYTES) throw new HeaderFault(`${status.size} bytes are too few`);
  readFully(descriptor, length, 0);
  const headerBytes = new DataView(length.buffer).getBigUint64(0, true);
  if (headerBytes > HEADER_BYTES_MAX || Number(headerBytes) > status.size - LENGTH_BYTES) {
    throw new HeaderFault(`header of ${headerBytes} bytes, beyond the file or the limit of ${HEADER_BYTES_MAX}`);
  }
  const bytes = new Uint8Array(Number(headerBytes));
  readFully(descriptor, bytes, LENGTH_BYTES);
  const header = parseHeader(bytes, status.size - LENGTH_BYTES - bytes.length);
  return { header, headerBytes: bytes.length };
}

function readFully(descriptor: number, into: Uint8Array, offsetBytes: number): void {
  for (let done = 0; done < into.length;) {
    const count = readSync(descriptor, into, done, Math.min(into.length - done, CALL_BYTES_MAX), offsetBytes + done);
    if (count === 0) throw new HeaderFault(`ends at offset ${offsetBytes + done}`);
    done += count;
  }
}

/** Runs a piece of reading; what the system or the header complains of becomes a `DataError` with the file's name. */
function attempt<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw fault(file, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

function fault(file: string, reason: string, cause?: unknown): DataError {
  return new DataError(`${file}: ${reason}`, REMEDY, { cause });
}

function bytesOf(array: Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
