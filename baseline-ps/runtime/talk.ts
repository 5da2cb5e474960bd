/** @file A conversation in JSON over a link: what the other side says is parsed before anybody hears it. */
import type * as z from "zod";
import type { Hello } from "../../src/net/hello.ts";
import { Link, type Receiver } from "../../src/net/link.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import type { FrameHeader } from "../../src/wire/header.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { encodeMessage, parseMessage } from "./messages.ts";

/** Who hears, and how the other side is called in errors. */
export interface Listener<Schema extends z.ZodType> {
  readonly schema: Schema;
  readonly from: string;
  readonly hear: (message: z.infer<Schema>, link: Link) => void;
}

export function receiverOf<Schema extends z.ZodType>({ schema, from, hear }: Listener<Schema>): Receiver {
  return {
    destination: ({ kind, payloadBytes }: FrameHeader) => {
      if (kind === FrameKind.control) return new Uint8Array(payloadBytes);
      throw new ProtocolError(`${from} sent a frame of kind ${kind}`, "run the same build everywhere");
    },
    handle: ({ payload }, link) => hear(parseMessage(schema, payload, from), link),
  };
}

export async function openTalk<Schema extends z.ZodType>(
  transport: Transport,
  addresses: readonly string[],
  protocol: string,
  hello: Hello,
  listener: Listener<Schema>,
): Promise<Link> {
  const stream = await transport.dial(addresses, protocol);
  return (await Link.open(stream, hello, receiverOf(listener))).link;
}

/** @param admit returns the reason of a refusal, or who hears */
export function acceptTalk<Schema extends z.ZodType>(
  stream: ByteStream,
  admit: (hello: Hello) => string | Listener<Schema>,
): Promise<Link | undefined> {
  return Link.accept(stream, (hello) => {
    const admitted = admit(hello);
    if (typeof admitted === "string") return { kind: "refuse", reason: admitted };
    return { kind: "accept", answer: {}, receiver: receiverOf(admitted) };
  });
}

/** Where the link is over, what is said is lost, which its end tells. */
export function tell(link: Link | undefined, message: object): void {
  link?.send({ kind: FrameKind.control }, encodeMessage(message)).catch(() => {});
}
