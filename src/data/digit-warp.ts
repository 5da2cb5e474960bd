/**
 * @file Random deformations of the plane, drawn once and applied to many points: an affine map, then a smooth
 * displacement field (the elastic distortion of Simard, Steinkraus and Platt 2003, with B-splines on a lattice in the
 * place of a Gaussian filter). Uses + - * / alone: the same bits on every machine.
 */
import type { RandomStream } from "../types/random.ts";

export interface WarpInit {
  /** Point that is mapped to `target` before the shift. */
  readonly origin: number;
  readonly target: number;
  /** Largest tangent of half the angle of rotation. */
  readonly rotationMax: number;
  readonly shearMax: number;
  readonly scaleMin: number;
  readonly scaleMax: number;
  /** In pixels, as is `bendMax`, the largest displacement of a lattice point. */
  readonly shiftMax: number;
  readonly bendMax: number;
}

/** Pixels between lattice points, and points per side: from one spacing before the image to one behind it. */
const LATTICE_SPACING = 7;
const LATTICE_SIDE = 7;

export class Warp {
  readonly #init: WarpInit;
  readonly #bendX = new Float64Array(LATTICE_SIDE * LATTICE_SIDE);
  readonly #bendY = new Float64Array(LATTICE_SIDE * LATTICE_SIDE);
  #matrix = { xx: 1, xy: 0, x0: 0, yx: 0, yy: 1, y0: 0 };

  constructor(init: WarpInit) {
    this.#init = init;
  }

  /** Replaces the deformation by a new one. */
  redraw(random: RandomStream): void {
    const { origin, target, rotationMax, shearMax, scaleMin, scaleMax, shiftMax, bendMax } = this.#init;
    const half = symmetric(random) * rotationMax;
    const cosine = (1 - half * half) / (1 + half * half);
    const sine = (2 * half) / (1 + half * half);
    const shear = symmetric(random) * shearMax;
    const scaleX = scaleMin + random.nextFloat() * (scaleMax - scaleMin);
    const scaleY = scaleMin + random.nextFloat() * (scaleMax - scaleMin);
    const xx = cosine * scaleX;
    const xy = (cosine * shear - sine) * scaleY;
    const yx = sine * scaleX;
    const yy = (sine * shear + cosine) * scaleY;
    const x0 = target - (xx + xy) * origin + symmetric(random) * shiftMax;
    const y0 = target - (yx + yy) * origin + symmetric(random) * shiftMax;
    this.#matrix = { xx, xy, x0, yx, yy, y0 };
    for (let point = 0; point < this.#bendX.length; point++) {
      this.#bendX[point] = symmetric(random) * bendMax;
      this.#bendY[point] = symmetric(random) * bendMax;
    }
  }

  /** Maps `count` points, x and y in turn, from `points` to `into`, which has room for them. */
  apply(points: Float64Array, into: Float64Array, count: number): void {
    const { xx, xy, x0, yx, yy, y0 } = this.#matrix;
    for (let at = 0; at < 2 * count; at += 2) {
      const x = xx * points[at]! + xy * points[at + 1]! + x0;
      const y = yx * points[at]! + yy * points[at + 1]! + y0;
      into[at] = x + bendAt(this.#bendX, x, y);
      into[at + 1] = y + bendAt(this.#bendY, x, y);
    }
  }
}

/** Uniform in [-1, 1). */
function symmetric(random: RandomStream): number {
  return 2 * random.nextFloat() - 1;
}

/** The field at (x, y): quadratic B-splines over the nine nearest lattice points. */
function bendAt(lattice: Float64Array, x: number, y: number): number {
  const column = latticeCell(x);
  const row = latticeCell(y);
  const u = clamp(x / LATTICE_SPACING + 1 - column);
  const v = clamp(y / LATTICE_SPACING + 1 - row);
  const top = bendInRow(lattice, (row - 1) * LATTICE_SIDE + column, u);
  const middle = bendInRow(lattice, row * LATTICE_SIDE + column, u);
  const bottom = bendInRow(lattice, (row + 1) * LATTICE_SIDE + column, u);
  return blend(top, middle, bottom, v);
}

function bendInRow(lattice: Float64Array, at: number, u: number): number {
  return blend(lattice[at - 1]!, lattice[at]!, lattice[at + 1]!, u);
}

/** Index of the lattice point nearest to a coordinate, one away from the border at least. */
function latticeCell(coordinate: number): number {
  const nearest = Math.floor(coordinate / LATTICE_SPACING + 1.5);
  return nearest < 1 ? 1 : nearest > LATTICE_SIDE - 2 ? LATTICE_SIDE - 2 : nearest;
}

/** Distance from the nearest lattice point, in [-1/2, 1/2] also for points beyond the lattice. */
function clamp(offset: number): number {
  return offset < -0.5 ? -0.5 : offset > 0.5 ? 0.5 : offset;
}

function blend(before: number, at: number, after: number, offset: number): number {
  const left = 0.5 - offset;
  const right = 0.5 + offset;
  return 0.5 * left * left * before + (0.75 - offset * offset) * at + 0.5 * right * right * after;
}
