/** @file Frames: every split of the bytes decodes equally, every flipped byte is found, nothing is allocated on trust. */
import fc from "fast-check";
import { crc32 } from "node:zlib";
import { concat } from "uint8arrays";
import { describe, expect, test } from "vitest";
import { ProtocolError } from "../../src/types/errors.ts";
import { FrameDecoder } from "../../src/wire/decoder.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import {
  APPLIED_BYTES_MAX,
  CONTROL_BYTES_MAX,
  DataType,
  Direction,
  FrameKind,
  frameFields,
  HEADER_BYTES,
  HELLO_BYTES_MAX,
  LAYER_PART_BYTES_MAX,
  payloadBytesMax,
  REPLICA_PART_BYTES_MAX,
  TENSOR_BYTES_MAX,
  TOKEN_BYTES_MAX,
} from "../../src/wire/header.ts";
import type { FrameFields } from "../../src/wire/header.ts";

interface Message {
  fields: FrameFields;
  payload: Uint8Array;
}

const uint32 = fc.integer({ min: 0, max: 0xffff_ffff });
const uint16 = fc.integer({ min: 0, max: 0xffff });
const message: fc.Arbitrary<Message> = fc
  .record({
    kind: fc.constantFrom(...Object.values(FrameKind).filter((kind) => payloadBytesMax(kind)! > 0)),
    dtype: fc.constantFrom(DataType.bytes, DataType.float32, DataType.int32),
    direction: fc.constantFrom(Direction.forward, Direction.backward),
    job: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    view: uint32,
    step: uint32,
    microBatch: uint32,
    lap: uint16,
    credits: uint16,
    value: fc.double(),
    dimensions: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 4 }),
    bytes: fc.uint8Array({ maxLength: 300 }),
  })
  .map(({ dimensions, bytes, ...rest }) => {
    const shape = rest.dtype === DataType.bytes ? [] : dimensions;
    const length = shape.reduce((product, dimension) => product * dimension, 4);
    const payload =
      rest.dtype === DataType.bytes ? bytes : Uint8Array.from({ length }, (_, index) => (index * 37) % 256);
    return { fields: { ...rest, shape }, payload };
  });

const encodeAll = (messages: readonly Message[], grantedBytes = 0): Uint8Array =>
  concat(messages.flatMap(({ fields, payload }, sequence) => encodeFrame(fields, { sequence, grantedBytes }, payload)));

const decodeAll = (chunks: readonly Uint8Array[]): Frame[] => {
  const decoder = new FrameDecoder((header) => new Uint8Array(header.payloadBytes));
  const frames = [...decoder.decode(chunks)];
  if (!decoder.atBoundary) throw new ProtocolError("torn", "none");
  return frames;
};

const cut = (bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] => {
  const places = [0, ...cuts.map((share) => Math.floor(share * bytes.length)).toSorted((a, b) => a - b), bytes.length];
  return places.slice(1).map((end, index) => bytes.subarray(places[index], end));
};

const example = (kind: FrameKind = FrameKind.activation, length = 8): Uint8Array =>
  encodeAll([{ fields: frameFields({ kind }), payload: new Uint8Array(length).fill(7) }]);

/** Changes a field and makes the header's checksum right again, as a hostile sender would. */
function forge(bytes: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  change(view);
  view.setUint32(HEADER_BYTES - 4, crc32(copy.subarray(0, HEADER_BYTES - 4)), true);
  return copy;
}

