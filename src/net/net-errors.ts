/** @file The errors of every transport: one line of cause, one line of remedy. */
import { NetworkError, UsageError } from "../types/errors.ts";

const CHECK_NODE = "check that the node runs, its address and port, and the firewall";

export const unreachable = (address: string, cause: string): NetworkError =>
  new NetworkError(`cannot reach ${address}: ${cause}`, CHECK_NODE);

/**
 * A dial whose answer was no: at every address nothing listens, or another peer does. Whoever was there has ended, which
 * silence would not show.
 */
export class DialRefusedError extends NetworkError {}

export const nobodyListens = (address: string): DialRefusedError =>
  new DialRefusedError(`cannot reach ${address}: nothing listens there`, CHECK_NODE);

export const wrongPeer = (address: string): DialRefusedError =>
  new DialRefusedError(
    `another peer answers at ${address}`,
    "use the address that the node prints now: its identity has changed",
  );

export const unspokenProtocol = (address: string, protocol: string): NetworkError =>
  new NetworkError(`${address} does not speak ${protocol}`, "run the same version on every node");

export const portInUse = (port: string): NetworkError =>
  new NetworkError(`port ${port} is in use`, "choose another port, or 0 for any free one");

export const cannotListen = (address: string, cause: string): NetworkError =>
  new NetworkError(
    `cannot listen on ${address}: ${cause}`,
    "listen on an address of this machine, such as /ip4/0.0.0.0/tcp/0",
  );

export const notAnAddress = (address: string): UsageError =>
  new UsageError(`"${address}" is not an address of a peer`, "write it as /ip4/192.0.2.7/tcp/4001/p2p/12D3…");

export const streamEnded = (peer: string, cause?: unknown): NetworkError =>
  new NetworkError(`the stream to ${peer} has ended`, "the node may have stopped: see its log", { cause });

export const closedTransport = (): NetworkError => new NetworkError("this node has left the network", "start it again");
