/** @file Data sets of grey images: bytes in memory, given out as float32 in [0, 1]. */
import { createHash } from "node:crypto";
import { assert } from "../types/assert.ts";
import type { DataSet, Split } from "./dataset.ts";

/** Grey images, `pixels` as `[count, features]` bytes, and their labels, `[count]`. */
export interface PixelImages {
  readonly pixels: Uint8Array;
  readonly labels: Uint8Array;
}

/** A byte as float32: byte / 255, rounded once. */
const BYTE_AS_FLOAT = Float32Array.from({ length: 256 }, (_, byte) => byte / 255);

/** Keeps the arrays, which must not change afterwards. */
export function pixelDataSet(name: string, classes: number, train: PixelImages, test: PixelImages): DataSet {
  const features = train.pixels.length / train.labels.length;
  const hash = createHash("sha256");
  for (const { pixels, labels } of [train, test]) {
    assert(pixels.length === features * labels.length, "images of unequal size");
    hash.update(`${labels.length}x${features}\n`).update(pixels).update(labels);
  }
  const sha256 = hash.digest("hex");
  return { name, features, classes, sha256, train: pixelSplit(train, features), test: pixelSplit(test, features) };
}

function pixelSplit({ pixels, labels }: PixelImages, features: number): Split {
  return {
    count: labels.length,
    labels: Int32Array.from(labels),
    fill(sample, into, offset) {
      assert(sample >= 0 && sample < labels.length, `no sample ${sample} among ${labels.length}`);
      const start = sample * features;
      for (let feature = 0; feature < features; feature++) {
        into[offset + feature] = BYTE_AS_FLOAT[pixels[start + feature]!]!;
      }
    },
  };
}
