/** @file Requests of keys as frames: what a client says, checked against the server's keys before anything is allocated. */
import { ProtocolError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, FrameKind, type FrameFields, type FrameHeader } from "../../src/wire/header.ts";
import { keysFrom } from "../core/key-map.ts";
import { intersection, type KeyRange, placeOf as placeOfKey, type RangeSet, sizeOf } from "../core/ranges.ts";
import type { Values } from "./store.ts";

/** Under the data plane: whoever has such a stream with a node is its neighbour. Servers may have keys of several jobs, each apart from the others. */
export function keysProtocol(job: string): string {
  return `/ringtmp/data/ps/1/${job}`;
}

/** Bytes of a key and its value. */
const PAIR_BYTES = 8;
const KEY_BYTES = 4;

/** What a client's frame says. */
export interface Request {
  readonly kind: "push" | "pull" | "subscribe";
  /** Which keys are whose, as the client knows it. */
  readonly view: number;
  readonly timestamp: number;
  readonly oldest: number;
  /** Of a push; the least version of the others. */
  readonly step: number;
  readonly share: number;
  /** The server's keys that it speaks of, in order. */
  readonly keys: RangeSet;
  /** Of single keys: ascending. */
  readonly single: Uint32Array | undefined;
  /** Of a push. */
  readonly values: Float32Array | undefined;
  /** Memory of the server that is to be given back. */
  readonly place: Uint8Array | undefined;
  /** Of a pull of a range: 0 for the parameters, else which state of the server function, from 1. */
  readonly array: number;
}

/**
 * Memory for a client's payload; for that of a range from `place`. Throws ProtocolError for a frame that no client sends to the server of these
 * keys; undefined: it is not known yet what these are.
 */
export function memoryFor(
  header: FrameHeader,
  own: RangeSet | undefined,
  place: (sizeBytes: number) => Uint8Array,
): Uint8Array {
  const keys = own === undefined ? Infinity : sizeOf(own);
  const { kind, payloadBytes, dtype, shape } = header;
  switch (kind) {
    case FrameKind.push:
      if (dtype !== DataType.float32 || shape.length !== 1) throw wrong("a push without float32 values");
      if (own !== undefined) checkRange(header.value, shape[0]!, own);
      return place(payloadBytes);
    case FrameKind.pushSparse:
      if (payloadBytes % PAIR_BYTES !== 0 || payloadBytes > PAIR_BYTES * keys) throw wrong("pairs of key and value");
      return new Uint8Array(payloadBytes);
    case FrameKind.pullSparse:
      if (payloadBytes % KEY_BYTES !== 0 || payloadBytes > KEY_BYTES * keys) throw wrong("keys");
      return new Uint8Array(payloadBytes);
    default:
      throw wrong(`a frame of kind ${kind}`);
  }
}

/** Throws ProtocolError as `memoryFor`, and for keys that are not ascending keys of the server. */
export function requestOf({ header, payload }: Frame, own: RangeSet): Request {
  const { view, lap, step, microBatch, value, credits } = header;
  const timestamp = Number(header.job);
  const given = { view, timestamp, oldest: timestamp - lap, step, share: microBatch };
  const none = { single: undefined, values: undefined, place: undefined, array: 0 };
  switch (header.kind) {
    case FrameKind.push: {
      const length = header.shape[0]!;
      const values = new Float32Array(payload.buffer, payload.byteOffset, length);
      return { ...none, ...given, kind: "push", keys: checkRange(value, length, own), values, place: payload };
    }
    case FrameKind.pushSparse: {
      const count = payload.byteLength / PAIR_BYTES;
      const single = singleKeys(payload, count, own);
      const values = new Float32Array(payload.buffer, payload.byteOffset + KEY_BYTES * count, count);
      return { ...none, ...given, kind: "push", keys: own, single, values };
    }
    case FrameKind.pull:
      return { ...none, ...given, kind: "pull", keys: checkRange(value, microBatch, own), array: credits };
    case FrameKind.pullSparse: {
      const single = singleKeys(payload, payload.byteLength / KEY_BYTES, own);
      if (single.length === 0) throw wrong("a pull of no key");
      const hull = { start: single[0]!, end: single.at(-1)! + 1 };
      return { ...none, ...given, kind: "pull", keys: intersection([hull], own), single };
    }
    case FrameKind.subscribe:
      return { ...none, ...given, kind: "subscribe", keys: checkRange(value, microBatch, own) };
    default:
      throw wrong(`a frame of kind ${header.kind}`);
  }
}

/** Memory of a frame that came from `place`. */
export function placeOf({ header, payload }: Frame): Uint8Array | undefined {
  return header.kind === FrameKind.push ? payload : undefined;
}

/** What a push brings for these keys, a range among those that it speaks of. */
export function valuesFor({ keys, single, values }: Request, range: KeyRange): Values | undefined {
  if (values === undefined) return undefined;
  if (single !== undefined) return { kind: "sparse", keys: single, values };
  const before = sizeOf(intersection(keys, [{ start: 0, end: range.start }]));
  return { kind: "dense", range, values: values.subarray(before, before + range.end - range.start) };
}

/** Single keys that lie in the range: places in the list, from, up to and without to. */
export function singlesIn(single: Uint32Array, { start, end }: KeyRange): readonly [from: number, to: number] {
  return [placeOfKey(single, start), placeOfKey(single, end)];
}

/** The fields of a request; `oldest`: the client's oldest open one. */
export function requestFields(
  kind: FrameKind,
  { view, timestamp, oldest }: { readonly view: number; readonly timestamp: number; readonly oldest: number },
): Pick<FrameFields, "kind" | "job" | "lap" | "view"> {
  return { kind, view, job: BigInt(timestamp), lap: timestamp - oldest };
}

function checkRange(start: number, length: number, own: RangeSet): RangeSet {
  const isNumber = Number.isInteger(start) && length > 0;
  const keys = isNumber ? keysFrom(own, start, length) : [];
  if (keys[0]?.start === start && sizeOf(keys) === length) return keys;
  throw wrong(`${length} keys from ${start} on at the server of ${textOf(own)}`);
}

function singleKeys(payload: Uint8Array, count: number, own: RangeSet): Uint32Array {
  const keys = new Uint32Array(payload.buffer, payload.byteOffset, count);
  let before = -1;
  let range = 0;
  for (const key of keys) {
    while (range < own.length && own[range]!.end <= key) range += 1;
    if (key <= before || key < (own[range]?.start ?? Infinity))
      throw wrong(`key ${key} behind ${before} of ${textOf(own)}`);
    before = key;
  }
  return keys;
}

const textOf = (own: RangeSet): string => own.map(({ start, end }) => `[${start}, ${end})`).join(" ");

function wrong(what: string): ProtocolError {
  return new ProtocolError(
    `a worker sent what this server does not take: ${what}`,
    "run the same build and job on every node",
  );
}
