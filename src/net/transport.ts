/**
 * @file The transport port: streams of bytes between peers, whatever carries them. A stream here keeps the order and
 * bounds the memory of the process; flow control from end to end is the link's work (`link.ts`).
 */
import type { Uint8ArrayList } from "uint8arraylist";

/** `given`: the stream may keep the bytes; `lent`: the caller has them back after `flushed()`. */
export type Ownership = "given" | "lent";

export interface ByteStream {
  /** Identity of the other side, proven by the transport's handshake. */
  readonly remotePeer: string;

  /**
   * Memory to fill and `write` at once, as `given`: the stream uses it again when the bytes have left. Only when the
   * queue is below its mark, and for at most `STAGED_BYTES_MAX`.
   */
  stage(sizeBytes: number): Uint8Array;

  /**
   * Queues bytes in order. They must not change while the stream has them.
   * @returns false when the queue is above its mark: wait for `ready()` before the next write
   * @throws NetworkError when the stream has ended
   */
  write(bytes: Uint8Array, ownership: Ownership): boolean;

  /**
   * A writer pauses above this many queued bytes, those of other streams of the connection among them. A sender of bulk
   * sets it lower, and its bytes then give way to what others write. At most `QUEUED_BYTES_MARK`, where it starts.
   */
  queuedBytesMark: number;

  /** Resolves when the queue is below its mark. Rejects with a NetworkError when the stream has ended. */
  ready(): Promise<void>;

  /** Resolves when all that was written before may be reused by its owner. Rejects like `ready()`. */
  flushed(): Promise<void>;

  /**
   * What arrives, in parts cut anywhere; iterate once. It ends quietly, whether the other side closed, died or was cut
   * off: only the protocol above knows the difference. Ending the iteration early throws away what still arrives.
   * Received bytes that nobody has taken count against `unreadBytesMax`; beyond it the stream is aborted and the
   * iteration throws a ProtocolError: the other side ignores its credits.
   */
  readonly source: AsyncIterable<Uint8ArrayList>;
  /** Bytes received and not yet taken from `source`. The protocol above sets it to what it grants, and slack. */
  unreadBytesMax: number;

  /** Sends what is queued, then closes this side, within `limitMs`; aborts when that does not succeed. Never rejects. */
  close(limitMs: number): Promise<void>;

  /** Drops what is queued on both sides and ends the stream at once. */
  abort(reason: Error): void;
}

export type StreamHandler = (stream: ByteStream) => void;

export interface DialOptions {
  /** Ends the attempt; without it, the attempt ends after `DIAL_LIMIT_MS`. */
  readonly signal?: AbortSignal;
  /**
   * The stream shares its connection with no other, so that it does not wait behind what they have queued. It costs a
   * handshake, and ends with the stream.
   */
  readonly ownConnection?: true;
}

export interface Transport {
  readonly peerId: string;
  /** Full addresses, `/p2p/…` included, of every interface that listens. */
  readonly addresses: readonly string[];

  /**
   * Opens a stream. Several addresses are of one peer and are tried in turn.
   * @throws UsageError for what is not an address
   * @throws DialRefusedError when nothing, or another peer, listens at each of the addresses
   * @throws NetworkError when nobody answers in time, or the peer does not speak the protocol
   */
  dial(addresses: string | readonly string[], protocol: string, options?: DialOptions): Promise<ByteStream>;

  /** Gives every incoming stream of the protocol to the handler; one handler for a protocol. */
  handle(protocol: string, handler: StreamHandler): Promise<void>;

  /**
   * Ends every connection to this peer at once, as if it had died. 1. A line is cut, and what was sent is repeated ever more seldom. 2. It is mended.
   * 3. What is said on the old connections arrives when the next repetition is due, up to as long after as the line was cut; new ones work at once.
   */
  disconnect(peerId: string): void;

  /** Ends every stream and frees the ports. */
  close(): Promise<void>;
}

export const DIAL_LIMIT_MS = 10_000;

export const QUEUED_BYTES_MARK = 4 * 1024 * 1024;

/** The mark of bulk that gives way: at 100 Mbit/s, data waits 20 ms behind it. */
export const BULK_BYTES_MARK = 256 * 1024;

/** The largest part that `stage` gives. */
export const STAGED_BYTES_MAX = 512 * 1024;

/** Where nothing above sets a limit: enough for any handshake of a protocol. */
export const UNREAD_BYTES_MAX_DEFAULT = 1024 * 1024;
