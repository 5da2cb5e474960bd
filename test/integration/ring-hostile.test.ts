/**
 * @file A neighbour that breaks the protocol on the edges of a real node: the link ends with a reason, the run with an operating
 * error, and the process lives.
 */
import { crc32 } from "node:zlib";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { cutLayers, joinRing, type Ring } from "../../ring/index.ts";
import { DATA_PROTOCOL } from "../../ring/runtime/edges.ts";
import { Link, type LinkEnd, type Receiver } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { NetworkError, NodeLostError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import { DataType, FrameKind, frameFields, type FrameFields } from "../../src/wire/header.ts";
import { formRing, jobOf, ringInit, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";
import { syntheticDataSet } from "../../src/data/synthetic.ts";

const JOB = 0x00c0ffee00c0ffeen;
const settings = tinySettings({ steps: 1_000 });
const job = jobOf(settings);
const data = syntheticDataSet({ classes: 4, features: 6, samples: 48, test: 11 }, settings.seed);
const scratch = new Scratch();
afterAll(() => scratch.remove());

/** Takes whatever comes, and shows the first frame of each kind. */
class Listener implements Receiver {
  readonly #first = new Map<number, PromiseWithResolvers<Frame>>();
  readonly destination: Receiver["destination"] = (header) => new Uint8Array(header.payloadBytes);
  readonly handle = (frame: Frame): void => this.#of(frame.header.kind).resolve(frame);

  first(kind: FrameKind): Promise<Frame> {
    return soon(this.#of(kind).promise, `a frame of kind ${kind}`);
  }

  #of(kind: number): PromiseWithResolvers<Frame> {
    const found = this.#first.get(kind) ?? Promise.withResolvers<Frame>();
    this.#first.set(kind, found);
    return found;
  }
}

/** Two nodes of a ring: one is real, the other one speaks on its edges what a test tells it to. */
class Duel {
  readonly listener = new Listener();
  readonly #transports: readonly Transport[];
  readonly #real: Ring;
  readonly #fake: Transport;
  readonly #peers: readonly string[];
  /** How the real node's run ended. */
  readonly ended: Promise<unknown>;

  private constructor(transports: readonly Transport[], real: Ring, fake: Transport) {
    this.#transports = transports;
    this.#real = real;
    this.#fake = fake;
    this.#peers = transports.map(({ peerId }) => peerId);
    this.ended = soon(
      real.train(scratch.folder()).then(
        () => "it was not refused",
        (error: unknown) => error,
      ),
      "the end of the run",
    ).catch((error: unknown) => error);
  }

  /** @param realNode 0: the real node founds and holds the first stage. */
  static async form(realNode: 0 | 1): Promise<Duel> {
    const network = new MemoryNetwork();
    const transports = [network.join("node-0"), network.join("node-1")] as const;
    const fake = transports[1 - realNode]!;
    let duel: Duel | undefined;
    // The fake forms the ring like any node, but takes the streams of its edges itself.
    const accept = (stream: ByteStream): void => {
      const receiver: Receiver = {
        destination: (h) => duel!.listener.destination(h),
        handle: (f) => duel!.listener.handle(f),
      };
      Link.accept(stream, () => ({ kind: "accept", answer: {}, receiver })).catch(() => {});
    };
    const mask = (transport: Transport): Transport => ({
      ...{ peerId: transport.peerId, addresses: transport.addresses },
      dial: (...given) => transport.dial(...given),
      handle: (protocol, handler) => transport.handle(protocol, protocol === DATA_PROTOCOL ? accept : handler),
      close: () => transport.close(),
    });
    const [founding, joining] = [transports[0], transports[1]].map((each) => (each === fake ? mask(each) : each));
    const rings = await soon(
      Promise.all([
        joinRing(ringInit(founding!, { kind: "founder", job, data })),
        joinRing(ringInit(joining!, { kind: "joiner", address: transports[0].addresses[0]!, expected: {} })),
      ]),
      "the formation",
    );
    duel = new Duel(transports, rings[realNode], fake);
    return duel;
  }

  dial(transport: Transport = this.#fake): Promise<ByteStream> {
    const target = this.#transports.find(({ peerId }) => peerId === this.#peers[this.#real.node])!;
    return soon(transport.dial(target.addresses, DATA_PROTOCOL), "a dial");
  }

  /** Opens an edge to the real node, as its neighbour would but for `changes`. */
  async open(direction: "forward" | "backward", changes: Record<string, unknown> = {}): Promise<Link> {
    const hello = { kind: "edge", job: job.job, view: 0, direction, ...changes };
    const { link } = await soon(Link.open(await this.dial(), hello, new Listener()), "an edge");
    return link;
  }

  /** Columns of what crosses the edge. */
  get width(): number {
    const [[, end]] = cutLayers(this.#real.view.layerCosts, 2) as readonly [readonly [number, number]];
    return [9, 5, 7, 4][end - 1]!;
  }

  /** The fake dies. */
  vanish(): Promise<void> {
    return this.#fake.close();
  }

  async close(): Promise<void> {
    await Promise.all(this.#transports.map((transport) => transport.close()));
    await this.ended;
  }
}

const duels: Duel[] = [];
afterEach(async () => {
  for (const duel of duels.splice(0)) await duel.close();
});

async function duelWith(realNode: 0 | 1): Promise<Duel> {
  const duel = await Duel.form(realNode);
  duels.push(duel);
  return duel;
}

const send = (link: Link, fields: Partial<FrameFields> & Pick<FrameFields, "kind">, payload?: Uint8Array): void => {
  link.send({ job: JOB, dtype: DataType.bytes, ...fields }, payload).catch(() => {});
};
const floats = (count: number): Uint8Array => new Uint8Array(4 * count);
/** What the last stage owes the first: shaped like what came. */
const gradientLike = (frame: Frame) => ({
  kind: FrameKind.gradient,
  dtype: DataType.float32,
  shape: frame.header.shape,
});

async function expectRefusal(duel: Duel, link: Link, reason: string): Promise<void> {
  const end: LinkEnd = await soon(link.ended, "the end of the link");
  expect(end).toMatchObject({ kind: "refused", by: "peer", reason: expect.stringContaining(reason) });
  const error = await duel.ended;
  expect(error).toBeInstanceOf(NetworkError);
  expect((error as Error).message).toMatch(/^node [01] broke the protocol: /);
  expect((error as Error).message).toContain(reason);
}

describe("an edge's hello is refused", () => {
  test.each([
    [{ view: 1 }, "view 1 is unknown: this ring is at view 0"],
    [{ job: "beef" }, "job beef is not this ring's job 00c0ffee00c0ffee"],
    [{ direction: "sideways" }, "a message is malformed: direction"],
    [{ kind: "join" }, "a message is malformed: kind"],
    [{ extra: 1 }, "a message is malformed"],
  ])("for %j, and the neighbour is served afterwards", async (changes, reason) => {
    const duel = await duelWith(0);
    await expect(duel.open("forward", changes)).rejects.toThrow(reason);
    const opened = await Promise.all([duel.open("forward"), duel.open("backward")]);
    await duel.listener.first(FrameKind.activation);
    await expect(duel.open("forward")).rejects.toThrow("the forward edge is already open");
    for (const link of opened) link.abort("the test is over");
  });

  test("for a stranger", async () => {
    const settled = tinySettings({ steps: 1 });
    const { rings, network, close } = await formRing(settled);
    const stranger = network.join("stranger");
    const folder = scratch.folder();
    const runs = rings.map((ring) => ring.train(folder));
    const stream = await stranger.dial(rings[0].view.members[0]!.addresses, DATA_PROTOCOL);
    const hello = { kind: "edge", job: job.job, view: 0, direction: "forward" };
    await expect(soon(Link.open(stream, hello, new Listener()), "an edge")).rejects.toThrow(
      "peer stranger is not the neighbour node-1",
    );
    const [outcome] = await soon(Promise.all(runs), "training");
    expect(outcome!.completedSteps).toBe(1);
    await Promise.all([close(), stranger.close()]);
  });
});

describe("the first stage refuses of the last", () => {
  test.each<[string, (frame: Frame) => [Partial<FrameFields> & Pick<FrameFields, "kind">, Uint8Array?], string]>([
    ["another shape", (frame) => [{ ...gradientLike(frame), shape: [3, 2] }, floats(6)], "has type 1 and shape [3, 2]"],
    ["no payload", () => [{ kind: FrameKind.gradient }], "has type 0 and shape []"],
    [
      "integers",
      (frame) => [{ ...gradientLike(frame), dtype: DataType.int32 }, floats(frame.payload.byteLength / 4)],
      "has type 2",
    ],
    [
      "out of order",
      (frame) => [{ ...gradientLike(frame), microBatch: 1 }, floats(frame.payload.byteLength / 4)],
      "gradient 0/1 is out of order",
    ],
    ["of another job", (frame) => [{ ...gradientLike(frame), job: 1n }, frame.payload], "a frame of job 1, view 0"],
    [
      "of another view",
      (frame) => [{ ...gradientLike(frame), view: 7 }, frame.payload],
      `view 7: this ring is job ${JOB}`,
    ],
    [
      "more credits than it has places",
      (frame) => [{ ...gradientLike(frame), credits: 9 }, floats(frame.payload.byteLength / 4)],
      "more credits than places",
    ],
    [
      "labels",
      () => [{ kind: FrameKind.labels, dtype: DataType.int32, shape: [12] }, floats(12)],
      "labels of step 0 are out of order",
    ],
    ["a replica", () => [{ kind: FrameKind.replica }, floats(1)], "kind 23 does not come from a successor"],
    ["a replica without content", () => [{ kind: FrameKind.replica }], "kind 23 does not come from a successor"],
    ["a word that is no JSON", () => [{ kind: FrameKind.control }, Buffer.from("{")], "a message is not JSON"],
    ["an empty word", () => [{ kind: FrameKind.control }], "a message is not JSON"],
    [
      "an unknown word",
      () => [{ kind: FrameKind.control }, Buffer.from('{"say":"jump"}')],
      "a message is malformed: say",
    ],
    [
      "a word from the wrong side",
      () => [{ kind: FrameKind.control }, Buffer.from('{"say":"end","lastStep":3}')],
      '"end" does not come from a successor',
    ],
    [
      "an announcement of nothing",
      () => [{ kind: FrameKind.token }, Buffer.from('{"origin":0,"body":{"kind":"none"}}')],
      "a message is malformed: body.kind",
    ],
  ])("%s", async (_, frameFor, reason) => {
    const duel = await duelWith(0);
    const [backward] = await Promise.all([duel.open("backward"), duel.open("forward")]);
    send(backward, ...frameFor(await duel.listener.first(FrameKind.activation)));
    await expectRefusal(duel, backward, reason);
  });

  test("activations over the closure edge", async () => {
    const duel = await duelWith(0);
    const [forward] = await Promise.all([duel.open("forward"), duel.open("backward")]);
    const { header, payload } = await duel.listener.first(FrameKind.activation);
    send(forward, { kind: FrameKind.activation, dtype: DataType.float32, shape: header.shape, microBatch: 1 }, payload);
    await expectRefusal(duel, forward, "no activation comes here");
  });
});

describe("the last stage refuses of the first", () => {
  const activation = { kind: FrameKind.activation, dtype: DataType.float32 } as const;

  test("activations without credit: more than it has places", async () => {
    const duel = await duelWith(1);
    const [forward] = await Promise.all([duel.open("forward"), duel.open("backward")]);
    const { width } = duel;
    for (let microBatch = 0; microBatch < 3; microBatch += 1) {
      send(forward, { ...activation, shape: [3, width], microBatch }, floats(3 * width));
    }
    await expectRefusal(duel, forward, "activation 0/2 comes without credit");
  });

  test("an activation without payload, which no memory would hold", async () => {
    const duel = await duelWith(1);
    const [forward] = await Promise.all([duel.open("forward"), duel.open("backward")]);
    send(forward, { kind: FrameKind.activation });
    await expectRefusal(duel, forward, "has type 0 and shape []");
  });

  test("labels of a step that is not due", async () => {
    const duel = await duelWith(1);
    const [backward] = await Promise.all([duel.open("backward"), duel.open("forward")]);
    send(backward, { kind: FrameKind.labels, dtype: DataType.int32, shape: [12], step: 1 }, floats(12));
    await expectRefusal(duel, backward, "labels of step 1 are out of order");
  });
});

describe("bytes that are no frames end the link", () => {
  /** Writes to an edge below the link, behind a valid hello. */
  async function write(bytesFor: () => Uint8Array): Promise<unknown> {
    const duel = await duelWith(0);
    const opened = duel.open("backward");
    const stream = await duel.dial();
    const hello = Buffer.from(JSON.stringify({ kind: "edge", job: job.job, view: 0, direction: "forward" }));
    const fields = frameFields({ kind: FrameKind.hello, value: 1 << 20 });
    for (const part of encodeFrame(fields, { sequence: 0, grantedBytes: 0 }, hello)) stream.write(part, "given");
    await opened;
    await duel.listener.first(FrameKind.activation);
    stream.write(bytesFor(), "given");
    return duel.ended;
  }

  const token = (): [Uint8Array, Uint8Array] =>
    encodeFrame(frameFields({ kind: FrameKind.token, job: JOB }), { sequence: 1, grantedBytes: 0 }, Buffer.from("{}"));
  const join = ([header, payload]: [Uint8Array, Uint8Array]): Uint8Array => Buffer.concat([header, payload]);
  /** Rewrites a field and repairs the header's checksum. */
  const forge = (offset: number, value: number): Uint8Array => {
    const bytes = Buffer.from(join(token()));
    bytes.writeUInt32LE(value, offset);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 76)), 76);
    return bytes;
  };

  test.each<[string, () => Uint8Array, string]>([
    ["noise", () => Buffer.alloc(200, 0xa5), "it does not begin with the magic number"],
    ["a payload above the limit of its kind", () => forge(68, 0xffff_fff0), "4294967280 bytes of payload"],
    ["a frame of an unknown kind", () => Buffer.from(forge(4, 0x0000_6301)), "kind 99 is unknown"],
    ["a frame that was left out", () => forge(52, 5), "frame 5 came where frame 1 was due"],
    [
      "a damaged payload",
      () => {
        const bytes = join(token());
        bytes[81]! ^= 1;
        return bytes;
      },
      "the payload's checksum is wrong",
    ],
    [
      "a damaged header",
      () => {
        const bytes = join(token());
        bytes[20]! ^= 1;
        return bytes;
      },
      "the header's checksum is wrong",
    ],
    ["a grant for bytes that were never sent", () => forge(64, 1), "1 bytes were granted and 0 are outstanding"],
  ])("%s", async (_, bytesFor, reason) => {
    const error = await write(bytesFor);
    expect(error).toBeInstanceOf(NetworkError);
    expect((error as Error).message).toContain(reason);
  });
});

test("a neighbour that is gone without a GOODBYE is lost, not done", async () => {
  const duel = await duelWith(0);
  const [backward] = await Promise.all([duel.open("backward"), duel.open("forward")]);
  await duel.listener.first(FrameKind.activation);
  await duel.vanish();
  expect(await soon(backward.ended, "the end of the link")).toEqual({ kind: "lost" });
  const error = await duel.ended;
  expect(error).toBeInstanceOf(NodeLostError);
  expect((error as Error).message).toBe("node 1 (node-1) is gone at step 0, and its segment with it");
});
