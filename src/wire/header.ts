/**
 * @file The header of a frame: 80 bytes, little-endian, with its own CRC-32. Every field is checked before a payload is
 * looked at, and the payload's length is bounded by its kind, so a length field alone never allocates anything.
 *
 * | offset | field | | offset | field |
 * | --- | --- | --- | --- | --- |
 * | 0 | magic u32 | | 32 | rank u8, three zero bytes |
 * | 4 | version u8 | | 36 | dims 4 × u32 (zero beyond the rank) |
 * | 5 | kind u8 | | 52 | sequence u32 |
 * | 6 | dtype u8 | | 56 | value f64 (NaN: absent) |
 * | 7 | direction u8 | | 64 | granted bytes u32 |
 * | 8 | job u64 | | 68 | payload bytes u32 |
 * | 16 | view u32 | | 72 | payload CRC-32 u32 |
 * | 20 | step u32 | | 76 | header CRC-32 u32, over bytes 0 to 75 |
 * | 24 | micro-batch u32 | | | |
 * | 28 | lap u16, credits u16 | | | |
 */
import { crc32 } from "node:zlib";
import { assert } from "../types/assert.ts";
import { ProtocolError } from "../types/errors.ts";

export const HEADER_BYTES = 80;
export const WIRE_VERSION = 1;
export const RANK_MAX = 4;
const MAGIC = 0x504d5452; // "RTMP" in memory order
const CHECKSUM_OFFSET = 76;
const UINT32_MAX = 0xffff_ffff;

export const FrameKind = {
  hello: 1,
  helloAnswer: 2,
  grant: 3,
  goodbye: 4,
  abort: 5,
  activation: 16,
  gradient: 17,
  labels: 18,
  token: 19,
  control: 20,
  evaluation: 21,
  parameters: 22,
  /** A part of a layer's gradient for a replica: `microBatch` is the layer, `value` the part's offset in bytes. */
  replica: 23,
  /** The highest version that all hold: `step` is the version, `microBatch` how many have reported it. No payload. */
  frontier: 24,
  /** All parts of a step have been sent; `value` is the step's loss, or NaN. No payload. */
  replicaDone: 25,
  /** A replica has applied a step: `step` is the version, the payload its digests in JSON. */
  applied: 26,
  // Between a client and a server of keys. `job` is the request's timestamp, or the subscription's number; `lap` is how far it is behind the
  // oldest request that is open; `view` says which keys are whose, and is the request's in its answer; `value` is the first key of the range.
  /** Values of a range. `step`; `microBatch` is the share. */
  push: 32,
  /** Values of single keys, the others of the server being zero: keys as uint32, then as many float32. */
  pushSparse: 33,
  /** For a range: `microBatch` is its length, `step` the least version, `credits` which array (0: the parameters). No payload. */
  pull: 34,
  /** For single keys, as uint32; `step` is the least version. */
  pullSparse: 35,
  /** As `pull`, and for all later versions as well. No payload. */
  subscribe: 36,
  /** A push is applied. No payload. */
  pushed: 37,
  /** Parameters; `step` is their version. */
  pulled: 38,
  announced: 39,
  // Between servers of the chain of a shard, `lap`; `view` is the chain's epoch.
  /** One update: `job` is its place in the order, `step`, `microBatch` the share from 1 or 0 for the step's sum, `value` the first key. */
  keyUpdate: 42,
  /** All up to `job` are held. No payload. */
  keyHas: 43,
  /** A part of the shard's array number `credits`, from the place `value` on. */
  keyCopy: 44,
  /** The copy is whole: `job` updates are in it; the machine's state in JSON. */
  keyCopied: 45,
  // Between a worker and a data server: `step`, `microBatch`; `lap` is 1 for a piece of the test set, whose index is `microBatch`.
  /** No payload. */
  batchWanted: 40,
  /** Features as float32 [rows, features], and behind them labels as int32 [rows]. */
  batch: 41,
  // Between nodes with dynamically allocated keys. The payload: keys as uint32, ascending; behind them, where there are values, those of each key as
  // float32. `view` is the origin's request; `lap` is the origin, or the node that is to be the owner.
  pullOwned: 48,
  /** With what is added. */
  pushOwned: 49,
  localize: 50,
  relocate: 51,
  /** With the values. */
  handOver: 52,
  /** With the values. */
  ownedPulled: 53,
  /** `microBatch` is the number of keys. No payload. */
  ownedPushed: 54,
  /** To node 0, and from it when all have said so. No payload. */
  barrier: 55,
} as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

/** Element type of the payload; `bytes` has no shape. */
export const DataType = { bytes: 0, float32: 1, int32: 2 } as const;
export type DataType = (typeof DataType)[keyof typeof DataType];

