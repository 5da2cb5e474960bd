/** @file Requests of keys as frames: what a client says, checked against the server's keys before anything is allocated. */
import { ProtocolError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, FrameKind, type FrameFields, type FrameHeader } from "../../src/wire/header.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { ShardInput } from "../core/shard.ts";
import type { Values } from "./store.ts";

/** Under the data plane: whoever has such a stream with a node is its neighbour. Servers may have keys of several jobs, each apart from the others. */
export function keysProtocol(job: string): string {
  return `/ringtmp/data/ps/1/${job}`;
}

/** Bytes of a key and its value. */
const PAIR_BYTES = 8;
const KEY_BYTES = 4;

/** What a client's frame says. */
export interface Received {
  readonly input: ShardInput;
  /** Of a push. */
  readonly values?: Values;
  /** Of a pull of single keys. */
  readonly keys?: Uint32Array;
  /** Of a pull of a range: 0 for the parameters, else which state of the server function, from 1. */
  readonly part?: number;
}

/**
 * Memory for a client's payload; for that of a range from `place`. Throws ProtocolError for a frame that no client sends to the server of these
 * keys.
 */
export function memoryFor(header: FrameHeader, shard: KeyRange, place: (sizeBytes: number) => Uint8Array): Uint8Array {
  const keys = shard.end - shard.start;
  const { kind, payloadBytes, dtype, shape } = header;
  switch (kind) {
    case FrameKind.push:
      if (dtype !== DataType.float32 || shape.length !== 1) throw wrong("a push without float32 values");
      checkRange(header.value, shape[0]!, shard);
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
export function inputOf(client: number, { header, payload }: Frame, shard: KeyRange): Received {
  const { view: timestamp, lap, step, microBatch, value } = header;
  const request = { client, timestamp, oldest: timestamp - lap };
  switch (header.kind) {
    case FrameKind.push: {
      const length = header.shape[0]!;
      const range = { start: value, end: value + length };
      const values = new Float32Array(payload.buffer, payload.byteOffset, length);
      const input: ShardInput = { kind: "push", ...request, step, share: microBatch, keys: [range] };
      return { input, values: { kind: "dense", range, values } };
    }
    case FrameKind.pushSparse: {
      const count = payload.byteLength / PAIR_BYTES;
      const keys = new Uint32Array(payload.buffer, payload.byteOffset, count);
      checkKeys(keys, shard);
      const values = new Float32Array(payload.buffer, payload.byteOffset + KEY_BYTES * count, count);
      const input: ShardInput = { kind: "push", ...request, step, share: microBatch, keys: [shard] };
      return { input, values: { kind: "sparse", keys, values } };
    }
    case FrameKind.pull:
      checkRange(value, microBatch, shard);
      return {
        input: { kind: "pull", ...request, leastVersion: step, keys: [{ start: value, end: value + microBatch }] },
        part: header.credits,
      };
    case FrameKind.pullSparse: {
      const keys = new Uint32Array(payload.buffer, payload.byteOffset, payload.byteLength / KEY_BYTES);
      checkKeys(keys, shard);
      if (keys.length === 0) throw wrong("a pull of no key");
      const hull = { start: keys[0]!, end: keys.at(-1)! + 1 };
      return { input: { kind: "pull", ...request, leastVersion: step, keys: [hull], single: keys }, keys };
    }
    case FrameKind.subscribe: {
      checkRange(value, microBatch, shard);
      const keys = [{ start: value, end: value + microBatch }];
      return { input: { kind: "subscribe", client, subscription: timestamp, leastVersion: step, keys } };
    }
    default:
      throw wrong(`a frame of kind ${header.kind}`);
  }
}

/** The fields of a request; `oldest`: the client's oldest open one. */
export function requestFields(
  kind: FrameKind,
  timestamp: number,
  oldest: number,
): Pick<FrameFields, "kind" | "view" | "lap"> {
  return { kind, view: timestamp, lap: timestamp - oldest };
}

function checkRange(start: number, length: number, shard: KeyRange): void {
  const isIn = Number.isInteger(start) && start >= shard.start && length > 0 && start + length <= shard.end;
  if (!isIn) throw wrong(`keys [${start}, ${start + length}) at the server of [${shard.start}, ${shard.end})`);
}

function checkKeys(keys: Uint32Array, shard: KeyRange): void {
  let before = shard.start - 1;
  for (const key of keys) {
    if (key <= before || key >= shard.end) throw wrong(`key ${key} behind ${before} of [${shard.start}, ${shard.end})`);
    before = key;
  }
}

function wrong(what: string): ProtocolError {
  return new ProtocolError(
    `a worker sent what this server does not take: ${what}`,
    "run the same build and job on every node",
  );
}
