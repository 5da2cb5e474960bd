/** @file A request of keys divided by who has them: one message for each server. Pure. */
import { UsageError } from "../../src/types/errors.ts";
import { DataType, FrameKind, type FrameHeader, TENSOR_BYTES_MAX } from "../../src/wire/header.ts";
import { type KeyMap, piecesOf, placesOf } from "../core/key-map.ts";
import { type KeyRange, type RangeSet, sizeOf } from "../core/ranges.ts";

/** One server's part of a request, and what becomes of its answer. */
export interface Part {
  readonly fields: Partial<FrameHeader> & Pick<FrameHeader, "kind">;
  readonly payload: Uint8Array | undefined;
  /** Of a pull: where values go, one behind the other. */
  readonly into: readonly Float32Array[];
}

/** By server. */
export type Parts = ReadonlyMap<number, Part>;
/** What a request is, whoever has the keys. */
export type Cut = (map: KeyMap) => Parts;

interface ShareOfStep {
  readonly step: number;
  readonly share: number;
}

/** @param values of the range; they stay unchanged while the request is open, where they are not copied */
export function rangePush(range: KeyRange, values: Float32Array, { step, share }: ShareOfStep): Cut {
  return byRange(range, (keys) => {
    const part = joined(within(values, range, keys));
    const shape = { dtype: DataType.float32, shape: [part.length] };
    const fields = { kind: FrameKind.push, value: keys[0]!.start, step, microBatch: share, ...shape };
    return { fields, payload: bytesOf(part), into: [] };
  });
}

/** @param array 0: the parameters; from 1 on: the states of the server function */
export function rangePull(range: KeyRange, into: Float32Array, leastVersion: number, array: number): Cut {
  return byRange(range, (keys) => {
    const wanted = { value: keys[0]!.start, microBatch: sizeOf(keys), step: leastVersion, credits: array };
    return { fields: { kind: FrameKind.pull, ...wanted }, payload: undefined, into: within(into, range, keys) };
  });
}

function byRange(range: KeyRange, partOf: (keys: RangeSet) => Part): Cut {
  return (map) => new Map(piecesOf(map, range).map(({ server, keys }) => [server, partOf(keys)]));
}

/** Every server is told, also one without such keys. @param keys ascending; kept, like the values */
export function singlePush(keys: Uint32Array, values: Float32Array, { step, share }: ShareOfStep): Cut {
  return (map) => {
    const places = Map.groupBy(placesOf(map, keys), ({ server }) => server);
    const part = (server: number): Part => {
      const own = places.get(server) ?? [];
      const payload = Buffer.concat([
        ...own.map(({ from, to }) => bytesOf(keys.subarray(from, to))),
        ...own.map(({ from, to }) => bytesOf(values.subarray(from, to))),
      ]);
      return { fields: { kind: FrameKind.pushSparse, step, microBatch: share }, payload, into: [] };
    };
    return new Map([...new Set(map.heads)].map((server) => [server, part(server)]));
  };
}

export function singlePull(keys: Uint32Array, into: Float32Array, leastVersion: number): Cut {
  return (map) => {
    const places = Map.groupBy(placesOf(map, keys), ({ server }) => server);
    const parts = [...places].map(([server, own]): [number, Part] => {
      const payload = joinedBytes(own.map(({ from, to }) => keys.subarray(from, to)));
      const fields = { kind: FrameKind.pullSparse, step: leastVersion };
      return [server, { fields, payload, into: own.map(({ from, to }) => into.subarray(from, to)) }];
    });
    return new Map(parts);
  };
}

/** Values of an answer to where they go, one behind the other. */
export function scatter(payload: Uint8Array, into: readonly Float32Array[]): void {
  let place = 0;
  for (const part of into) {
    bytesOf(part).set(payload.subarray(place, place + part.byteLength));
    place += part.byteLength;
  }
}

/** A message that is too long would end the link, and blame the server. @throws UsageError */
export function checkSizes(parts: Parts): void {
  for (const [server, { payload, into }] of parts) {
    const bytes = Math.max(payload?.byteLength ?? 0, ...into.map(({ byteLength }) => byteLength));
    if (bytes <= TENSOR_BYTES_MAX) continue;
    throw new UsageError(
      `${bytes} bytes in one message with server ${server}, which has at most ${TENSOR_BYTES_MAX}`,
      "use more servers, or name fewer keys at once",
    );
  }
}

export function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** The values of these keys, of each neighbouring ones at once. */
function within(values: Float32Array, range: KeyRange, keys: RangeSet): readonly Float32Array[] {
  return keys.map(({ start, end }) => values.subarray(start - range.start, end - range.start));
}

function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let place = 0;
  for (const part of parts) {
    all.set(part, place);
    place += part.length;
  }
  return all;
}

function joinedBytes(parts: readonly Uint32Array[]): Uint8Array {
  return parts.length === 1 ? bytesOf(parts[0]!) : Buffer.concat(parts.map(bytesOf));
}
