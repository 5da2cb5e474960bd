/**
 * @file The IDX files in which MNIST and its kin are published, plain or gzip: a big-endian magic number, the count and
 * the sides of the images, then one byte per pixel or label (http://yann.lecun.com/exdb/mnist/). Strict: what is not
 * exactly such a file is a DataError that names the file, what was expected and what was found.
 */
import { gunzipSync } from "node:zlib";
import { DataError } from "../types/errors.ts";
import { causeOf, readBounded } from "./files.ts";
import type { PixelImages } from "./pixels.ts";

const IMAGES_MAGIC = 2051;
const LABELS_MAGIC = 2049;
const SIDE = 28;
/** The largest published file has 47 MB unpacked. */
const IDX_BYTES_MAX = 256 * 2 ** 20;

/**
 * Reads a pair of files, 28x28 images and their labels.
 *
 * @param classes labels are below this
 * @param remedy what the user can do about a file that is wrong
 */
export async function readIdxPair(
  imagesFile: string,
  labelsFile: string,
  classes: number,
  remedy: string,
): Promise<PixelImages> {
  const pixels = await readIdx(imagesFile, IMAGES_MAGIC, [SIDE, SIDE], remedy);
  const labels = await readIdx(labelsFile, LABELS_MAGIC, [], remedy);
  const imageCount = pixels.length / (SIDE * SIDE);
  if (imageCount !== labels.length) {
    throw new DataError(`${imagesFile} has ${imageCount} images, but ${labelsFile} ${labels.length} labels`, remedy);
  }
  const wrong = labels.findIndex((label) => label >= classes);
  if (wrong >= 0) {
    throw new DataError(`${labelsFile}: label ${wrong} is ${labels[wrong]}, expected 0..${classes - 1}`, remedy);
  }
  return { pixels, labels };
}

/** The bytes behind the header, `[count, ...sides]`. */
async function readIdx(file: string, magic: number, sides: readonly number[], remedy: string): Promise<Uint8Array> {
  const bytes = unpack(await readBounded(file, IDX_BYTES_MAX, remedy), file, remedy);
  const check = (what: string, expected: number | string, found: number, holds = found === expected): void => {
    if (!holds) throw new DataError(`${file}: expected ${what} ${expected}, found ${found}`, remedy);
  };
  const headerBytes = 8 + 4 * sides.length;
  check("a size in bytes of at least", headerBytes, bytes.length, bytes.length >= headerBytes);
  const header = new DataView(bytes.buffer, bytes.byteOffset, headerBytes);
  check("the magic number", magic, header.getUint32(0));
  const count = header.getUint32(4);
  check("a number of items of", "at least 1", count, count >= 1);
  sides.forEach((side, index) => check("images with sides of", side, header.getUint32(8 + 4 * index)));
  const itemBytes = sides.reduce((product, side) => product * side, 1);
  check(`a size for its ${count} items in bytes of`, headerBytes + count * itemBytes, bytes.length);
  return bytes.subarray(headerBytes);
}

function unpack(bytes: Uint8Array, file: string, remedy: string): Uint8Array {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return gunzipSync(bytes, { maxOutputLength: IDX_BYTES_MAX });
  } catch (error) {
    throw new DataError(`${file} is torn or no gzip file: ${causeOf(error)}`, remedy, { cause: error });
  }
}
