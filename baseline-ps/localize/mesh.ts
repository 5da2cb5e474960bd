/**
 * @file A link between every two nodes of a group: the higher one dials. All nodes are to listen before any of them connects. Frames of a link are
 * handled in the order in which they were sent; what a node says to itself does not come here.
 */
import { GOODBYE_LIMIT_MS, Link, type Receiver } from "../../src/net/link.ts";
import type { Decision, LinkEnd } from "../../src/net/link-types.ts";
import type { Hello } from "../../src/net/hello.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { NetworkError, NodeLostError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { trafficOf } from "../runtime/account.ts";
import type { Encoded } from "./frames.ts";

export interface MeshInit {
  readonly protocol: string;
  readonly node: number;
  readonly nodes: number;
  /** What all nodes of the group say alike. */
  readonly hello: Hello;
  readonly transport: Transport;
  /** Memory for a payload. Throws ProtocolError for what is not expected. */
  readonly destination: (header: FrameHeader) => Uint8Array;
  readonly hear: (frame: Frame) => void;
  /** A node is gone, or what it said could not be handled. Once. */
  readonly onFailure: (error: Error) => void;
}

/** How long a node waits for the others, which listen already. */
const MEET_LIMIT_MS = 20_000;
/** Counts those who have come to a barrier. */
const COUNTER = 0;

export class Mesh {
  readonly #init: MeshInit;
  readonly #links = new Map<number, Link>();
  readonly #accepted: readonly PromiseWithResolvers<void>[];
  /** Nodes that said hello: each does once. */
  readonly #known = new Set<number>();
  /** Until the barrier that this node waits at is open. */
  #barrier: PromiseWithResolvers<void> | undefined;
  /** At the counter. */
  #came = 0;
  #failure: Error | undefined;

  private constructor(init: MeshInit) {
    this.#init = init;
    this.#accepted = Array.from({ length: init.nodes }, () => Promise.withResolvers<void>());
  }

  static async listen(init: MeshInit): Promise<Mesh> {
    const mesh = new Mesh(init);
    const fail = (error: unknown): void => mesh.#fail(error as Error);
    await init.transport.handle(init.protocol, (stream) => void mesh.#accept(stream).catch(fail));
    return mesh;
  }

  get counters(): ReturnType<typeof trafficOf> {
    return trafficOf([...this.#links.values()], this.#init.transport.peerId);
  }

  /**
   * Until every node has a link with every other.
   * @param addresses of each node
   * @throws NetworkError where one cannot be reached, refuses, or does not come
   */
  async connect(addresses: readonly (readonly string[])[]): Promise<void> {
    const { node, nodes } = this.#init;
    const lower = addresses.slice(0, node).map((each, other) => this.#dial(each, other));
    const higher = this.#accepted.slice(node + 1).map(({ promise }) => promise);
    await within(Promise.all([...lower, ...higher]), MEET_LIMIT_MS, () => {
      const missing = Array.from({ length: nodes }, (_, other) => other).filter(
        (other) => other !== node && !this.#links.has(other),
      );
      throw new NetworkError(`no link with node ${missing.join(", ")}`, "see what it wrote; start all again");
    });
    // Who has all links may use them: others are to have theirs first.
    await this.barrier();
  }

  /** What rejects is the link's end, which is told apart. @param payload is the link's from now on */
  send(to: number, { fields, payload }: Encoded): void {
    const link = defined(this.#links.get(to), `a link with node ${to}`);
    link.send(fields, payload).catch(() => {});
  }

  /** Until all nodes have come here as often as this one. One at a time. Rejects where a node is gone. */
  barrier(): Promise<void> {
    assert(this.#barrier === undefined, "a node is at one barrier at a time");
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    this.#barrier = Promise.withResolvers();
    const { promise } = this.#barrier;
    if (this.#init.node === COUNTER) this.#come();
    else this.send(COUNTER, { fields: { kind: FrameKind.barrier } });
    return promise;
  }

  /** Says GOODBYE to every node, and waits for theirs. */
  async close(): Promise<void> {
    await Promise.all([...this.#links.values()].map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  async #dial(addresses: readonly string[], other: number): Promise<void> {
    const { transport, protocol, hello, node } = this.#init;
    const stream = await transport.dial(addresses, protocol);
    const { link } = await Link.open(stream, { ...hello, node }, this.#receiver());
    this.#keep(other, link);
  }

  async #accept(stream: ByteStream): Promise<void> {
    let from: number | undefined;
    const link = await Link.accept(stream, (hello) => this.#decide(hello, (other) => (from = other)));
    if (link === undefined || from === undefined) return;
    this.#keep(from, link);
    this.#accepted[from]!.resolve();
  }

  #decide({ node: other, ...said }: Hello, accepted: (other: number) => void): Decision {
    const { hello, node, nodes } = this.#init;
    const differs = Object.keys(hello).find((name) => said[name] !== hello[name]);
    if (differs !== undefined) return { kind: "refuse", reason: `another ${differs}` };
    const isHigher = typeof other === "number" && Number.isInteger(other) && other > node && other < nodes;
    if (!isHigher) return { kind: "refuse", reason: `no node above ${node} of ${nodes}` };
    if (this.#known.has(other)) return { kind: "refuse", reason: `node ${other} is here already` };
    this.#known.add(other);
    accepted(other);
    return { kind: "accept", answer: {}, receiver: this.#receiver() };
  }

  #receiver(): Receiver {
    const { destination, hear } = this.#init;
    return {
      destination,
      handle: (frame) => (frame.header.kind === FrameKind.barrier ? this.#heardBarrier() : hear(frame)),
    };
  }

  #keep(other: number, link: Link): void {
    this.#links.set(other, link);
    void link.ended.then((end) => {
      if (end.kind !== "goodbye") this.#fail(errorOf(other, end));
    });
  }

  #heardBarrier(): void {
    if (this.#init.node === COUNTER) this.#come();
    else this.#open();
  }

  #come(): void {
    this.#came += 1;
    if (this.#came < this.#init.nodes) return;
    this.#came = 0;
    for (const other of this.#links.keys()) this.send(other, { fields: { kind: FrameKind.barrier } });
    this.#open();
  }

  #open(): void {
    this.#barrier?.resolve();
    this.#barrier = undefined;
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#barrier?.reject(error);
    this.#init.onFailure(error);
  }
}

function errorOf(node: number, end: LinkEnd): Error {
  if (end.kind === "failed" && end.error instanceof Error) return end.error;
  const how = end.kind === "refused" ? `${end.by === "us" ? "refused" : "it refuses"}: ${end.reason}` : end.kind;
  return new NodeLostError(`node ${node} is gone (${how})`, "see what it wrote; start all again");
}
