/**
 * @file Which connection a new stream goes on. Streams share one connection with a peer, whichever side dialled it, except
 * those that asked for one of their own: such a connection carries that stream alone, on both sides. libp2p itself would
 * put any stream on any connection, and let two dials of one peer at the same time end in one connection.
 */
import type { Connection, Libp2p } from "@libp2p/interface";
import type { Multiaddr } from "@multiformats/multiaddr";

const CLOSE_LIMIT_MS = 1_000;
const DONE: Promise<void> = Promise.resolve();

export interface ConnectionOptions {
  readonly isOwn: boolean;
  readonly signal: AbortSignal;
}

export class Connections {
  readonly #node: Libp2p;
  /** Those that have carried a stream that shares: both sides know of it by the stream's protocol. */
  readonly #shared = new WeakSet<Connection>();
  /** The end of the last dial of each peer that is being dialled. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(node: Libp2p) {
    this.#node = node;
  }

  /** From now on other streams may use it too. */
  share(connection: Connection): void {
    this.#shared.add(connection);
  }

  /** A connection for a stream. Rejects with what libp2p throws. */
  async take(addresses: readonly Multiaddr[], options: ConnectionOptions): Promise<Connection> {
    const peer = addresses[0]?.getComponents().findLast(({ name }) => name === "p2p")?.value;
    const key = peer ?? addresses.join(" ");
    const taken = settled(this.#turns.get(key) ?? DONE, options.signal).then(async () => {
      const found = options.isOwn ? undefined : this.#findShared(peer);
      return found ?? this.#node.dial([...addresses], { signal: options.signal, force: true });
    });
    const turn = taken.then(noop, noop);
    this.#turns.set(key, turn);
    try {
      const connection = await taken;
      if (!options.isOwn) this.share(connection);
      return connection;
    } finally {
      if (this.#turns.get(key) === turn) this.#turns.delete(key);
    }
  }

  /** All to this peer; the next stream has a new one. */
  abort(peer: string): void {
    for (const connection of this.#node.getConnections()) {
      if (connection.remotePeer.toString() === peer) connection.abort(new Error("the line seems to be cut"));
    }
  }

  #findShared(peer: string | undefined): Connection | undefined {
    return this.#node
      .getConnections()
      .find(
        (connection) =>
          connection.status === "open" && connection.remotePeer.toString() === peer && this.#shared.has(connection),
      );
  }
}

/** Ends a connection whose only stream has ended. */
export async function closeConnection(connection: Connection): Promise<void> {
  try {
    await connection.close({ signal: AbortSignal.timeout(CLOSE_LIMIT_MS) });
  } catch (error) {
    connection.abort(error instanceof Error ? error : new Error(String(error)));
  }
}

/** Waits for the turn before, no longer than the signal allows: the dial that follows ends at once then. */
async function settled(before: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const aborted = Promise.withResolvers<void>();
  const abort = (): void => aborted.resolve();
  signal.addEventListener("abort", abort);
  await Promise.race([before, aborted.promise]);
  signal.removeEventListener("abort", abort);
}

/** For an outcome that whoever dialled is told of. */
function noop(): void {}
