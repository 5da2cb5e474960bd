/**
 * @file Matrix products. Every element is one chain over k, from zero upwards, whatever m, n, the transposition and the
 * element's place in a tile: so a product has the same bits however its rows are cut into micro-batches. All three
 * products run the same tile of 4 rows x 8 columns: 8 sums, 2 vectors of b and one broadcast element of a fit the
 * 15 vector registers that V8 has to give on x64, with one to spare for the product where it is not fused. (Measured: 4 x 12,
 * one register too many, half the speed; 6 x 8 8 % faster fused, a third slower exact, and 16 rows do not fill it.) After Goto and van de Geijn 2008.
 */
import { multiplyAdd } from "./lanes";
import { packColumns, packRows, panelPitchBytes } from "./pack";

// @ts-ignore: decorator
@inline
const TILE_ROWS: usize = 4;
// @ts-ignore: decorator
@inline
const TILE_COLUMNS: usize = 8;
// @ts-ignore: decorator
@inline
const TILE_BYTES: usize = 128;
/** Columns of b that are packed at a time: whole cache lines, and 256 KiB at k = 1024. */
// @ts-ignore: decorator
@inline
const BLOCK_COLUMNS: usize = 64;
/** Rows of a transposed a that are packed at a time. */
// @ts-ignore: decorator
@inline
const BLOCK_ROWS: usize = 128;

/** c[4,8] (+)= a[4,k] · panel[k,8]. Row i of a is at a + i·rowBytes, and its next element `stepBytes` further. */
function tile(
  a: usize, rows: usize, rowBytes: usize, stepBytes: usize, panel: usize, k: usize, c: usize, pitchBytes: usize, add: bool,
): void {
  // Rows that do not exist repeat the first one: they are computed, never kept.
  let a1 = rows > 1 ? a + rowBytes : a;
  let a2 = rows > 2 ? a1 + rowBytes : a;
  let a3 = rows > 3 ? a2 + rowBytes : a;
  let s00 = f32x4.splat(0), s01 = s00;
  let s10 = s00, s11 = s00;
  let s20 = s00, s21 = s00;
  let s30 = s00, s31 = s00;
  const end = panel + k * (TILE_COLUMNS << 2);
  // Not unrolled: by four it was measured at 34 GFLOP/s instead of 49.
  do {
    const b0 = v128.load(panel);
    const b1 = v128.load(panel, 16);
    let x = v128.load32_splat(a);
    s00 = multiplyAdd(x, b0, s00);
    s01 = multiplyAdd(x, b1, s01);
    x = v128.load32_splat(a1);
    s10 = multiplyAdd(x, b0, s10);
    s11 = multiplyAdd(x, b1, s11);
    x = v128.load32_splat(a2);
    s20 = multiplyAdd(x, b0, s20);
    s21 = multiplyAdd(x, b1, s21);
    x = v128.load32_splat(a3);
    s30 = multiplyAdd(x, b0, s30);
    s31 = multiplyAdd(x, b1, s31);
    a += stepBytes;
    a1 += stepBytes;
    a2 += stepBytes;
    a3 += stepBytes;
    panel += TILE_COLUMNS << 2;
  } while (panel != end);
  storeRow(c, s00, s01, add);
  storeRow(c + pitchBytes, s10, s11, add);
  storeRow(c + 2 * pitchBytes, s20, s21, add);
  storeRow(c + 3 * pitchBytes, s30, s31, add);
}

// @ts-ignore: decorator
@inline
function storeRow(c: usize, low: v128, high: v128, add: bool): void {
  if (add) {
    low = f32x4.add(v128.load(c), low);
    high = f32x4.add(v128.load(c, 16), high);
  }
  v128.store(c, low);
  v128.store(c, high, 16);
}

/** Moves the part of a computed tile that exists into c. */
function keepEdge(edge: usize, c: usize, pitchBytes: usize, rows: usize, columns: usize, add: bool): void {
  for (let row: usize = 0; row < rows; row++) {
    for (let column: usize = 0; column < columns; column++) {
      const at = c + row * pitchBytes + (column << 2);
      const value = f32.load(edge + row * (TILE_COLUMNS << 2) + (column << 2));
      f32.store(at, add ? f32.load(at) + value : value);
    }
  }
}

/**
 * c[m, columns] (+)= a · panels. `tilePitchBytes` lies between the first rows of two tiles of a; `edge` is TILE_BYTES of
 * scratch for the tiles that stand over the end.
 */
