/**
 * @file The transport over libp2p: TCP, TLS 1.3 or Noise, yamux, and nothing else: addresses are explicit, so there is no
 * discovery, relay or gossip. The options are measured; what they avoid is held by canary tests.
 */
import { generateKeyPair, generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import type { Connection, Libp2p, Stream } from "@libp2p/interface";
import { noise } from "@libp2p/noise";
import { plaintext } from "@libp2p/plaintext";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import type { Multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { defined } from "../types/assert.ts";
import { closeConnection, Connections, type ConnectionOptions } from "./libp2p-connections.ts";
import { dialError, isHangUp, listenError } from "./libp2p-errors.ts";
import { outletOf, withOutlets } from "./libp2p-encrypter.ts";
import { Libp2pStream } from "./libp2p-stream.ts";
import { closedTransport, notAnAddress } from "./net-errors.ts";
import { DIAL_LIMIT_MS } from "./transport.ts";
import type { ByteStream, DialOptions, StreamHandler, Transport } from "./transport.ts";

const MIB = 1024 * 1024;
const STREAMS_PER_PROTOCOL_MAX = 1024;
const CONNECTIONS_MAX = 1024;
const DIAL_ATTEMPTS_MAX = 3;
/** Ends the protocol of a stream that has a connection of its own, so that the other side keeps off it too. */
const OWN_SUFFIX = "/own";

/** Above 256 KiB the window grows with the traffic. The read buffer must exceed the window, or libp2p resets the stream. */
const STREAM_OPTIONS = {
  maxStreamWindowSize: 4 * MIB,
  maxReadBufferLength: 8 * MIB,
  maxWriteBufferLength: 256 * MIB,
};

export interface Libp2pTransportInit {
  /** 32 bytes that fix the identity; without them it is new. Whoever has them can speak as this peer. */
  readonly privateKeySeed?: Uint8Array;
  /** Such as /ip4/0.0.0.0/tcp/0; empty: this peer only dials. */
  readonly listen: readonly string[];
  /** `both` prefers TLS. `plaintext` is for measurements: everyone can read and change what is said. */
  readonly encryption?: "tls" | "noise" | "both" | "plaintext";
  /** Whether a peer may connect; without it, everyone may. Asked after the peer has proven its identity. */
  readonly allow?: (peerId: string) => boolean;
}

/** @throws NetworkError when an address cannot be listened on */
export async function createLibp2pTransport(init: Libp2pTransportInit): Promise<Transport> {
  const { privateKeySeed, listen, encryption = "both", allow } = init;
  for (const address of listen) parseAddress(address);
  const encrypters = {
    tls: [withOutlets(tls())],
    noise: [withOutlets(noise())],
    plaintext: [withOutlets(plaintext())],
  };
  const privateKey = await (privateKeySeed === undefined
    ? generateKeyPair("Ed25519")
    : generateKeyPairFromSeed("Ed25519", privateKeySeed));
  try {
    const node = await createLibp2p({
      privateKey,
      addresses: { listen: [...listen] },
      transports: [tcp()],
      connectionEncrypters: encryption === "both" ? [...encrypters.tls, ...encrypters.noise] : encrypters[encryption],
      // By default an eleventh stream that is opened before the other side has finished its handshake ends the connection.
      streamMuxers: [yamux({ streamOptions: STREAM_OPTIONS, maxEarlyStreams: STREAMS_PER_PROTOCOL_MAX })],
      // The default monitor ends healthy transfers on slow links. A peer that freezes is therefore not noticed here.
      connectionMonitor: { abortConnectionOnPingFailure: false },
      // A whole ring may connect from one address within a second.
      connectionManager: {
        inboundConnectionThreshold: CONNECTIONS_MAX,
        maxConnections: CONNECTIONS_MAX,
        // By default an eleventh handshake at once is hung up on.
        maxIncomingPendingConnections: CONNECTIONS_MAX,
      },
      connectionGater: { denyInboundEncryptedConnection: (peer) => allow?.(peer.toString()) === false },
    });
    return new Libp2pTransport(node);
  } catch (error) {
    throw listenError(listen, error);
  }
}

class Libp2pTransport implements Transport {
  readonly peerId: string;
  readonly #node: Libp2p;
  readonly #connections: Connections;

  constructor(node: Libp2p) {
    this.#node = node;
    this.#connections = new Connections(node);
    this.peerId = node.peerId.toString();
  }

  get addresses(): readonly string[] {
    return this.#node.getMultiaddrs().map(String);
  }

  async dial(addresses: string | readonly string[], protocol: string, options: DialOptions = {}): Promise<ByteStream> {
    const list = typeof addresses === "string" ? [addresses] : addresses;
    const parsed = list.map(parseAddress);
    if (this.#node.status !== "started") throw closedTransport();
    const signal = options.signal ?? AbortSignal.timeout(DIAL_LIMIT_MS);
    const isOwn = options.ownConnection === true;
    for (let attempt = 1; ; attempt++) {
      try {
        const connection = await this.#connections.take(parsed, { isOwn, signal });
        return await openStream(connection, protocol, { isOwn, signal });
      } catch (error) {
        // A shared connection may be ending just now; the next attempt makes a new one.
        const mayTryAgain = attempt < DIAL_ATTEMPTS_MAX && isHangUp(error) && !signal.aborted;
        if (!mayTryAgain) throw dialError(list.join(", "), protocol, signal, error);
      }
    }
  }

  async handle(protocol: string, handler: StreamHandler): Promise<void> {
    const accept = (stream: Stream, connection: Connection): void => {
      if (stream.protocol === protocol) this.#connections.share(connection);
      handler(wrap(stream, connection));
    };
    await this.#node.handle([protocol, protocol + OWN_SUFFIX], accept, {
      maxInboundStreams: STREAMS_PER_PROTOCOL_MAX,
      maxOutboundStreams: STREAMS_PER_PROTOCOL_MAX,
    });
  }

  disconnect(peerId: string): void {
    this.#connections.abort(peerId);
  }

  async close(): Promise<void> {
    await this.#node.stop();
  }
}

async function openStream(connection: Connection, protocol: string, options: ConnectionOptions): Promise<Libp2pStream> {
  const { isOwn, signal } = options;
  const limits = { signal, maxOutboundStreams: STREAMS_PER_PROTOCOL_MAX };
  if (!isOwn) return wrap(await connection.newStream(protocol, limits), connection);
  try {
    const stream = await connection.newStream(protocol + OWN_SUFFIX, limits);
    stream.addEventListener("close", () => void closeConnection(connection));
    return wrap(stream, connection);
  } catch (error) {
    void closeConnection(connection);
    throw error;
  }
}

function wrap(stream: Stream, connection: Connection): Libp2pStream {
  const outlet = defined(outletOf(connection.timeline), "every connection passes the encrypter");
  return new Libp2pStream(stream, connection.remotePeer.toString(), outlet);
}

function parseAddress(address: string): Multiaddr {
  try {
    return multiaddr(address);
  } catch {
    throw notAnAddress(address);
  }
}
