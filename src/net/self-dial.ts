/**
 * @file A transport whose process may host both ends of a talk: a dial of its own peer id goes through a pair of streams in memory, which libp2p
 * refuses to dial; everything else passes through. Whatever takes the network's shape or is counted as traffic lies under this, not over it.
 */
import { MemoryNetwork } from "./memory.ts";
import type { ByteStream, DialOptions, StreamHandler, Transport } from "./transport.ts";

/** @param outer is this one's from now on: closing this closes it */
export function selfDialling(outer: Transport): Transport {
  return new SelfDiallingTransport(outer);
}

class SelfDiallingTransport implements Transport {
  readonly #outer: Transport;
  readonly #inner: Transport;

  constructor(outer: Transport) {
    this.#outer = outer;
    this.#inner = new MemoryNetwork().join(outer.peerId);
  }

  get peerId(): string {
    return this.#outer.peerId;
  }

  get addresses(): readonly string[] {
    return this.#outer.addresses;
  }

  dial(addresses: string | readonly string[], protocol: string, options?: DialOptions): Promise<ByteStream> {
    const list = typeof addresses === "string" ? [addresses] : addresses;
    const isOwn = list.length > 0 && list.every((address) => address.endsWith(`/p2p/${this.peerId}`));
    return isOwn
      ? this.#inner.dial(this.#inner.addresses, protocol, options)
      : this.#outer.dial(addresses, protocol, options);
  }

  async handle(protocol: string, handler: StreamHandler): Promise<void> {
    await this.#inner.handle(protocol, handler);
    await this.#outer.handle(protocol, handler);
  }

  disconnect(peerId: string): void {
    if (peerId === this.peerId) this.#inner.disconnect(peerId);
    else this.#outer.disconnect(peerId);
  }

  async close(): Promise<void> {
    await Promise.all([this.#inner.close(), this.#outer.close()]);
  }
}
