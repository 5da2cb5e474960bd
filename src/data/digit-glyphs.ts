/**
 * @file The ten digits as pen strokes, several ways of writing each: the project's own drawings, from which
 * `digits.ts` makes its samples. Coordinates run from 0 to 20, y downwards, and (10, 10) is the middle.
 */
import { assert } from "../types/assert.ts";

/** Straight pieces of one way to write a digit, `[count * 4]`: x and y of the start, x and y of the end. */
export type Glyph = Float64Array;

/** M x y: lift the pen and go there. L x y: a straight line. Q cx cy x y: a quadratic Bézier curve. */
const PATHS: readonly (readonly string[])[] = [
  [
    "M 10 2 Q 16 2 16 10 Q 16 18 10 18 Q 4 18 4 10 Q 4 2 10 2",
    "M 12 2 Q 5 2 5 10 Q 5 18 10 18 Q 15 18 15 10 Q 15 3 9 2.5",
    "M 10 3 Q 17 3 17 10 Q 17 17 10 17 Q 3 17 3 10 Q 3 3 10 3",
  ],
  ["M 10 2 L 10 18", "M 6 6 L 10 2 L 10 18", "M 6 6 L 10 2 L 10 18 M 6 18 L 14 18"],
  [
    "M 4.5 6 Q 5 2 10 2 Q 15 2 15 6.5 Q 15 10 4.5 18 L 15.5 18",
    "M 5 5 Q 8 1 12 3 Q 16 6 12 11 Q 9 15 5 17 Q 4 13.5 7 14.5 Q 11 17 16 17",
    "M 5 4 Q 14 0 14.5 6 Q 14 10 5 17.5 Q 10 16 15.5 17.5",
  ],
  [
    "M 5 4 Q 8 2 10 2 Q 15 2 15 6 Q 15 9.5 9 9.5 Q 15.5 10 15.5 14 Q 15.5 18 10 18 Q 6 18 4.5 15.5",
    "M 5 2.5 L 15 2.5 L 9 9 Q 15.5 9 15.5 13.5 Q 15.5 18 10 18 Q 6 18 4.5 15.5",
    "M 5.5 3 Q 14 1 13.5 5.5 Q 12 9 8 9.5 Q 16 10 14.5 14.5 Q 12 18.5 5 17",
  ],
  [
    "M 6 2 L 4.5 11 L 15.5 11 M 13 3 L 12 18",
    "M 13 18 L 13 2 L 4 13 L 16 13",
    "M 5.5 3 Q 4 11 7 10.5 Q 12 11 14 9 M 15 2 Q 13 8 13 18",
  ],
  [
    "M 15 2.5 L 6 2.5 L 5 9 Q 8 7.5 10 7.5 Q 15.5 7.5 15.5 12.5 Q 15.5 18 9.5 18 Q 6 18 4.5 15.5",
    "M 15 2 L 7 3 L 6 8.5 Q 16 8 15 13 Q 14 18 5 17",
    "M 6 2.5 L 5.5 9 Q 15 7 15 12.5 Q 15 18 5 17.5 M 6 2.5 L 14.5 2",
  ],
  [
    "M 14 2.5 Q 5 5 5 13 Q 5 18 10 18 Q 15.5 18 15.5 13.5 Q 15.5 9.5 10.5 9.5 Q 6 9.5 5 13",
    "M 12 2 Q 4 10 5 14 Q 6 18 10 18 Q 15 17.5 14.5 13 Q 13 9.5 9 11 Q 6 12.5 6 15",
    "M 8 2 Q 5 8 5 14 Q 6 18 10 17.5 Q 14.5 17 14 13.5 Q 12 10 5.5 14",
  ],
  [
    "M 4.5 2.5 L 15.5 2.5 L 8.5 18",
    "M 4.5 2.5 L 15.5 2.5 L 8.5 18 M 7.5 10 L 14.5 10",
    "M 4.5 5 L 5 2.5 L 15.5 2.5 Q 10 9 9 18",
  ],
  [
    "M 10 9.5 Q 5 9 5 5.5 Q 5 2 10 2 Q 15 2 15 5.5 Q 15 9 10 9.5 Q 4.5 10 4.5 14 Q 4.5 18 10 18 Q 15.5 18 15.5 14 Q 15.5 10 10 9.5",
    "M 14 4 Q 11 1 8 2.5 Q 4 5 9 9 Q 16 13 14 16 Q 11 19.5 7 17 Q 3 14 9 10 Q 14 7 14 4",
    "M 10 9 Q 6 9 6 5.5 Q 6 2 10 2 Q 14 2 14 5.5 Q 14 9 10 9 M 10 9 Q 5 9 5 13.5 Q 5 18 10 18 Q 15 18 15 13.5 Q 15 9 10 9",
  ],
  [
    "M 15 7 Q 15 2 10 2 Q 4.5 2 4.5 6.5 Q 4.5 11 9.5 11 Q 14 11 15 7 Q 15 14 9 18",
    "M 14.5 6.5 Q 14 2 9.5 2.5 Q 5 3 5 7 Q 6 11 10 10.5 Q 14 9 14.5 4 L 14 18",
    "M 13.5 4 Q 6 1 5.5 7 Q 6 11 10 10 Q 14 8 13.5 4 Q 15 13 12.5 18",
  ],
];

/** Straight pieces per L and per Q: short enough that a bent stroke looks bent. */
const PIECES = 5;

/** Ways of writing each digit: `GLYPHS[digit]` has at least one. */
export const GLYPHS: readonly (readonly Glyph[])[] = PATHS.map((variants) => variants.map(flatten));

function flatten(path: string): Glyph {
  const words = path.split(" ");
  const pieces: number[] = [];
  let [x, y] = [0, 0];
  for (let at = 0; at < words.length;) {
    const command = words[at++];
    const count = command === "Q" ? 4 : 2;
    const numbers = words.slice(at, at + count).map(Number);
    at += count;
    const [endX, endY] = numbers.slice(-2) as [number, number];
    assert(/^[MLQ]$/.test(command ?? "") && numbers.every(Number.isFinite), `a stroke cannot read "${path}"`);
    if (command !== "M") {
      // A line is the curve whose control point is its middle.
      const [controlX, controlY] = command === "Q" ? (numbers as [number, number]) : [(x + endX) / 2, (y + endY) / 2];
      pushCurve(pieces, x, y, controlX, controlY, endX, endY);
    }
    [x, y] = [endX, endY];
  }
  return Float64Array.from(pieces);
}

function pushCurve(pieces: number[], x: number, y: number, cx: number, cy: number, endX: number, endY: number): void {
  let [fromX, fromY] = [x, y];
  for (let piece = 1; piece <= PIECES; piece++) {
    const t = piece / PIECES;
    const s = 1 - t;
    const toX = s * s * x + 2 * s * t * cx + t * t * endX;
    const toY = s * s * y + 2 * s * t * cy + t * t * endY;
    pieces.push(fromX, fromY, toX, toY);
    [fromX, fromY] = [toX, toY];
  }
}
