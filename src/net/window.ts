/**
 * @file Byte credits of one direction of a link. The receiver grants what its handler has processed; the sender keeps at
 * most the window, or a quarter of it and one frame, without a grant. The quarter lets the receiver collect its grants.
 * Both sides apply the same rule, so the receiver can tell a sender that ignores it.
 */
import { ProtocolError } from "../types/errors.ts";

export const WINDOW_BYTES_DEFAULT = 8 * 1024 * 1024;
export const WINDOW_BYTES_MIN = 64 * 1024;
const WINDOW_BYTES_MAX = 1024 * 1024 * 1024;

function mayFollow(bytes: number, outstandingBytes: number, windowBytes: number): boolean {
  return outstandingBytes <= windowBytes / 4 || outstandingBytes + bytes <= windowBytes;
}

export class SendWindow {
  readonly #windowBytes: number;
  #outstandingBytes = 0;

  /** @param windowBytes what the receiver stated in its hello */
  constructor(windowBytes: number) {
    if (!Number.isInteger(windowBytes) || windowBytes < WINDOW_BYTES_MIN || windowBytes > WINDOW_BYTES_MAX) {
      throw new ProtocolError(`a window of ${windowBytes} bytes is out of range`, "run the same build on every node");
    }
    this.#windowBytes = windowBytes;
  }

  allows(bytes: number): boolean {
    return mayFollow(bytes, this.#outstandingBytes, this.#windowBytes);
  }

  take(bytes: number): void {
    this.#outstandingBytes += bytes;
  }

  /** @throws ProtocolError when more is granted than was sent */
  grant(bytes: number): void {
    if (bytes > this.#outstandingBytes) {
      throw new ProtocolError(
        `${bytes} bytes were granted and ${this.#outstandingBytes} are outstanding`,
        "run the same build on every node",
      );
    }
    this.#outstandingBytes -= bytes;
  }
}

export class ReceiveWindow {
  readonly #windowBytes: number;
  /** Received and not yet granted: what is being processed, and what was processed and waits for its grant. */
  #outstandingBytes = 0;
  #processedBytes = 0;

  constructor(windowBytes: number) {
    this.#windowBytes = windowBytes;
  }

  /** @throws ProtocolError when the sender had no leave for this frame */
  receive(bytes: number): void {
    if (!mayFollow(bytes, this.#outstandingBytes, this.#windowBytes)) {
      throw new ProtocolError(
        `a frame of ${bytes} bytes exceeds the window: ${this.#outstandingBytes} of ${this.#windowBytes} are taken`,
        "run the same build on every node",
      );
    }
    this.#outstandingBytes += bytes;
  }

  process(bytes: number): void {
    this.#processedBytes += bytes;
  }

  /** A grant is worth a frame of its own. */
  get isGrantDue(): boolean {
    return this.#processedBytes >= this.#windowBytes / 4;
  }

  /** What the next frame to the sender grants. */
  takeGrant(): number {
    const bytes = this.#processedBytes;
    this.#processedBytes = 0;
    this.#outstandingBytes -= bytes;
    return bytes;
  }
}