describe("frames", () => {
  test("any split of the bytes gives back the same frames", () => {
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 5 }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 }),
        uint32,
        (messages, cuts, grantedBytes) => {
          const frames = decodeAll(cut(encodeAll(messages, grantedBytes), cuts));
          expect(frames.length).toBe(messages.length);
          frames.forEach(({ header, payload }, sequence) => {
            expect(header).toMatchObject({ ...messages[sequence]?.fields, sequence, grantedBytes });
            expect(payload).toEqual(messages[sequence]?.payload);
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  test("one byte at a time", () => {
    const bytes = example();
    expect(decodeAll(Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(decodeAll([bytes]));
  });

  test("the payload is not copied on the way out", () => {
    const payload = new Uint8Array(16);
    const [header, sent] = encodeFrame(
      frameFields({ kind: FrameKind.gradient }),
      { sequence: 0, grantedBytes: 0 },
      payload,
    );
    expect(sent).toBe(payload);
    expect(header.byteLength).toBe(HEADER_BYTES);
  });

  test("any single changed byte is found", () => {
    const bytes = encodeAll([
      {
        fields: frameFields({ kind: FrameKind.activation, dtype: DataType.float32, shape: [2, 3] }),
        payload: new Uint8Array(24).fill(3),
      },
      { fields: frameFields({ kind: FrameKind.token }), payload: new Uint8Array(9) },
    ]);
    for (let offset = 0; offset < bytes.length; offset++) {
      for (const mask of [1, 0x80, 0xff]) {
        const damaged = bytes.slice();
        damaged[offset] = (damaged[offset] ?? 0) ^ mask;
        expect(() => decodeAll([damaged]), `byte ${offset} xor ${mask}`).toThrow(ProtocolError);
      }
    }
  });

  test("a stream that ends inside a frame is torn, and says so", () => {
    const bytes = example();
    for (let length = 1; length < bytes.length; length++) {
      const decoder = new FrameDecoder((header) => new Uint8Array(header.payloadBytes));
      expect([...decoder.decode([bytes.subarray(0, length)])]).toEqual([]);
      expect(decoder.atBoundary).toBe(false);
    }
  });

  test("garbage is refused", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: HEADER_BYTES, maxLength: 400 }), (garbage) => {
        expect(() => decodeAll([garbage])).toThrow(ProtocolError);
      }),
    );
  });

  test.each([
    ["another version", (view: DataView) => view.setUint8(4, 2), "version"],
    ["an unknown kind", (view: DataView) => view.setUint8(5, 200), "kind"],
    ["an unknown data type", (view: DataView) => view.setUint8(6, 9), "data type"],
    ["an unknown direction", (view: DataView) => view.setUint8(7, 2), "direction"],
    ["a rank of five", (view: DataView) => view.setUint32(32, 5, true), "rank"],
    ["dimensions without rank", (view: DataView) => view.setUint32(36, 5, true), "beyond rank"],
    [
      "a shape of another size",
      (view: DataView) => (view.setUint8(6, 1), view.setUint8(32, 1), view.setUint32(36, 9, true)),
      "shape",
    ],
    ["an oversize payload", (view: DataView) => view.setUint32(68, TENSOR_BYTES_MAX + 1, true), "limit"],
    [
      "an oversize control frame",
      (view: DataView) => (view.setUint8(5, FrameKind.control), view.setUint32(68, CONTROL_BYTES_MAX + 1, true)),
      "limit",
    ],
    ["a sequence that skips", (view: DataView) => view.setUint32(52, 1, true), "frame 1 came where frame 0 was due"],
  ])("%s is refused before the receiver is asked for memory", (_name, change, reason) => {
    let asked = 0;
    const decoder = new FrameDecoder((header) => (asked++, new Uint8Array(header.payloadBytes)));
    const forged = forge(example(), change);
    expect(() => [...decoder.decode([forged])]).toThrow(ProtocolError);
    const again = new FrameDecoder(() => new Uint8Array(8));
    expect(() => [...again.decode([forged])]).toThrow(reason);
    expect(asked).toBe(0);
  });

  const KIB = 1024;
  const LIMITS: Readonly<Record<keyof typeof FrameKind, number>> = {
    ...{ hello: HELLO_BYTES_MAX, helloAnswer: HELLO_BYTES_MAX, grant: 0, goodbye: 0, abort: HELLO_BYTES_MAX },
    ...{ activation: TENSOR_BYTES_MAX, gradient: TENSOR_BYTES_MAX, labels: TENSOR_BYTES_MAX },
    ...{ token: TOKEN_BYTES_MAX, control: CONTROL_BYTES_MAX, evaluation: TENSOR_BYTES_MAX },
    ...{ parameters: LAYER_PART_BYTES_MAX, replica: REPLICA_PART_BYTES_MAX },
    ...{ frontier: 0, replicaDone: 0, applied: APPLIED_BYTES_MAX },
    ...{ push: TENSOR_BYTES_MAX, pushSparse: TENSOR_BYTES_MAX, pull: 0, pullSparse: TENSOR_BYTES_MAX },
    ...{ subscribe: 0, pushed: 0, pulled: TENSOR_BYTES_MAX, announced: TENSOR_BYTES_MAX },
    ...{ keyUpdate: TENSOR_BYTES_MAX, keyHas: 0, keyCopy: LAYER_PART_BYTES_MAX, keyCopied: CONTROL_BYTES_MAX },
    ...{ batchWanted: 0, batch: TENSOR_BYTES_MAX },
    ...{ pullOwned: TENSOR_BYTES_MAX, pushOwned: TENSOR_BYTES_MAX, localize: TENSOR_BYTES_MAX },
    ...{ relocate: TENSOR_BYTES_MAX, handOver: TENSOR_BYTES_MAX, ownedPulled: TENSOR_BYTES_MAX },
    ...{ ownedPushed: 0, barrier: 0 },
  };

  test("the limits are as documented, and each number is of one kind", () => {
    expect([HELLO_BYTES_MAX, CONTROL_BYTES_MAX, APPLIED_BYTES_MAX]).toEqual([4 * KIB, 256 * KIB, 64 * KIB]);
    expect([REPLICA_PART_BYTES_MAX, TOKEN_BYTES_MAX]).toEqual([KIB * KIB, KIB * KIB]);
    const numbers: readonly number[] = Object.values(FrameKind);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (let kind = 0; kind < 256; kind++) expect(payloadBytesMax(kind) !== undefined).toBe(numbers.includes(kind));
  });

  test.each(Object.entries(LIMITS))("%s carries %i bytes and not one more", (name, limit) => {
    const kind = FrameKind[name as keyof typeof FrameKind];
    const [header] = encodeFrame(frameFields({ kind }), { sequence: 0, grantedBytes: 0 }, new Uint8Array(limit));
    let asked: number | undefined;
    const decoder = new FrameDecoder(({ payloadBytes }) => new Uint8Array((asked = payloadBytes)));
    const frames = [...decoder.decode([header])];
    expect([frames.length, asked]).toEqual(limit === 0 ? [1, undefined] : [0, limit]);
    const forged = forge(header, (view) => view.setUint32(68, limit + 1, true));
    expect(() => [...new FrameDecoder(() => new Uint8Array(limit + 1)).decode([forged])]).toThrow("limit");
    expect(() =>
      encodeFrame(frameFields({ kind }), { sequence: 0, grantedBytes: 0 }, new Uint8Array(limit + 1)),
    ).toThrow("too long");
  });

  test("a repeated frame is refused", () => {
    expect(() => decodeAll([example(), example()])).toThrow("frame 0 came where frame 1 was due");
  });

  test("the receiver's plan may refuse, and its memory is used as it is", () => {
    const refusing = new FrameDecoder(() => {
      throw new ProtocolError("this edge expects [4]", "none");
    });
    expect(() => [...refusing.decode([example()])]).toThrow("this edge expects [4]");
    const memory = new Uint8Array(new SharedArrayBuffer(8));
    const frames = [...new FrameDecoder(() => memory).decode([example()])];
    expect(frames[0]?.payload).toBe(memory);
    expect([...memory]).toEqual([7, 7, 7, 7, 7, 7, 7, 7]);
  });

  test("memory is asked for only after the frame before was taken", () => {
    const log: string[] = [];
    const bytes = encodeAll(
      [0, 1].map(() => ({ fields: frameFields({ kind: FrameKind.token }), payload: new Uint8Array(4) })),
    );
    const decoder = new FrameDecoder((header) => (log.push(`ask ${header.sequence}`), new Uint8Array(4)));
    for (const { header } of decoder.decode([bytes])) log.push(`handled ${header.sequence}`);
    expect(log).toEqual(["ask 0", "handled 0", "ask 1", "handled 1"]);
  });

  test("fields out of range are the programmer's error", () => {
    const encode = (fields: Partial<FrameFields>) => () =>
      encodeFrame(frameFields({ kind: FrameKind.control, ...fields }), { sequence: 0, grantedBytes: 0 });
    expect(encode({ step: -1 })).toThrow("unsigned 32-bit");
    expect(encode({ lap: 65536 })).toThrow("unsigned 16-bit");
    expect(encode({ shape: [1, 1, 1, 1, 1] })).toThrow("dimensions");
    expect(encode({ dtype: DataType.float32, shape: [3] })).toThrow("does not match");
  });
});
