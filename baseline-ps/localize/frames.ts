/** @file What nodes say to each other, as frames; what comes is checked before anything is allocated, and before the machine hears it. */
import { ProtocolError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, type FrameFields, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { Message } from "./core/messages.ts";

/** Of the keys of one group. */
export interface KeySpace {
  readonly nodes: number;
  /** Keys are 0 to `keys` - 1. */
  readonly keys: number;
  /** Values of a key. */
  readonly length: number;
}

/** A view of each key's values. */
export type Values = Float32Array;

const WORD_BYTES = 4;
const WITH_VALUES: readonly FrameKind[] = [FrameKind.pushOwned, FrameKind.handOver, FrameKind.ownedPulled];

export interface Encoded {
  readonly fields: Partial<FrameFields> & Pick<FrameFields, "kind">;
  readonly payload?: Uint8Array;
}

/** Bytes of so many keys with their values. */
export const payloadBytes = (keys: number, length: number): number => WORD_BYTES * keys * (1 + length);

/** @param write puts the values of the key at `place` of `keys` at `offset` of `into`; left out where there are none */
export function encodeKeys(
  keys: readonly number[],
  length: number,
  write?: (place: number, into: Float32Array, offset: number) => void,
): Uint8Array {
  const bytes = new Uint8Array(payloadBytes(keys.length, write === undefined ? 0 : length));
  new Uint32Array(bytes.buffer, 0, keys.length).set(keys);
  if (write === undefined) return bytes;
  const values = new Float32Array(bytes.buffer, WORD_BYTES * keys.length);
  for (let place = 0; place < keys.length; place += 1) write(place, values, place * length);
  return bytes;
}

/** A message that the machine sends; those with values of a store are made where it is. */
export function encode(message: Exclude<Message<Values>, { kind: "handOver" | "pulled" }>, length: number): Encoded {
  switch (message.kind) {
    case "pull": {
      const { origin: lap, request: view, keys } = message;
      return { fields: { kind: FrameKind.pullOwned, view, lap }, payload: encodeKeys(keys, length) };
    }
    case "push": {
      const { origin: lap, request: view, keys, values } = message;
      const payload = encodeKeys(keys, length, (place, into, offset) => into.set(values[place]!, offset));
      return { fields: { kind: FrameKind.pushOwned, view, lap }, payload };
    }
    case "localize":
    case "relocate":
      return {
        fields: { kind: FrameKind[message.kind], lap: message.owner },
        payload: encodeKeys(message.keys, length),
      };
    case "pushed":
      return { fields: { kind: FrameKind.ownedPushed, view: message.request, microBatch: message.count } };
  }
}

/** Memory for a payload. Throws ProtocolError for one that is no list of keys of this space, with values or without. */
export function memoryFor({ kind, dtype, payloadBytes: bytes }: FrameHeader, { keys, length }: KeySpace): Uint8Array {
  const eachBytes = payloadBytes(1, WITH_VALUES.includes(kind) ? length : 0);
  if (dtype !== DataType.bytes || bytes % eachBytes !== 0 || bytes > keys * eachBytes) throw wrong(`${bytes} bytes`);
  return new Uint8Array(bytes);
}

/** Throws ProtocolError for a frame that no node of this group sends. */
export function decode({ header, payload }: Frame, space: KeySpace): Message<Values> {
  const { kind, view: request, lap, microBatch } = header;
  if (kind === FrameKind.ownedPushed) return { kind: "pushed", request, count: microBatch };
  const { keys, values } = decodeKeys(payload, WITH_VALUES.includes(kind) ? space.length : 0, space);
  switch (kind) {
    case FrameKind.pullOwned:
      return { kind: "pull", origin: nodeOf(lap, space), request, keys, values };
    case FrameKind.pushOwned:
      return { kind: "push", origin: nodeOf(lap, space), request, keys, values };
    case FrameKind.localize:
      return { kind: "localize", owner: nodeOf(lap, space), keys };
    case FrameKind.relocate:
      return { kind: "relocate", owner: nodeOf(lap, space), keys };
    case FrameKind.handOver:
      return { kind: "handOver", keys, values };
    case FrameKind.ownedPulled:
      return { kind: "pulled", request, keys, values };
    default:
      throw wrong(`a frame of kind ${kind}`);
  }
}

/** @param length values of a key; 0: there are none */
function decodeKeys(
  payload: Uint8Array,
  length: number,
  { keys: count }: KeySpace,
): { readonly keys: readonly number[]; readonly values: readonly Values[] } {
  const number = payload.byteLength / payloadBytes(1, length);
  const keys = [...new Uint32Array(payload.buffer, payload.byteOffset, number)];
  for (const [place, key] of keys.entries()) {
    if (key >= count || (place > 0 && keys[place - 1]! >= key)) throw wrong(`key ${key} at place ${place}`);
  }
  if (number === 0) throw wrong("no key");
  if (length === 0) return { keys, values: [] };
  const start = payload.byteOffset + WORD_BYTES * number;
  const values = keys.map((_, place) => new Float32Array(payload.buffer, start + WORD_BYTES * length * place, length));
  return { keys, values };
}

function nodeOf(lap: number, { nodes }: KeySpace): number {
  if (lap >= nodes) throw wrong(`node ${lap} of ${nodes}`);
  return lap;
}

function wrong(what: string): ProtocolError {
  return new ProtocolError(
    `a node sent what this one does not take: ${what}`,
    "run the same build and job on every node",
  );
}
