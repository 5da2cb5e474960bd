/**
 * @file A 128-bit digest of arrays, by integer arithmetic alone, so that every build and machine has the same one. It finds
 * accidents, not forgeries. Four accumulators of 128 bits take 16 bytes each in turn: rotate by 5 bytes, add. When the
 * rotations are through, after 1024 bytes, a multiplication sets the next 1024 apart. Every step is bijective in the
 * accumulator and in the word, and so is the end in each accumulator: a single changed word changes the digest for certain.
 * Two changes can cancel where they lie in the same 1024 bytes and meet in the same bit of the same accumulator.
 */

/** 16 rounds, after which a rotation by 5 bytes is back where it began, of 16 elements. */
// @ts-ignore: decorator
@inline
const CHUNK: usize = 256;

// @ts-ignore: decorator
@inline
function rotate(a: v128): v128 {
  return i8x16.shuffle(a, a, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4);
}

/** Odd factors (of xxHash, by Yann Collet), and a shift that brings high bits down. */
// @ts-ignore: decorator
@inline
function mix(a: v128): v128 {
  const product = i32x4.mul(a, i32x4(0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f));
  return v128.xor(product, i32x4.shr_u(product, 15));
}

export function digestBegin(accumulators: usize, count: usize): void {
  for (let j: usize = 0; j < 4; j++) {
    v128.store(accumulators + (j << 4), mix(i32x4.splat((<i32>count << 2) + <i32>j + 1)));
  }
}

export function digestAdd(accumulators: usize, x: usize, count: usize): void {
  let a = v128.load(accumulators);
  let b = v128.load(accumulators, 16);
  let c = v128.load(accumulators, 32);
  let d = v128.load(accumulators, 48);
  for (; count >= CHUNK; count -= CHUNK) {
    for (let round = 0; round < 16; round++) {
      a = i32x4.add(rotate(a), v128.load(x));
      b = i32x4.add(rotate(b), v128.load(x, 16));
      c = i32x4.add(rotate(c), v128.load(x, 32));
      d = i32x4.add(rotate(d), v128.load(x, 48));
      x += 64;
    }
    a = mix(a);
    b = mix(b);
    c = mix(c);
    d = mix(d);
  }
  v128.store(accumulators, a);
  v128.store(accumulators, b, 16);
  v128.store(accumulators, c, 32);
  v128.store(accumulators, d, 48);
  for (let j: usize = 0; j < count; j++) addWord(accumulators + ((j & 3) << 4), x + (j << 2));
}

/** Of the end of an array, which is shorter than a chunk. */
function addWord(accumulator: usize, x: usize): void {
  v128.store(accumulator, mix(i32x4.add(rotate(v128.load(accumulator)), v128.load32_zero(x))));
}

export function digestEnd(accumulators: usize, digest: usize): void {
  let result = v128.load(digest);
  for (let j: usize = 0; j < 4; j++) {
    result = v128.xor(result, v128.load(accumulators + (j << 4)));
    for (let round = 0; round < 4; round++) result = rotate(mix(result));
  }
  v128.store(digest, result);
}
