/**
 * @file Two nodes of a ring in this process: one is real, the other one speaks on its edges what a test tells it to. Every wait
 * is bounded.
 */
import { expect } from "vitest";
import { joinRing, type Ring } from "../../ring/index.ts";
import { DATA_PROTOCOL } from "../../ring/runtime/edges.ts";
import type { Settings } from "../../src/config/settings.ts";
import { syntheticDataSet } from "../../src/data/synthetic.ts";
import { Link, type LinkEnd, type Receiver } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { NetworkError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { DataType, FrameKind, type FrameFields } from "../../src/wire/header.ts";
import { jobOf, joinerOf, ringInit, Scratch, soon, tinySettings } from "./memory-ring.ts";

/** Without replicas: a broken protocol ends the run, and words on control streams are few. */
const settings = tinySettings({ steps: 1_000, replicas: 0 });
const data = syntheticDataSet({ classes: 4, features: 6, samples: 48, test: 11 }, settings.seed);
/** The job's id as text, and as frames carry it. */
export const { job: JOB_TEXT } = jobOf(settings);
export const JOB = BigInt(`0x${JOB_TEXT}`);
/** Of the model's layers: what enters the first, then what leaves each. */
export const WIDTHS = [6, 9, 5, 7, 4] as const;

type Word = Readonly<Record<string, unknown>>;

/** Takes whatever comes, and shows the first frame of each kind. */
export class Listener implements Receiver {
  readonly #first = new Map<number, PromiseWithResolvers<Frame>>();
  readonly #words: { readonly isWanted: (word: Word) => boolean; readonly come: (word: Word) => void }[] = [];
  readonly destination: Receiver["destination"] = (header) => new Uint8Array(header.payloadBytes);
  readonly handle = (frame: Frame): void => {
    this.#of(frame.header.kind).resolve(frame);
    if (frame.header.kind !== FrameKind.control) return;
    const word = JSON.parse(Buffer.from(frame.payload).toString("utf8")) as Word;
    for (const { isWanted, come } of this.#words) if (isWanted(word)) come(word);
  };

  first(kind: FrameKind): Promise<Frame> {
    return soon(this.#of(kind).promise, `a frame of kind ${kind}`);
  }

  /** After the first. */
  nextToken(): Promise<Frame> {
    this.#first.delete(FrameKind.token);
    return this.first(FrameKind.token);
  }

  /** The next word that is wanted. */
  word(isWanted: (word: Word) => boolean): Promise<Word> {
    const { promise, resolve } = Promise.withResolvers<Word>();
    this.#words.push({ isWanted, come: resolve });
    return soon(promise, "a word");
  }

  #of(kind: number): PromiseWithResolvers<Frame> {
    const found = this.#first.get(kind) ?? Promise.withResolvers<Frame>();
    this.#first.set(kind, found);
    return found;
  }
}

export class Duel implements AsyncDisposable {
  readonly listener = new Listener();
  readonly #scratch: Scratch;
  readonly #transports: readonly Transport[];
  readonly #real: Ring;
  readonly #fake: Transport;
  /** How the real node's run ended. */
  readonly ended: Promise<unknown>;

  private constructor(scratch: Scratch, transports: readonly Transport[], real: Ring, fake: Transport) {
    this.#scratch = scratch;
    this.#transports = transports;
    this.#real = real;
    this.#fake = fake;
    this.ended = soon(
      real.train(this.#scratch.folder()).then(
        () => "it was not refused",
        (error: unknown) => error,
      ),
      "the end of the run",
    ).catch((error: unknown) => error);
  }

  /** @param realNode 0: the real node founds, and holds the model's beginning. */
  static async form(realNode: 0 | 1, changes: Partial<Settings> = {}): Promise<Duel> {
    const chosen = { ...settings, ...changes };
    const network = new MemoryNetwork();
    const transports = [network.join("node-0"), network.join("node-1")] as const;
    const fake = transports[1 - realNode]!;
    let duel: Duel | undefined;
    // The fake forms the ring like any node, but takes the streams of its edges itself.
    const accept = (stream: ByteStream): void => {
      const receiver: Receiver = {
        destination: (header) => duel!.listener.destination(header),
        handle: (frame) => duel!.listener.handle(frame),
      };
      Link.accept(stream, () => ({ kind: "accept", answer: {}, receiver })).catch(() => {});
    };
    const mask = (transport: Transport): Transport => ({
      ...{ peerId: transport.peerId, addresses: transport.addresses },
      dial: (...given) => transport.dial(...given),
      handle: (protocol, handler) => transport.handle(protocol, protocol === DATA_PROTOCOL ? accept : handler),
      disconnect: (peerId) => transport.disconnect(peerId),
      close: () => transport.close(),
    });
    const scratch = new Scratch();
    const states = await Promise.all([scratch.state(), scratch.state()]);
    const [founding, joining] = [transports[0], transports[1]].map((each) => (each === fake ? mask(each) : each));
    const rings = await soon(
      Promise.all([
        joinRing(ringInit(founding!, states[0], { kind: "founder", job: jobOf(chosen), data })),
        joinRing(ringInit(joining!, states[1], joinerOf(transports[0].addresses[0]!))),
      ]),
      "the formation",
    );
    duel = new Duel(scratch, transports, rings[realNode], fake);
    return duel;
  }

  dial(): Promise<ByteStream> {
    const real = this.#transports[this.#real.node]!;
    return soon(this.#fake.dial(real.addresses, DATA_PROTOCOL), "a dial");
  }

  /** Opens an edge to the real node, as its neighbour would but for `changes`. */
  async open(direction: "forward" | "backward", changes: Record<string, unknown> = {}): Promise<Link> {
    const hello = { kind: "edge", job: JOB_TEXT, view: 0, direction, ...changes };
    const { link } = await soon(Link.open(await this.dial(), hello, new Listener()), "an edge");
    return link;
  }

  /** Both edges, and the places of the fake's first segment: a first node then sends its activations. */
  async openAll(): Promise<{ readonly forward: Link; readonly backward: Link }> {
    const [forward, backward] = await Promise.all([this.open("forward"), this.open("backward")]);
    if (this.#real.node === 0) say(backward, places(0));
    return { forward, backward };
  }

  /** Of the model as it was cut first; one range a stage. */
  get cut(): readonly (readonly [start: number, end: number])[] {
    return this.#real.view.cut;
  }

  /** Columns of what enters the second stage. */
  get width(): number {
    return WIDTHS[this.cut[0]![1]]!;
  }

  /** The fake dies. */
  vanish(): Promise<void> {
    return this.#fake.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#transports.map((transport) => transport.close()));
    await this.ended;
    this.#scratch.remove();
  }
}

type Fields = Partial<FrameFields> & Pick<FrameFields, "kind">;

export function send(link: Link, fields: Fields, payload?: Uint8Array): void {
  link.send({ job: JOB, dtype: DataType.bytes, ...fields }, payload).catch(() => {});
}

export function say(link: Link, word: unknown): void {
  send(link, { kind: FrameKind.control }, Buffer.from(JSON.stringify(word)));
}

export function tell(link: Link, message: unknown): void {
  send(link, { kind: FrameKind.token }, Buffer.from(JSON.stringify(message)));
}

/** Of a lap under the first cut. */
export const places = (lap: number) => ({ say: "credits", lap, credits: 4, opensPlan: 0 });
export const floats = (count: number): Uint8Array => new Uint8Array(4 * count);

/** What a node says of its layers to the ring. */
export const measure = (node: number, layers: readonly (readonly [layer: number, us: number])[]) => ({
  node,
  layers: layers.map(([layer, us]) => ({ layer, us })),
  capBytes: null,
});

/** The real node ended the link and the run for this reason, which both sides know. */
export async function expectRefusal(duel: Duel, link: Link, reason: string): Promise<void> {
  const end: LinkEnd = await soon(link.ended, "the end of the link");
  expect(end).toMatchObject({ kind: "refused", by: "peer", reason: expect.stringContaining(reason) });
  const error = await duel.ended;
  expect(error).toBeInstanceOf(NetworkError);
  expect((error as Error).message).toMatch(/^node [01] broke the protocol: /);
  expect((error as Error).message).toContain(reason);
}
