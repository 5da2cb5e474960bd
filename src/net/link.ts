/**
 * @file A framed conversation over one stream. It opens with a Hello each way and ends with a GOODBYE each way, because a
 * stream of libp2p can read "open" before anyone listens, and looks closed in order when the peer was killed. Flow
 * control is by bytes that the receiver grants once its handler has processed them, because the transport reads on
 * however slow the handler is.
 *
 * Frames pass two pipelines: outgoing entries → pieces → stream, and stream → frames → handler.
 */
import { pipe } from "it-pipe";
import type { Uint8ArrayList } from "uint8arraylist";
import { NetworkError, ProtocolError } from "../types/errors.ts";
import { FrameDecoder } from "../wire/decoder.ts";
import type { Frame } from "../wire/decoder.ts";
import { FrameKind, frameFields, HEADER_BYTES } from "../wire/header.ts";
import type { FrameFields, FrameHeader } from "../wire/header.ts";
import { HandlerQueue } from "./handler-queue.ts";
import {
  decodeAnswer,
  decodeHello,
  encodeJson,
  greetingError,
  noHello,
  refusal,
  shorten,
  unexpected,
} from "./hello.ts";
import type { Hello } from "./hello.ts";
import type { Decision, LinkCounters, LinkEnd, Receiver } from "./link-types.ts";
import { streamEnded } from "./net-errors.ts";
import { Outgoing } from "./outgoing.ts";
import type { ByteStream } from "./transport.ts";
import { within } from "./wait.ts";
import { ReceiveWindow, SendWindow, WINDOW_BYTES_DEFAULT } from "./window.ts";

export type { Decision, LinkCounters, LinkEnd, Receiver } from "./link-types.ts";

export const HELLO_LIMIT_MS = 10_000;
export const GOODBYE_LIMIT_MS = 5_000;
/** How long a last word (a refusal, an abort) may take to leave. */
const LAST_WORD_LIMIT_MS = 1_000;
/** Received and not yet decoded: decoding follows at once, so this holds no more than what arrives in one turn. */
const UNREAD_BYTES_MAX = 16 * 1024 * 1024;
const NO_BYTES = new Uint8Array(0);

export class Link {
  readonly remotePeer: string;
  /** Resolves, never rejects, when the conversation is over. No handler is called afterwards. */
  readonly ended: Promise<LinkEnd>;
  readonly #ended = Promise.withResolvers<LinkEnd>();
  readonly #stream: ByteStream;
  readonly #outgoing = new Outgoing(() => this.#receiveWindow?.takeGrant() ?? 0);
  readonly #received = { bytes: 0, messages: 0 };
  readonly #greeted = Promise.withResolvers<Frame>();
  /** The greeting that the peer owes; it comes once. */
  #greetingDue: FrameKind | undefined;
  #receiver: Receiver | undefined;
  #receiveWindow: ReceiveWindow | undefined;
  #handlers: HandlerQueue | undefined;
  #end: LinkEnd | undefined;
  #isGrantQueued = false;
  #goodbyeSaid: "no" | "queued" | "written" = "no";
  #goodbyeHeard: "no" | "received" | "handled" = "no";

  private constructor(stream: ByteStream, greetingDue: FrameKind) {
    this.remotePeer = stream.remotePeer;
    this.ended = this.#ended.promise;
    this.#stream = stream;
    this.#greetingDue = greetingDue;
    stream.unreadBytesMax = UNREAD_BYTES_MAX;
    void this.#sendAll();
    void this.#receiveAll();
  }

  /**
   * Says hello on a stream that this side has dialled. The receiver may be called before the promise resolves.
   * @returns the link, and what the other side answered
   * @throws NetworkError with the other side's reason when it refuses, or when it does not answer within `limitMs`
   */
  static async open(
    stream: ByteStream,
    hello: Hello,
    receiver: Receiver,
    limitMs: number = HELLO_LIMIT_MS,
  ): Promise<{ link: Link; answer: Hello }> {
    const link = new Link(stream, FrameKind.helloAnswer);
    const windowBytes = link.#listen(receiver);
    void link.#urge(frameFields({ kind: FrameKind.hello, value: windowBytes }), encodeJson(hello));
    try {
      const { header, payload } = await link.#greeting(limitMs);
      const said = decodeAnswer(payload);
      if (said.kind === "refused") {
        link.#finish({ kind: "refused", by: "peer", reason: shorten(said.reason) });
        void link.#leave();
        throw refusal(stream.remotePeer, said.reason);
      }
      link.#allow(header.value);
      return { link, answer: said.answer };
    } catch (error) {
      link.#fail(error);
      throw error;
    }
  }

