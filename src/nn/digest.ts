/**
 * @file Digests of parameters: SHA-256 per layer over its little-endian float32 tensors in declaration order (weight
 * row-major, then bias), and the model's over the layers' digests, so that it depends on no cut.
 */
import { createHash } from "node:crypto";
import { assert } from "../types/assert.ts";

const DIGEST_BYTES = 32;
/** What one call of the hash takes: it refuses 2 GiB. */
const PIECE_BYTES = 1 << 30;

/** SHA-256 of `parameters`, the layer's tensors one after the other; 32 bytes. */
export function layerDigest(parameters: Uint8Array): Uint8Array {
  const hash = createHash("sha256");
  for (let done = 0; done < parameters.length; done += PIECE_BYTES) {
    hash.update(parameters.subarray(done, done + PIECE_BYTES));
  }
  return new Uint8Array(hash.digest());
}

/** The canonical hash of a model, in hexadecimal; `digests` are its layers' in layer order, 32 bytes each. */
export function weightsSha256(digests: readonly Uint8Array[]): string {
  const hash = createHash("sha256");
  for (const digest of digests) {
    assert(digest.length === DIGEST_BYTES, `a layer's digest has ${DIGEST_BYTES} bytes`);
    hash.update(digest);
  }
  return hash.digest("hex");
}
