/** @file The first frame each way: JSON of at most 4 KiB that says who speaks, about what; and the answer or refusal. */
import { NetworkError, ProtocolError } from "../types/errors.ts";
import { assert } from "../types/assert.ts";
import { HELLO_BYTES_MAX } from "../wire/header.ts";
import type { FrameHeader } from "../wire/header.ts";

/** Fields that the caller chooses, such as job, view, role, edge, direction. They come from the peer: check them. */
export type Hello = Readonly<Record<string, unknown>>;

export type HelloAnswer =
  { readonly kind: "accepted"; readonly answer: Hello } | { readonly kind: "refused"; readonly reason: string };

export function encodeJson(value: Hello | HelloAnswer): Uint8Array {
  const bytes = Buffer.from(JSON.stringify(value));
  assert(bytes.byteLength <= HELLO_BYTES_MAX, `a hello has at most ${HELLO_BYTES_MAX} bytes`);
  return bytes;
}

/** @throws ProtocolError for what is not a JSON object */
export function decodeHello(bytes: Uint8Array): Hello {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    throw notHello("it is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw notHello("it is not an object");
  return value as Hello;
}

/** @throws ProtocolError for what is neither an answer nor a refusal */
export function decodeAnswer(bytes: Uint8Array): HelloAnswer {
  const { kind, answer, reason } = decodeHello(bytes);
  if (kind === "refused" && typeof reason === "string") return { kind, reason };
  if (kind === "accepted" && typeof answer === "object" && answer !== null) return { kind, answer: answer as Hello };
  throw notHello("it is neither an answer nor a refusal");
}

/** Text that fits into a control frame, JSON's escapes included. */
export function shorten(reason: string): string {
  return reason.slice(0, 500);
}

const SAME_BUILD = "run the same build on every node";

export const refusal = (peer: string, reason: string): NetworkError =>
  new NetworkError(`${peer} refuses: ${shorten(reason)}`, "make equal what it names, or ask whoever started it");

export const noHello = (peer: string): NetworkError =>
  new NetworkError(`${peer} does not say hello in time`, "check that it is not stopped or overloaded");

export const unexpected = (header: FrameHeader): ProtocolError =>
  new ProtocolError(`a frame of kind ${header.kind} came where it cannot`, SAME_BUILD);

/** Why a greeting did not come, when the link ended instead. */
export function greetingError(peer: string, end: { readonly kind: string; readonly reason?: string }): NetworkError {
  if (end.reason !== undefined) return new ProtocolError(`${peer}: ${end.reason}`, SAME_BUILD);
  return new NetworkError(
    `${peer} closed the stream before it said hello`,
    "check that it still runs, and runs the same version",
  );
}

function notHello(cause: string): ProtocolError {
  return new ProtocolError(`malformed hello: ${cause}`, SAME_BUILD);
}