  /**
   * Waits for the hello on a stream that the other side has dialled, and answers as `decide` says.
   * @returns the link, or undefined when `decide` refused
   * @throws NetworkError when no hello comes within `limitMs`, ProtocolError when it is none
   */
  static async accept(
    stream: ByteStream,
    decide: (hello: Hello, remotePeer: string) => Decision | Promise<Decision>,
    limitMs: number = HELLO_LIMIT_MS,
  ): Promise<Link | undefined> {
    const link = new Link(stream, FrameKind.hello);
    try {
      const { header, payload } = await link.#greeting(limitMs);
      const decision = await decide(decodeHello(payload), stream.remotePeer);
      if (decision.kind === "refuse") {
        const refused = encodeJson({ kind: "refused", reason: shorten(decision.reason) });
        link.#lastWord({ kind: "refused", by: "us", reason: decision.reason }, FrameKind.helloAnswer, refused);
        return undefined;
      }
      const windowBytes = link.#listen(decision.receiver);
      const answer = encodeJson({ kind: "accepted", answer: decision.answer });
      void link.#urge(frameFields({ kind: FrameKind.helloAnswer, value: windowBytes }), answer);
      link.#allow(header.value);
      return link;
    } catch (error) {
      link.#fail(error);
      throw error;
    }
  }

  /** Bytes given to the stream, headers included, and the frames among them that `send` was given. */
  get sent(): LinkCounters {
    return this.#outgoing.sent;
  }

  /** Bytes decoded, headers included, and the frames among them that the receiver got. */
  get received(): LinkCounters {
    return this.#received;
  }