export const Direction = { forward: 0, backward: 1 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

const KIB = 1024;
export const TENSOR_BYTES_MAX = 64 * KIB * KIB;
/** A layer that moves travels in parts of this size, the last one shorter. */
export const LAYER_PART_BYTES_MAX = 16 * KIB * KIB;
export const REPLICA_PART_BYTES_MAX = KIB * KIB;
export const TOKEN_BYTES_MAX = KIB * KIB;
/** Before a peer is known, little is taken from it. */
export const HELLO_BYTES_MAX = 4 * KIB;
/** A view with many members, what a node holds of a thousand layers, its report with all their digests. */
export const CONTROL_BYTES_MAX = 256 * KIB;
export const APPLIED_BYTES_MAX = 64 * KIB;

/** Longest payload of each kind, in bytes; a kind that is not here is unknown. */
const PAYLOAD_BYTES_MAX: ReadonlyMap<number, number> = new Map<FrameKind, number>([
  [FrameKind.hello, HELLO_BYTES_MAX],
  [FrameKind.helloAnswer, HELLO_BYTES_MAX],
  [FrameKind.grant, 0],
  [FrameKind.goodbye, 0],
  [FrameKind.abort, HELLO_BYTES_MAX],
  [FrameKind.activation, TENSOR_BYTES_MAX],
  [FrameKind.gradient, TENSOR_BYTES_MAX],
  [FrameKind.labels, TENSOR_BYTES_MAX],
  [FrameKind.token, TOKEN_BYTES_MAX],
  [FrameKind.control, CONTROL_BYTES_MAX],
  [FrameKind.evaluation, TENSOR_BYTES_MAX],
  [FrameKind.parameters, LAYER_PART_BYTES_MAX],
  [FrameKind.replica, REPLICA_PART_BYTES_MAX],
  [FrameKind.frontier, 0],
  [FrameKind.replicaDone, 0],
  [FrameKind.applied, APPLIED_BYTES_MAX],
  [FrameKind.push, TENSOR_BYTES_MAX],
  [FrameKind.pushSparse, TENSOR_BYTES_MAX],
  [FrameKind.pull, 0],
  [FrameKind.pullSparse, TENSOR_BYTES_MAX],
  [FrameKind.subscribe, 0],
  [FrameKind.pushed, 0],
  [FrameKind.pulled, TENSOR_BYTES_MAX],
  [FrameKind.announced, TENSOR_BYTES_MAX],
  [FrameKind.keyUpdate, TENSOR_BYTES_MAX],
  [FrameKind.keyHas, 0],
  [FrameKind.keyCopy, LAYER_PART_BYTES_MAX],
  [FrameKind.keyCopied, CONTROL_BYTES_MAX],
  [FrameKind.batchWanted, 0],
  [FrameKind.batch, TENSOR_BYTES_MAX],
  [FrameKind.pullOwned, TENSOR_BYTES_MAX],
  [FrameKind.pushOwned, TENSOR_BYTES_MAX],
  [FrameKind.localize, TENSOR_BYTES_MAX],
  [FrameKind.relocate, TENSOR_BYTES_MAX],
  [FrameKind.handOver, TENSOR_BYTES_MAX],
  [FrameKind.ownedPulled, TENSOR_BYTES_MAX],
  [FrameKind.ownedPushed, 0],
  [FrameKind.barrier, 0],
]);

/** What a sender says about a frame. */
export interface FrameFields {
  readonly kind: FrameKind;
  readonly dtype: DataType;
  readonly direction: Direction;
  /** Unsigned, 64 bits. */
  readonly job: bigint;
  readonly view: number;
  readonly step: number;
  readonly microBatch: number;
  readonly lap: number;
  /** Leave to send that many more activations, granted with this frame. */
  readonly credits: number;
  /** At most four dimensions; empty for `bytes`. */
  readonly shape: readonly number[];
  /** One number that travels with the frame, such as a step's loss; NaN when absent. */
  readonly value: number;
}

/** A header as it travels: the sender's fields and those that the link fills in. */
export interface FrameHeader extends FrameFields {
  /** Counts the frames of one direction of a stream from 0. */
  readonly sequence: number;
  /** Bytes of earlier frames that the sender of this frame has processed: the other side may send as many more. */
  readonly grantedBytes: number;
  readonly payloadBytes: number;
  readonly payloadChecksum: number;
}

/** Longest payload of a kind in bytes, or undefined for an unknown kind. */
export function payloadBytesMax(kind: number): number | undefined {
  return PAYLOAD_BYTES_MAX.get(kind);
}

/** Fills the fields that a frame does not need with zeros. */
export function frameFields(fields: Partial<FrameFields> & Pick<FrameFields, "kind">): FrameFields {
  return {
    kind: fields.kind,
    dtype: fields.dtype ?? DataType.bytes,
    direction: fields.direction ?? Direction.forward,
    job: fields.job ?? 0n,
    view: fields.view ?? 0,
    step: fields.step ?? 0,
    microBatch: fields.microBatch ?? 0,
    lap: fields.lap ?? 0,
    credits: fields.credits ?? 0,
    shape: fields.shape ?? [],
    value: fields.value ?? Number.NaN,
  };
}

/** Bytes that the shape needs: every dtype but `bytes` has elements of four bytes. */
function shapeBytes(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 4);
}

