/**
 * @file Tells when bytes have left a connection. libp2p keeps references to what is sent until it is encrypted, and says
 * nothing about when that is: `send()` queues in the muxer's stream, then in the encrypted connection that all its
 * streams share, then in the socket. This wrapper around an encrypter remembers the encrypted connection and counts
 * what enters it, so that a stream can know when its own bytes are out while others go on sending.
 */
import type { ConnectionEncrypter, MessageStream } from "@libp2p/interface";

/** The TLS socket below an encrypted connection, where there is one. */
interface Corkable {
  cork(): void;
  uncork(): void;
}

/** Found by the `timeline` object, which a connection shares with the socket below it. */
const outlets = new WeakMap<object, Outlet>();

export class Outlet {
  readonly #encrypted: MessageStream;
  readonly #listeners = new Set<() => void>();
  readonly #socket: Corkable | undefined;
  #acceptedBytes = 0;
  #passedBytes = 0;
  #isCorked = false;

  constructor(encrypted: MessageStream) {
    this.#encrypted = encrypted;
    this.#socket = (encrypted as { readonly socket?: Corkable }).socket;
    const send = encrypted.send.bind(encrypted);
    encrypted.send = (data) => {
      this.#acceptedBytes += data.byteLength;
      this.#cork();
      return send(data);
    };
    // While `drain` is dispatched the socket below is empty: what is no longer queued here is out. After `idle` nothing is
    // queued here, and unless a drain is due the socket holds less than its high-water mark. At no other time do the
    // lengths tell: bytes leave the queue before they are sent, and what was not sent comes back.
    encrypted.addEventListener("drain", () => this.#pass(this.#acceptedBytes - encrypted.writeBufferLength));
    encrypted.addEventListener("idle", () => {
      if (!encrypted.writableNeedsDrain) this.#pass(this.#acceptedBytes);
    });
  }

  /** A muxer sends a frame's header and its data one after the other: together they are one record and one system call. */
  #cork(): void {
    const socket = this.#socket;
    if (socket === undefined || this.#isCorked) return;
    this.#isCorked = true;
    socket.cork();
    queueMicrotask(() => {
      this.#isCorked = false;
      socket.uncork();
    });
  }

  /** Bytes that entered so far: a position in the order of all streams. */
  get acceptedBytes(): number {
    return this.#acceptedBytes;
  }

  /** Position up to which the connection keeps no reference, but for the socket's high-water mark before it. */
  get passedBytes(): number {
    return this.#passedBytes;
  }

  get queuedBytes(): number {
    return this.#encrypted.writeBufferLength;
  }

  /** Calls back whenever bytes have passed, until the returned function is called. */
  onPass(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #pass(position: number): void {
    this.#passedBytes = position;
    for (const listener of this.#listeners) listener();
  }
}

/** The outlet of the connection that has this `timeline`. */
export function outletOf(timeline: object): Outlet | undefined {
  return outlets.get(timeline);
}

type Factory<Components> = (components: Components) => ConnectionEncrypter;

/** The same encrypter, with an outlet for each of its connections. */
export function withOutlets<Components>(create: Factory<Components>): Factory<Components> {
  return (components) => {
    const inner = create(components);
    const secureInbound = inner.secureInbound.bind(inner);
    const secureOutbound = inner.secureOutbound.bind(inner);
    inner.secureInbound = async (socket, options) => {
      const secured = await secureInbound(socket, options);
      outlets.set(socket.timeline, new Outlet(secured.connection));
      return secured;
    };
    inner.secureOutbound = async (socket, options) => {
      const secured = await secureOutbound(socket, options);
      outlets.set(socket.timeline, new Outlet(secured.connection));
      return secured;
    };
    return inner;
  };
}
