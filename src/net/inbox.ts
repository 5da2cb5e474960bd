/** @file What a stream received and nobody has taken yet: pushed by events, pulled by one reader, bounded in bytes. */
import { Uint8ArrayList } from "uint8arraylist";
import { assert } from "../types/assert.ts";
import { ProtocolError } from "../types/errors.ts";

export class Inbox implements AsyncIterableIterator<Uint8ArrayList> {
  bytesMax: number;
  #unread = new Uint8ArrayList();
  #ended = false;
  #failure: ProtocolError | undefined;
  #discarding = false;
  #waiting: ((result: IteratorResult<Uint8ArrayList>) => void) | undefined;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  /**
   * Keeps the bytes until they are taken.
   * @returns the reason to abort the stream when there is no room for them
   */
  push(bytes: Uint8Array | Uint8ArrayList): ProtocolError | undefined {
    if (this.#ended || this.#discarding) return undefined;
    const waiting = this.#waiting;
    if (waiting !== undefined) {
      this.#waiting = undefined;
      waiting({ done: false, value: bytes instanceof Uint8Array ? new Uint8ArrayList(bytes) : bytes });
      return undefined;
    }
    if (this.#unread.byteLength + bytes.byteLength > this.bytesMax) {
      this.#failure = new ProtocolError(
        `the peer sent more than the ${this.bytesMax} bytes that it was granted`,
        "run the same build on every node",
      );
      this.#unread = new Uint8ArrayList();
      this.end();
      return this.#failure;
    }
    this.#unread.append(bytes);
    return undefined;
  }

  /** Nothing more will come. What was received before can still be taken. */
  end(): void {
    this.#ended = true;
    this.#waiting?.({ done: true, value: undefined });
    this.#waiting = undefined;
  }

  next(): Promise<IteratorResult<Uint8ArrayList>> {
    assert(this.#waiting === undefined, "a stream has one reader");
    if (this.#unread.byteLength > 0) {
      const value = this.#unread;
      this.#unread = new Uint8ArrayList();
      return Promise.resolve({ done: false, value });
    }
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => (this.#waiting = resolve));
  }

  /** The reader stops: what arrives from now on is thrown away. */
  return(): Promise<IteratorResult<Uint8ArrayList>> {
    this.#discarding = true;
    this.#unread = new Uint8ArrayList();
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