/** Writes the header to `target` (HEADER_BYTES long). Fields out of range are the programmer's error. */
export function writeHeader(header: FrameHeader, target: Uint8Array): void {
  assert(header.shape.length <= RANK_MAX, `a frame has at most ${RANK_MAX} dimensions`);
  assert(header.payloadBytes <= (payloadBytesMax(header.kind) ?? -1), `payload too long for kind ${header.kind}`);
  assert(
    header.dtype === DataType.bytes ? header.shape.length === 0 : shapeBytes(header.shape) === header.payloadBytes,
    `shape [${header.shape.join(", ")}] does not match ${header.payloadBytes} bytes`,
  );
  const view = new DataView(target.buffer, target.byteOffset, HEADER_BYTES);
  view.setUint32(0, MAGIC, true);
  target[4] = WIRE_VERSION;
  target[5] = header.kind;
  target[6] = header.dtype;
  target[7] = header.direction;
  view.setBigUint64(8, header.job, true);
  setUint32(view, 16, header.view);
  setUint32(view, 20, header.step);
  setUint32(view, 24, header.microBatch);
  setUint16(view, 28, header.lap);
  setUint16(view, 30, header.credits);
  view.setUint32(32, header.shape.length, true);
  for (let axis = 0; axis < RANK_MAX; axis++) setUint32(view, 36 + 4 * axis, header.shape[axis] ?? 0);
  setUint32(view, 52, header.sequence);
  view.setFloat64(56, header.value, true);
  setUint32(view, 64, header.grantedBytes);
  view.setUint32(68, header.payloadBytes, true);
  view.setUint32(72, header.payloadChecksum, true);
  view.setUint32(CHECKSUM_OFFSET, crc32(target.subarray(0, CHECKSUM_OFFSET)), true);
}

function setUint32(view: DataView, offset: number, value: number): void {
  assert(Number.isInteger(value) && value >= 0 && value <= UINT32_MAX, `${value} is not an unsigned 32-bit integer`);
  view.setUint32(offset, value, true);
}

function setUint16(view: DataView, offset: number, value: number): void {
  assert(Number.isInteger(value) && value >= 0 && value <= 0xffff, `${value} is not an unsigned 16-bit integer`);
  view.setUint16(offset, value, true);
}

/**
 * Reads and checks a header.
 * @param source HEADER_BYTES bytes; nothing of it is kept
 * @throws ProtocolError with the field that is wrong
 */
export function readHeader(source: Uint8Array): FrameHeader {
  const view = new DataView(source.buffer, source.byteOffset, HEADER_BYTES);
  if (view.getUint32(0, true) !== MAGIC) throw malformed("it does not begin with the magic number");
  if (view.getUint32(CHECKSUM_OFFSET, true) !== crc32(source.subarray(0, CHECKSUM_OFFSET))) {
    throw malformed("the header's checksum is wrong");
  }
  if (source[4] !== WIRE_VERSION) throw malformed(`wire version ${source[4]}, this build speaks ${WIRE_VERSION}`);
  const rank = view.getUint32(32, true);
  if (rank > RANK_MAX) throw malformed(`rank ${rank} is above ${RANK_MAX}`);
  const shape: number[] = [];
  for (let axis = 0; axis < RANK_MAX; axis++) {
    const dimension = view.getUint32(36 + 4 * axis, true);
    if (axis < rank) shape.push(dimension);
    else if (dimension !== 0) throw malformed(`dimension ${axis} lies beyond rank ${rank}`);
  }
  const header: FrameHeader = {
    kind: source[5] as FrameKind,
    dtype: source[6] as DataType,
    direction: source[7] as Direction,
    job: view.getBigUint64(8, true),
    view: view.getUint32(16, true),
    step: view.getUint32(20, true),
    microBatch: view.getUint32(24, true),
    lap: view.getUint16(28, true),
    credits: view.getUint16(30, true),
    shape,
    sequence: view.getUint32(52, true),
    value: view.getFloat64(56, true),
    grantedBytes: view.getUint32(64, true),
    payloadBytes: view.getUint32(68, true),
    payloadChecksum: view.getUint32(72, true),
  };
  checkMeaning(header);
  return header;
}

function checkMeaning(header: FrameHeader): void {
  const limit = payloadBytesMax(header.kind);
  if (limit === undefined) throw malformed(`kind ${header.kind} is unknown`);
  if (header.payloadBytes > limit) {
    throw malformed(`${header.payloadBytes} bytes of payload, the limit of kind ${header.kind} is ${limit}`);
  }
  if (header.dtype > DataType.int32) throw malformed(`data type ${header.dtype} is unknown`);
  if (header.direction > Direction.backward) throw malformed(`direction ${header.direction} is unknown`);
  const shapeFits =
    header.dtype === DataType.bytes ? header.shape.length === 0 : shapeBytes(header.shape) === header.payloadBytes;
  if (!shapeFits) throw malformed(`shape [${header.shape.join(", ")}] does not match ${header.payloadBytes} bytes`);
}

/** A frame that breaks the protocol. */
export function malformed(cause: string): ProtocolError {
  return new ProtocolError(`malformed frame: ${cause}`, "run the same build on every node, and check the link");
}