  /**
   * Queues a frame behind those sent before; callers may send several without waiting.
   * @param payload stays unchanged until the promise resolves: its memory may then be reused
   * @returns resolves when the payload has left, which waits for the peer's grants; rejects with a NetworkError when the
   * link ends first. A rejection that nobody handles is harmless, since `ended` tells the same.
   */
  send(fields: Partial<FrameFields> & Pick<FrameFields, "kind">, payload: Uint8Array = NO_BYTES): Promise<void> {
    const isCredited = true;
    if (this.#goodbyeSaid !== "no") return Outgoing.refused(streamEnded(this.remotePeer));
    return this.#outgoing.push(frameFields(fields), payload, isCredited);
  }

  /**
   * Sends what is queued, then GOODBYE, and waits for the peer's.
   * @returns how the link ended: `lost` when the peer took longer than `limitMs`
   */
  async close(limitMs: number = GOODBYE_LIMIT_MS): Promise<LinkEnd> {
    this.#sayGoodbye();
    await within(this.ended, limitMs, () => this.#lose());
    return this.ended;
  }

  /** Ends the link at once, and tells the peer why. */
  abort(reason: string): void {
    this.#lastWord({ kind: "refused", by: "us", reason }, FrameKind.abort, Buffer.from(shorten(reason)));
  }

  /** From now on frames go to this receiver; returns the window to state. */
  #listen(receiver: Receiver): number {
    const windowBytes = receiver.windowBytes ?? WINDOW_BYTES_DEFAULT;
    this.#receiver = receiver;
    this.#receiveWindow = new ReceiveWindow(windowBytes);
    this.#handlers = new HandlerQueue((frame) => receiver.handle(frame, this), {
      processed: (bytes) => this.#grant(bytes),
      failed: (error) => this.#fail(error),
      drained: () => this.#goodbyeHandled(),
    });
    return windowBytes;
  }

  async #sendAll(): Promise<void> {
    try {
      await pipe(
        this.#outgoing,
        (entries) => this.#outgoing.encode(entries, this.#stream),
        (pieces) => this.#outgoing.writeTo(this.#stream, pieces),
      );
    } catch (error) {
      // When the stream has ended, what it received before is read first: it may hold the peer's reason.
      if (error instanceof NetworkError) this.#outgoing.fail(error);
      else this.#fail(error);
    }
  }

  async #receiveAll(): Promise<void> {
    const decoder = new FrameDecoder((header) => this.#place(header));
    try {
      await pipe(
        this.#stream.source,
        (chunks) => this.#decode(chunks, decoder),
        (frames) => this.#takeAll(frames),
      );
      // A link that ends for a reason of its own still has its last word to send.
      if (this.#end === undefined) this.#lose();
    } catch (error) {
      this.#fail(error);
    }
  }

  async *#decode(source: AsyncIterable<Uint8ArrayList>, decoder: FrameDecoder): AsyncGenerator<Frame> {
    for await (const chunks of source) {
      this.#received.bytes += chunks.byteLength;
      for (const frame of decoder.decode(chunks)) {
        const gate = this.#receiver?.gate?.();
        if (gate !== undefined) await gate;
        if (this.#end !== undefined) return;
        yield frame;
      }
    }
  }

  async #takeAll(frames: AsyncIterable<Frame>): Promise<void> {
    for await (const frame of frames) {
      this.#take(frame);
      if (this.#end !== undefined) return;
    }
  }

  /** Memory for a payload, whose header has just arrived. */
  #place(header: FrameHeader): Uint8Array {
    if (this.#end !== undefined) throw unexpected(header);
    switch (header.kind) {
      case FrameKind.hello:
      case FrameKind.helloAnswer:
      case FrameKind.abort:
        return new Uint8Array(header.payloadBytes);
      default:
        this.#admit(header);
        return this.#receiverNow().destination(header);
    }
  }

  #take(frame: Frame): void {
    const { header, payload } = frame;
    if (header.kind === FrameKind.hello || header.kind === FrameKind.helloAnswer) {
      this.#greet(frame);
      return;
    }
    if (header.grantedBytes > 0) {
      if (this.#outgoing.window === undefined) throw unexpected(header);
      this.#outgoing.window.grant(header.grantedBytes);
      this.#outgoing.resume();
    }
    switch (header.kind) {
      case FrameKind.grant:
        return;
      case FrameKind.goodbye:
        if (this.#goodbyeHeard !== "no" || this.#handlers === undefined) throw unexpected(header);
        this.#goodbyeHeard = "received";
        this.#handlers.finish();
        return;
      case FrameKind.abort:
        this.#finish({ kind: "refused", by: "peer", reason: shorten(Buffer.from(payload).toString()) });
        void this.#leave();
        return;
      default:
        if (payload.byteLength === 0) this.#admit(header);
        this.#received.messages++;
        this.#handlers?.push(frame);
    }
  }

  /** Checks that the peer may send this frame now. */
  #admit(header: FrameHeader): void {
    if (this.#goodbyeHeard !== "no") throw unexpected(header);
    this.#receiverNow();
    this.#receiveWindow?.receive(HEADER_BYTES + header.payloadBytes);
  }

  #receiverNow(): Receiver {
    if (this.#receiver === undefined)
      throw new ProtocolError("a frame came before the hello was answered", "run the same build on every node");
    return this.#receiver;
  }

  #greet(frame: Frame): void {
    if (frame.header.kind !== this.#greetingDue) throw unexpected(frame.header);
    this.#greetingDue = undefined;
    this.#greeted.resolve(frame);
  }

  /** The peer's hello or answer, within `limitMs`. */
  async #greeting(limitMs: number): Promise<Frame> {
    const ended = this.ended.then((end) => {
      throw greetingError(this.remotePeer, end);
    });
    return within(Promise.race([this.#greeted.promise, ended]), limitMs, () => {
      this.#lose();
      throw noHello(this.remotePeer);
    });
  }

  /** The peer has stated how much it takes ahead: frames may go. */
  #allow(windowBytes: number): void {
    this.#outgoing.window = new SendWindow(windowBytes);
    this.#outgoing.resume();
  }

  #grant(bytes: number): void {
    this.#receiveWindow?.process(bytes);
    if (this.#isGrantQueued || this.#receiveWindow?.isGrantDue !== true) return;
    this.#isGrantQueued = true;
    void this.#urge(frameFields({ kind: FrameKind.grant })).then(
      () => (this.#isGrantQueued = false),
      () => {},
    );
  }

  #urge(fields: FrameFields, payload: Uint8Array = NO_BYTES): Promise<void> {
    return this.#outgoing.pushUrgent(fields, payload);
  }

  #sayGoodbye(): void {
    if (this.#goodbyeSaid !== "no" || this.#end !== undefined) return;
    this.#goodbyeSaid = "queued";
    void this.#outgoing.push(frameFields({ kind: FrameKind.goodbye }), NO_BYTES, false).then(
      () => {
        this.#goodbyeSaid = "written";
        this.#finishAfterGoodbyes();
      },
      () => {},
    );
  }

  #goodbyeHandled(): void {
    this.#goodbyeHeard = "handled";
    this.#sayGoodbye();
    this.#finishAfterGoodbyes();
  }

  #finishAfterGoodbyes(): void {
    if (this.#goodbyeSaid !== "written" || this.#goodbyeHeard !== "handled") return;
    this.#finish({ kind: "goodbye" });
    void this.#leave();
  }

  #lose(): void {
    this.#finish({ kind: "lost" });
    this.#stream.abort(streamEnded(this.remotePeer));
  }

  /** A wrong frame is the peer's fault, any other error is ours. */
  #fail(error: unknown): void {
    const isTheirs = error instanceof ProtocolError;
    const reason = isTheirs ? error.message : "the receiver failed";
    const end: LinkEnd = isTheirs ? { kind: "refused", by: "us", reason } : { kind: "failed", error };
    this.#lastWord(end, FrameKind.abort, Buffer.from(shorten(reason)));
  }

  /** Ends the link, and gives one frame a short time to leave. */
  #lastWord(end: LinkEnd, kind: FrameKind, payload: Uint8Array): void {
    if (this.#end !== undefined) return;
    this.#handlers?.stop();
    this.#outgoing.fail(streamEnded(this.remotePeer));
    const written = this.#urge(frameFields({ kind }), payload).catch(() => {});
    this.#end = end;
    this.#ended.resolve(end);
    void within(written, LAST_WORD_LIMIT_MS, () => {}).then(() => this.#leave());
  }

  #finish(end: LinkEnd): void {
    if (this.#end !== undefined) return;
    this.#handlers?.stop();
    this.#outgoing.end(streamEnded(this.remotePeer));
    this.#end = end;
    this.#ended.resolve(end);
  }

  /** The last bytes go out; then nothing of the stream remains, whatever the peer does. */
  async #leave(): Promise<void> {
    await this.#stream.close(LAST_WORD_LIMIT_MS);
    this.#outgoing.end(streamEnded(this.remotePeer));
    this.#stream.abort(streamEnded(this.remotePeer));
  }
}
