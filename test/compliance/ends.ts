/** @file Two ends of a transport for the compliance suites: streams, links, and a peer that keeps to nothing. */
import { afterEach, describe } from "vitest";
import { Link } from "../../src/net/link.ts";
import type { Receiver } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import { FrameKind, frameFields } from "../../src/wire/header.ts";
import type { FrameKind as Kind } from "../../src/wire/header.ts";

export interface TransportFactory {
  readonly name: string;
  /** A fresh transport that the others of this factory reach. */
  create(): Promise<Transport>;
  /** An address of the right form where nobody listens. */
  readonly nowhere: string;
}

export const PROTOCOL = "/ringtmp/test/1";
export const LIMIT_MS = 10_000;

/** Fails the test, rather than hanging it. */
export const soon = <T>(promise: Promise<T>, what = "a promise"): Promise<T> =>
  within(promise, LIMIT_MS, () => {
    throw new Error(`${what} took more than ${LIMIT_MS} ms`);
  });

/** Bytes that differ by place and by frame. */
export const pattern = (length: number, seed: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = (index * 31 + (index >> 8) * 7 + seed * 101) & 0xff;
  return bytes;
};

export const fresh: Receiver["destination"] = (header) => new Uint8Array(header.payloadBytes);
export const ignore: Receiver = { destination: fresh, handle: () => {} };

/** What a suite works with; every transport that it creates is closed after the test. */
export interface Ends {
  readonly create: () => Promise<Transport>;
  /** Every transport that is open now. */
  readonly open: readonly Transport[];
  readonly streams: () => Promise<[near: ByteStream, far: ByteStream]>;
  readonly links: (near: Receiver, far: Receiver) => Promise<[near: Link, far: Link]>;
  readonly hostile: (
    receiver: Receiver,
  ) => Promise<{ stream: ByteStream; link: Link; next: () => Promise<Uint8Array> }>;
}

/** A suite for one transport. */
export function compliance(factory: TransportFactory, suite: (ends: Ends) => void): void {
  describe(factory.name, () => {
    const open: Transport[] = [];
    const create = async (): Promise<Transport> => {
      const transport = await factory.create();
      open.push(transport);
      return transport;
    };
    afterEach(async () => {
      await soon(Promise.all(open.splice(0).map((transport) => transport.close())), "closing the transports");
    });

    /** Two ends of a raw stream. */
    const streams = async (): Promise<[near: ByteStream, far: ByteStream]> => {
      const [dialler, listener] = [await create(), await create()];
      const arrived = Promise.withResolvers<ByteStream>();
      await listener.handle(PROTOCOL, arrived.resolve);
      const near = await soon(dialler.dial(listener.addresses, PROTOCOL), "dial");
      return [near, await soon(arrived.promise, "the stream's arrival")];
    };

    /** Two ends of a link. */
    const links = async (near: Receiver, far: Receiver): Promise<[near: Link, far: Link]> => {
      const [dialled, arrived] = await streams();
      const accepted = Link.accept(arrived, () => ({ kind: "accept", answer: {}, receiver: far }));
      const { link } = await soon(Link.open(dialled, {}, near), "open");
      const other = await soon(accepted, "accept");
      if (other === undefined) throw new Error("refused");
      return [link, other];
    };

    /** A link at the far end, and a raw stream at the near end that has said a valid hello. */
    const hostile = async (
      receiver: Receiver,
    ): Promise<{ stream: ByteStream; link: Link; next: () => Promise<Uint8Array> }> => {
      const [stream, arrived] = await streams();
      const accepted = Link.accept(arrived, () => ({ kind: "accept", answer: {}, receiver }));
      write(stream, FrameKind.hello, 0, Buffer.from("{}"), 1 << 23);
      const link = await soon(accepted, "accept");
      if (link === undefined) throw new Error("refused");
      const next = async (): Promise<Uint8Array> => {
        const result = await soon(stream.source[Symbol.asyncIterator]().next(), "an answer");
        return result.done === true ? new Uint8Array() : result.value.subarray();
      };
      await next();
      return { stream, link, next };
    };

    suite({ create, open, streams, links, hostile });
  });
}

export const NONE = new Uint8Array(0);

export const frameBytes = (
  kind: Kind,
  sequence: number,
  payload: Uint8Array,
  grantedBytes = 0,
  value = Number.NaN,
): Buffer => Buffer.concat(encodeFrame(frameFields({ kind, value }), { sequence, grantedBytes }, payload));

export function write(stream: ByteStream, kind: Kind, sequence: number, payload: Uint8Array, value = Number.NaN): void {
  stream.write(frameBytes(kind, sequence, payload, 0, value), "given");
}

/** Reads to the end of the stream. */
export async function drain(stream: ByteStream): Promise<void> {
  for await (const _chunk of stream.source);
}

/** Resolves when what either side wrote before has certainly arrived: a frame has gone there. */
export async function echoOf(from: Link, to: Link): Promise<void> {
  const before = to.received.messages;
  await soon(from.send({ kind: FrameKind.control }, new Uint8Array(1)));
  while (to.received.messages === before) await new Promise((resolve) => setImmediate(resolve));
}
