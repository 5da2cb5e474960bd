/** @file A stream whose way can be severed: it passes everything on, or holds it, at most the queue's mark and one write. */
import type { Uint8ArrayList } from "uint8arraylist";
import { nowMs } from "../runtime/clock.ts";
import { streamEnded } from "./net-errors.ts";
import type { Cut } from "./severable.ts";
import type { ByteStream, Ownership } from "./transport.ts";
import { within } from "./wait.ts";

export class SeverableStream implements ByteStream {
  readonly remotePeer: string;
  readonly source: AsyncIterableIterator<Uint8ArrayList>;
  readonly #inner: ByteStream;
  readonly #cut: () => Cut | undefined;
  readonly #arriving: AsyncIterator<Uint8ArrayList>;
  /** Copies, since their owners know nothing of the cut. */
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #state: "open" | "closing" | "ended" = "open";
  /** Resolves when this side has aborted: what waits for the way to be mended waits no longer. */
  readonly #aborted = Promise.withResolvers<void>();

  /** @param cut the way's state now */
  constructor(inner: ByteStream, cut: () => Cut | undefined) {
    this.remotePeer = inner.remotePeer;
    this.#inner = inner;
    this.#cut = cut;
    this.#arriving = inner.source[Symbol.asyncIterator]();
    this.source = {
      next: () => this.#next(),
      return: () => {
        this.#discard();
        return Promise.resolve({ done: true, value: undefined });
      },
      [Symbol.asyncIterator]: () => this.source,
    };
  }

  get unreadBytesMax(): number {
    return this.#inner.unreadBytesMax;
  }

  set unreadBytesMax(bytes: number) {
    this.#inner.unreadBytesMax = bytes;
  }

  get queuedBytesMark(): number {
    return this.#inner.queuedBytesMark;
  }

  set queuedBytesMark(bytes: number) {
    this.#inner.queuedBytesMark = bytes;
  }

  /** While the way is severed the stream below may be above its mark, and its memory in use. */
  stage(sizeBytes: number): Uint8Array {
    return this.#cut() === undefined ? this.#inner.stage(sizeBytes) : new Uint8Array(sizeBytes);
  }

  write(bytes: Uint8Array, ownership: Ownership): boolean {
    if (this.#state !== "open") throw streamEnded(this.remotePeer);
    const cut = this.#cut();
    if (cut === undefined) return this.#inner.write(bytes, ownership);
    if (this.#held.length === 0) cut.onMend.push(() => this.#pass());
    this.#held.push(new Uint8Array(bytes));
    this.#heldBytes += bytes.byteLength;
    return this.#heldBytes < this.queuedBytesMark;
  }

  ready(): Promise<void> {
    return this.#cut() === undefined ? this.#inner.ready() : this.#readyWhileCut();
  }

  flushed(): Promise<void> {
    return this.#held.length === 0 ? this.#inner.flushed() : this.#flushedWhenMended();
  }

  async close(limitMs: number): Promise<void> {
    if (this.#state !== "open") return;
    this.#state = "closing";
    const startedMs = nowMs();
    const isMended = await within(
      this.#mended().then(() => true),
      limitMs,
      () => false,
    );
    if (isMended) await this.#inner.close(Math.max(0, Math.ceil(limitMs - (nowMs() - startedMs))));
    else this.abort(streamEnded(this.remotePeer));
  }

  /** While the way is severed the other side does not hear of it. */
  abort(reason: Error): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#held = [];
    this.#aborted.resolve();
    const cut = this.#cut();
    if (cut === undefined) {
      this.#inner.abort(reason);
      return;
    }
    this.#discard();
    cut.onMend.push(() => this.#inner.abort(reason));
  }

  /** In the time of the call that mends, before anybody can write again. */
  #pass(): void {
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    try {
      for (const bytes of held) this.#inner.write(bytes, "given");
    } catch {
      // The stream below has ended meanwhile: whoever writes or waits next hears of it.
    }
  }

  async #readyWhileCut(): Promise<void> {
    if (this.#heldBytes >= this.queuedBytesMark) await this.#mended();
    this.#refuseWhenEnded();
    if (this.#cut() === undefined) await this.#inner.ready();
  }

  async #flushedWhenMended(): Promise<void> {
    while (this.#held.length > 0) await this.#mended();
    this.#refuseWhenEnded();
    await this.#inner.flushed();
  }

  /** One turn more than the stream below takes, and no more: it is on the way of every byte. */
  #next(): Promise<IteratorResult<Uint8ArrayList>> {
    return this.#arriving
      .next()
      .then((result) => (this.#cut() === undefined ? result : this.#arriveWhenMended(result)));
  }

  async #arriveWhenMended(result: IteratorResult<Uint8ArrayList>): Promise<IteratorResult<Uint8ArrayList>> {
    await this.#mended();
    return this.#state === "ended" ? { done: true, value: undefined } : result;
  }

  /** Resolves when the way is whole, or this side has aborted. */
  async #mended(): Promise<void> {
    for (let cut = this.#cut(); cut !== undefined && this.#state !== "ended"; cut = this.#cut()) {
      await Promise.race([cut.mended.promise, this.#aborted.promise]);
    }
  }

  #refuseWhenEnded(): void {
    if (this.#state === "ended") throw streamEnded(this.remotePeer);
  }

  /** What still arrives is thrown away. */
  #discard(): void {
    this.#arriving.return?.().catch(() => {});
  }
}
