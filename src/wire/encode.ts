/** @file Frames to bytes. The payload is never copied: it is sent from where it lies. */
import { crc32 } from "node:zlib";
import { HEADER_BYTES, writeHeader } from "./header.ts";
import type { FrameFields } from "./header.ts";

const NO_BYTES = new Uint8Array(0);

/** What the link knows and the sender of a frame does not. */
export interface LinkFields {
  readonly sequence: number;
  readonly grantedBytes: number;
}

/**
 * Writes the header of a frame to `target`, with the payload's length and checksum.
 * @param target at least HEADER_BYTES long
 */
export function writeFrameHeader(fields: FrameFields, link: LinkFields, payload: Uint8Array, target: Uint8Array): void {
  const payloadChecksum = payload.byteLength === 0 ? 0 : crc32(payload);
  writeHeader({ ...fields, ...link, payloadBytes: payload.byteLength, payloadChecksum }, target);
}

/**
 * The bytes of one frame.
 * @returns a fresh header, and `payload` itself, which must not change until both are sent
 */
export function encodeFrame(
  fields: FrameFields,
  link: LinkFields,
  payload: Uint8Array = NO_BYTES,
): [header: Uint8Array, payload: Uint8Array] {
  const header = new Uint8Array(HEADER_BYTES);
  writeFrameHeader(fields, link, payload, header);
  return [header, payload];
}
