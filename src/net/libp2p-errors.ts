/** @file What libp2p throws, as the errors of every transport. Only names and codes are looked at, never stack traces. */
import type { NetworkError } from "../types/errors.ts";
import { cannotListen, nobodyListens, portInUse, unreachable, unspokenProtocol, wrongPeer } from "./net-errors.ts";

/** The error itself and those inside it, outermost first. */
function* errorsOf(error: unknown): Generator<Error & { code?: unknown }> {
  if (!(error instanceof Error)) return;
  yield error;
  if (error instanceof AggregateError) for (const inner of error.errors) yield* errorsOf(inner);
  yield* errorsOf(error.cause);
}

const CAUSES: Readonly<Record<string, string>> = {
  ECONNRESET: "it closed the connection",
  EHOSTUNREACH: "no route to it",
  ENETUNREACH: "no route to its network",
  ETIMEDOUT: "no answer",
};

const HANG_UPS: readonly string[] = [
  ...["UnexpectedEOFError", "StreamResetError", "StreamClosedError", "MuxerClosedError"],
  ...["ConnectionClosedError", "EncryptionFailedError"],
];

/** The other side went away in the middle of a handshake: it may have been busy, or it does not want this peer. */
export function isHangUp(error: unknown): boolean {
  return [...errorsOf(error)].some(({ name }) => HANG_UPS.includes(name));
}

const isWrongPeer = ({ name, message }: Error): boolean =>
  name === "UnexpectedPeerError" || /unexpected peer|does not match expected/i.test(message);

/** Every address was tried, and at each of them the system, or another peer, answered that this one is not there. */
function isRefused(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.length > 0 && error.errors.every(isRefused);
  if (!(error instanceof Error)) return false;
  return isWrongPeer(error) || (error as { code?: unknown }).code === "ECONNREFUSED" || isRefused(error.cause);
}

/** A DialRefusedError where nobody of this name listens at any of the addresses. */
export function dialError(address: string, protocol: string, signal: AbortSignal, error: unknown): NetworkError {
  const all = [...errorsOf(error)];
  const named = (...names: string[]): boolean => all.some(({ name }) => names.includes(name));
  if (named("UnsupportedProtocolError")) return unspokenProtocol(address, protocol);
  if (isRefused(error)) return all.some(isWrongPeer) ? wrongPeer(address) : nobodyListens(address);
  if (named("InvalidPeerIdError")) return unreachable(address, "it is this node itself");
  const code = all.map((inner) => CAUSES[String(inner.code)]).find((cause) => cause !== undefined);
  if (code !== undefined) return unreachable(address, code);
  if (signal.aborted || named("TimeoutError", "AbortError")) return unreachable(address, "no answer in time");
  if (isHangUp(error)) {
    return unreachable(address, "it closed the connection, and may not admit this node");
  }
  return unreachable(address, all[0]?.message.split("\n")[0] ?? String(error));
}

export function listenError(addresses: readonly string[], error: unknown): NetworkError {
  const text = [...errorsOf(error)].map(({ message }) => message).join("\n");
  const inUse = /EADDRINUSE[^\n]*:(\d+)/.exec(text);
  if (inUse?.[1] !== undefined) return portInUse(inUse[1]);
  const cause = /Error: (listen [^\n]*)/.exec(text)?.[1] ?? text.split("\n")[0] ?? "";
  return cannotListen(addresses.join(", "), cause);
}
