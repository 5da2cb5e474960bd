/**
 * @file A transport whose way to a peer can be cut like a cable, for tests of recovery and for the command that cuts links:
 * nothing is closed and nobody is told. What this side writes is held and leaves in order when the way is mended; what
 * arrives, an end included, is seen then; dials wait. Each end cuts for itself: with one end cut, what the other side
 * sends piles up here to `unreadBytesMax`, beyond which its stream is aborted; with both ends cut it stays there.
 */
import { SeverableStream } from "./severable-stream.ts";
import { closedTransport, unreachable } from "./net-errors.ts";
import { DIAL_LIMIT_MS } from "./transport.ts";
import type { ByteStream, DialOptions, StreamHandler, Transport } from "./transport.ts";

export interface SeverableTransport extends Transport {
  /** From now on nothing passes between this node and that peer, on any stream. No effect where it is severed. */
  sever(peerId: string): void;
  /** What was held passes. No effect where nothing is severed. */
  mend(peerId: string): void;
}

/** The way to one peer while it is severed. */
export class Cut {
  /** Called in this order, before the promise resolves, so that nothing overtakes what was held. */
  readonly onMend: (() => void)[] = [];
  readonly mended = Promise.withResolvers<void>();
}

export function severable(inner: Transport): SeverableTransport {
  return new Severable(inner);
}

class Severable implements SeverableTransport {
  readonly #inner: Transport;
  /** By peer id; only those that are severed now, so that a stream's look costs nothing. */
  readonly #cuts = new Map<string, Cut>();
  #isClosed = false;

  constructor(inner: Transport) {
    this.#inner = inner;
  }

  get peerId(): string {
    return this.#inner.peerId;
  }

  get addresses(): readonly string[] {
    return this.#inner.addresses;
  }

  sever(peerId: string): void {
    if (this.#isClosed) throw closedTransport();
    if (!this.#cuts.has(peerId)) this.#cuts.set(peerId, new Cut());
  }

  mend(peerId: string): void {
    const cut = this.#cuts.get(peerId);
    if (cut === undefined) return;
    this.#cuts.delete(peerId);
    for (const pass of cut.onMend) pass();
    cut.mended.resolve();
  }

  async dial(addresses: string | readonly string[], protocol: string, options: DialOptions = {}): Promise<ByteStream> {
    const list = typeof addresses === "string" ? [addresses] : addresses;
    const [, peerId] = /\/p2p\/([^/]+)$/.exec(list[0] ?? "") ?? [];
    const signal = options.signal ?? AbortSignal.timeout(DIAL_LIMIT_MS);
    for (let cut = this.#cuts.get(peerId ?? ""); cut !== undefined; cut = this.#cuts.get(peerId ?? "")) {
      if (!(await isMended(cut, signal))) throw unreachable(list.join(", "), "no answer in time");
    }
    return this.#wrap(await this.#inner.dial(addresses, protocol, { ...options, signal }));
  }

  handle(protocol: string, handler: StreamHandler): Promise<void> {
    return this.#inner.handle(protocol, (stream) => handler(this.#wrap(stream)));
  }

  disconnect(peerId: string): void {
    this.#inner.disconnect(peerId);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#inner.close();
    for (const peerId of this.#cuts.keys()) this.mend(peerId);
  }

  #wrap(inner: ByteStream): ByteStream {
    return new SeverableStream(inner, () => this.#cuts.get(inner.remotePeer));
  }
}

/** Waits for the end of the cut, or of the signal. */
async function isMended(cut: Cut, signal: AbortSignal): Promise<boolean> {
  const aborted = Promise.withResolvers<void>();
  const abort = (): void => aborted.resolve();
  signal.addEventListener("abort", abort);
  if (!signal.aborted) await Promise.race([cut.mended.promise, aborted.promise]);
  signal.removeEventListener("abort", abort);
  return !signal.aborted;
}
