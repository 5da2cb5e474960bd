/** @file IDX files: what is whole is read, plain and gzip; each way of being wrong is named. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readIdxPair } from "../../src/data/idx.ts";
import { loadMnist } from "../../src/data/mnist.ts";
import { failureOf } from "../helpers/failures.ts";
import { hasMnist, MNIST_DIR } from "../helpers/shared-data.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ringtmp-idx-"));
});
afterEach(() => rm(folder, { recursive: true }));

function idx(header: readonly number[], items: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(4 * header.length + items.length);
  header.forEach((word, index) => bytes.writeUInt32BE(word, 4 * index));
  bytes.set(items, 4 * header.length);
  return bytes;
}

const pixels = Uint8Array.from({ length: 3 * 784 }, (_, index) => (index * 7) % 256);
const images = idx([2051, 3, 28, 28], pixels);
const labels = idx([2049, 3], Uint8Array.of(9, 0, 4));

/** Reads a pair with this content. */
async function read(imageBytes: Uint8Array, labelBytes: Uint8Array) {
  await writeFile(join(folder, "images"), imageBytes);
  await writeFile(join(folder, "labels"), labelBytes);
  return readIdxPair(join(folder, "images"), join(folder, "labels"), 10, "fetch it again");
}

describe("readIdxPair", () => {
  it.each([
    ["plain", images, labels],
    ["gzip", gzipSync(images), gzipSync(labels)],
    ["mixed", images, gzipSync(labels)],
  ])("reads %s files", async (_, imageBytes, labelBytes) => {
    const pair = await read(imageBytes, labelBytes);
    expect(Buffer.compare(pair.pixels, pixels)).toBe(0);
    expect([...pair.labels]).toEqual([9, 0, 4]);
  });

  const packed = gzipSync(images);
  const broken = Uint8Array.from(packed);
  broken[packed.length - 8]! ^= 1; // the checksum
  it.each<[string, Uint8Array, Uint8Array, RegExp]>([
    ["labels for images", labels, labels, /images: .*at least 16, found 11/],
    ["images for labels", images, images, /labels: expected the magic number 2049, found 2051/],
    ["a little-endian magic", Uint8Array.from(images).fill(3, 0, 1), labels, /images: expected the magic number 2051/],
    ["an empty file", new Uint8Array(), labels, /images: expected a size in bytes of at least 16, found 0/],
    ["no items", idx([2051, 0, 28, 28], new Uint8Array()), labels, /images: .*at least 1, found 0/],
    ["other sides", idx([2051, 3, 28, 27], pixels), labels, /images: expected images with sides of 28, found 27/],
    ["a byte too few", images.subarray(0, -1), labels, /images: .*3 items in bytes of 2368, found 2367/],
    ["a byte too many", Buffer.concat([images, Buffer.of(0)]), labels, /images: .*2368, found 2369/],
    ["a count beyond memory", idx([2051, 0xffffffff, 28, 28], pixels), labels, /images: .*found 2368/],
    ["unequal counts", images, idx([2049, 2], Uint8Array.of(1, 2)), /images has 3 images, but .*labels 2 labels/],
    ["a wrong label", images, idx([2049, 3], Uint8Array.of(1, 10, 2)), /labels: label 1 is 10, expected 0\.\.9/],
    ["a truncated gzip", packed.subarray(0, -20), labels, /images is torn or no gzip file: unexpected end of file/],
    ["a damaged gzip", broken, labels, /images is torn or no gzip file: incorrect data check/],
  ])("rejects %s", async (_, imageBytes, labelBytes, message) => {
    const failure = await failureOf(read(imageBytes, labelBytes));
    expect(failure).toMatch(/^DataError: .* \| fetch it again$/);
    expect(failure).toMatch(message);
  });

  it("rejects a gzip that unpacks beyond the limit, and a file that is beyond it", { timeout: 60_000 }, async () => {
    const bomb = gzipSync(Buffer.alloc(257 * 2 ** 20), { level: 1 });
    expect(await failureOf(read(bomb, labels))).toContain("torn or no gzip file");
    expect(await failureOf(read(Buffer.alloc(257 * 2 ** 20), labels))).toContain("at most 268435456 are read");
  });
});

describe("loadMnist", () => {
  it("says what to do when the folder or a file is missing", async () => {
    const missing = await failureOf(loadMnist("fashion-mnist", join(folder, "nowhere")));
    expect(missing).toMatch(
      /^DataError: .*nowhere has no train-images-idx3-ubyte\.gz \| .*ringtmp data get fashion-mnist.*--data-dir/,
    );
    await writeFile(join(folder, "train-images-idx3-ubyte"), images);
    expect(await failureOf(loadMnist("mnist", folder))).toContain("has no train-labels-idx1-ubyte.gz");
  });

  it("reads both splits from plain and gzip files of one folder", async () => {
    await writeFile(join(folder, "train-images-idx3-ubyte"), images);
    await writeFile(join(folder, "train-labels-idx1-ubyte.gz"), gzipSync(labels));
    await writeFile(
      join(folder, "t10k-images-idx3-ubyte.gz"),
      gzipSync(idx([2051, 1, 28, 28], pixels.subarray(784, 1568))),
    );
    await writeFile(join(folder, "t10k-labels-idx1-ubyte"), idx([2049, 1], Uint8Array.of(5)));
    const data = await loadMnist("mnist", folder);
    expect([data.train.count, data.test.count, data.features]).toEqual([3, 1, 784]);
    const [train, test] = [new Float32Array(784), new Float32Array(784)];
    data.train.fill(1, train, 0);
    data.test.fill(0, test, 0);
    expect(test).toEqual(train);
    expect(train).toEqual(Float32Array.from(pixels.subarray(784, 1568), (byte) => byte / 255));
    expect([...data.test.labels]).toEqual([5]);
  });

  it.skipIf(!hasMnist)("reads 8,000 and 2,000 digits of MNIST", async () => {
    const data = await loadMnist("mnist", MNIST_DIR);
    expect(data).toMatchObject({ name: "mnist", features: 784, classes: 10 });
    expect([data.train.count, data.test.count]).toEqual([8_000, 2_000]);
    expect(new Set(data.train.labels).size).toBe(10);
    const bytes = gunzipSync(readFileSync(join(MNIST_DIR, "t10k-images-idx3-ubyte.gz")));
    const image = new Float32Array(784);
    data.test.fill(1_999, image, 0);
    expect(image).toEqual(Float32Array.from(bytes.subarray(-784), (byte) => byte / 255));
  });
});
