/**
 * @file The embedded data set: 28x28 grey images of the ten digits, drawn by this file. A sample is one way of writing
 * its digit, moved by a random affine map, bent by a smooth random displacement field, drawn with a pen of random
 * width, softness and strength, and covered with noise. Only + - * /, square roots and comparisons are used, whose results IEEE 754
 * fixes, so the bytes are the same on every machine.
 */
import { defined } from "../types/assert.ts";
import { RandomPurpose, RandomStream } from "../types/random.ts";
import type { DataSet } from "./dataset.ts";
import { type Glyph, GLYPHS } from "./digit-glyphs.ts";
import { Warp } from "./digit-warp.ts";
import { type PixelImages, pixelDataSet } from "./pixels.ts";

const SIDE = 28;
const PIXELS = SIDE * SIDE;
/** Not the job's seed: every job sees the same images. */
const DIGITS_SEED = 282_026;

// How much the samples vary, chosen by trial: a linear model stays below 92 %, and a small MLP passes 96 %.
const WARP = {
  origin: 10,
  target: SIDE / 2,
  rotationMax: 0.14, // 16 degrees
  shearMax: 0.3,
  scaleMin: 0.72,
  scaleMax: 1.15,
  shiftMax: 1.8,
  bendMax: 2.2,
};
const RADIUS_MIN = 1;
const RADIUS_MAX = 1.6;
const SOFTNESS_MIN = 0.8;
const SOFTNESS_MAX = 2;
const STRENGTH_MIN = 0.6;
/** Largest noise, as a part of full ink; where it would be negative on empty paper, it vanishes. */
const NOISE_MAX = 0.1;

/** Ten classes of 784 features: the same bytes whenever and wherever it is called with the same counts. */
export function digitsDataSet(trainCount = 8_000, testCount = 2_000): DataSet {
  return pixelDataSet("digits", GLYPHS.length, drawDigits(0, trainCount), drawDigits(1, testCount));
}

function drawDigits(split: number, count: number): PixelImages {
  const pixels = new Uint8Array(count * PIXELS);
  const labels = new Uint8Array(count);
  const warp = new Warp(WARP);
  const ink = new Float64Array(PIXELS);
  const pieces = new Float64Array(Math.max(...GLYPHS.flat().map((glyph) => glyph.length)));
  for (let sample = 0; sample < count; sample++) {
    const random = new RandomStream(DIGITS_SEED, RandomPurpose.digitShape, sample, split);
    const digit = random.nextBelow(GLYPHS.length);
    const glyph = chooseGlyph(digit, random);
    warp.redraw(random);
    warp.apply(glyph, pieces, glyph.length / 2);
    drawPieces(pieces.subarray(0, glyph.length), ink, random);
    addNoise(ink, pixels.subarray(sample * PIXELS, (sample + 1) * PIXELS), random);
    labels[sample] = digit;
  }
  return { pixels, labels };
}

function chooseGlyph(digit: number, random: RandomStream): Glyph {
  const variants = defined(GLYPHS[digit], `no digit ${digit}`);
  return defined(variants[random.nextBelow(variants.length)], "a variant below the count");
}

/** Replaces `ink`, `[28, 28]`, by the drawing of straight pieces with a round pen, in [0, 1]. */
function drawPieces(pieces: Float64Array, ink: Float64Array, random: RandomStream): void {
  const radius = RADIUS_MIN + random.nextFloat() * (RADIUS_MAX - RADIUS_MIN);
  const softness = SOFTNESS_MIN + random.nextFloat() * (SOFTNESS_MAX - SOFTNESS_MIN);
  const strength = STRENGTH_MIN + random.nextFloat() * (1 - STRENGTH_MIN);
  const reach = radius + softness / 2;
  ink.fill(0);
  for (let at = 0; at < pieces.length; at += 4) {
    const [fromX, fromY, toX, toY] = [pieces[at]!, pieces[at + 1]!, pieces[at + 2]!, pieces[at + 3]!];
    const alongX = toX - fromX;
    const alongY = toY - fromY;
    const lengthSquared = alongX * alongX + alongY * alongY + 1e-9;
    const top = Math.max(0, Math.ceil(Math.min(fromY, toY) - reach));
    const bottom = Math.min(SIDE - 1, Math.floor(Math.max(fromY, toY) + reach));
    const left = Math.max(0, Math.ceil(Math.min(fromX, toX) - reach));
    const right = Math.min(SIDE - 1, Math.floor(Math.max(fromX, toX) + reach));
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const projection = ((x - fromX) * alongX + (y - fromY) * alongY) / lengthSquared;
        const part = projection < 0 ? 0 : projection > 1 ? 1 : projection;
        const awayX = x - fromX - part * alongX;
        const awayY = y - fromY - part * alongY;
        const distance = Math.sqrt(awayX * awayX + awayY * awayY);
        const cover = strength * Math.min(1, (reach - distance) / softness);
        if (cover > ink[y * SIDE + x]!) ink[y * SIDE + x] = cover;
      }
    }
  }
}

/** Writes ink plus noise as bytes: the noise of a pixel is the sum of two uniform bytes of the stream, around zero. */
function addNoise(ink: Float64Array, pixels: Uint8Array, random: RandomStream): void {
  const strength = random.nextFloat() * NOISE_MAX;
  for (let pixel = 0; pixel < PIXELS; pixel += 2) {
    const word = random.nextUint32();
    pixels[pixel] = asByte(ink[pixel]! + strength * ((word & 0xff) / 255 + ((word >>> 8) & 0xff) / 255 - 1));
    pixels[pixel + 1] = asByte(ink[pixel + 1]! + strength * (((word >>> 16) & 0xff) / 255 + (word >>> 24) / 255 - 1));
  }
}

function asByte(value: number): number {
  return value <= 0 ? 0 : value >= 1 ? 255 : Math.floor(value * 255 + 0.5);
}