function multiplyPanels(
  a: usize, tilePitchBytes: usize, rowBytes: usize, stepBytes: usize, panels: usize, edge: usize,
  c: usize, cPitchBytes: usize, m: usize, columns: usize, k: usize, add: bool,
): void {
  const panelPitch = panelPitchBytes(TILE_COLUMNS, k);
  for (let row: usize = 0; row < m; row += TILE_ROWS) {
    const rows = min(TILE_ROWS, m - row);
    let panel = panels;
    for (let column: usize = 0; column < columns; column += TILE_COLUMNS) {
      const target = c + (column << 2);
      const kept = min(TILE_COLUMNS, columns - column);
      if (rows == TILE_ROWS && kept == TILE_COLUMNS) {
        tile(a, rows, rowBytes, stepBytes, panel, k, target, cPitchBytes, add);
      } else {
        tile(a, rows, rowBytes, stepBytes, panel, k, edge, TILE_COLUMNS << 2, false);
        keepEdge(edge, target, cPitchBytes, rows, kept, add);
      }
      panel += panelPitch;
    }
    a += tilePitchBytes;
    c += TILE_ROWS * cPitchBytes;
  }
}

/** c[m,n] = a[m,k] · b[k,n]. Sizes are at least 1, in all three products. */
export function matmul(a: usize, b: usize, c: usize, m: usize, n: usize, k: usize, scratch: usize): void {
  const aRow = k << 2;
  const panels = scratch + TILE_BYTES;
  for (let column: usize = 0; column < n; column += BLOCK_COLUMNS) {
    const columns = min(BLOCK_COLUMNS, n - column);
    packColumns(b + (column << 2), n << 2, columns, TILE_COLUMNS, k, panels);
    multiplyPanels(a, TILE_ROWS * aRow, aRow, 4, panels, scratch, c + (column << 2), n << 2, m, columns, k, false);
  }
}

/** c[m,n] = a[m,k] · b[n,k]ᵀ. */
export function matmulTransposedB(a: usize, b: usize, c: usize, m: usize, n: usize, k: usize, scratch: usize): void {
  const rowBytes = k << 2;
  const panels = scratch + TILE_BYTES;
  for (let column: usize = 0; column < n; column += BLOCK_COLUMNS) {
    const columns = min(BLOCK_COLUMNS, n - column);
    packRows(b + column * rowBytes, rowBytes, columns, k, panels);
    multiplyPanels(a, TILE_ROWS * rowBytes, rowBytes, 4, panels, scratch, c + (column << 2), n << 2, m, columns, k, false);
  }
}

/** c[m,n] += a[k,m]ᵀ · b[k,n]: each product is complete before its one addition. */
export function matmulTransposedAAdd(a: usize, b: usize, c: usize, m: usize, n: usize, k: usize, scratch: usize): void {
  const panels = scratch + TILE_BYTES;
  const aPanels = panels + bPanelsBytes(n, k);
  for (let row: usize = 0; row < m; row += BLOCK_ROWS) {
    const rows = min(BLOCK_ROWS, m - row);
    packColumns(a + (row << 2), m << 2, rows, TILE_ROWS, k, aPanels);
    for (let column: usize = 0; column < n; column += BLOCK_COLUMNS) {
      const columns = min(BLOCK_COLUMNS, n - column);
      packColumns(b + (column << 2), n << 2, columns, TILE_COLUMNS, k, panels);
      const target = c + ((row * n + column) << 2);
      multiplyPanels(aPanels, panelPitchBytes(TILE_ROWS, k), 4, TILE_ROWS << 2, panels, scratch, target, n << 2, rows, columns, k, true);
    }
  }
}

function bPanelsBytes(n: usize, k: usize): usize {
  return ((min(BLOCK_COLUMNS, n) + TILE_COLUMNS - 1) / TILE_COLUMNS) * panelPitchBytes(TILE_COLUMNS, k);
}

/** Bytes of scratch that a product with these sizes may use: one tile, a block of b, a block of a transposed a. */
export function matmulScratchBytes(m: usize, n: usize, k: usize): usize {
  const aPanels = ((min(BLOCK_ROWS, m) + TILE_ROWS - 1) / TILE_ROWS) * panelPitchBytes(TILE_ROWS, k);
  return TILE_BYTES + bPanelsBytes(n, k) + aPanels;
}
