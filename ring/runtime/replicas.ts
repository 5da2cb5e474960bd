/**
 * @file Streams of copies. An owner opens one to each node that keeps copies of its layers: the step's accumulated gradient goes out in parts
 * that give way to tensors on their way along the ring; what the copy holds comes back. Layers as they stand are fetched over streams of their own.
 */
import { Link, type Decision, type Receiver } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import { BULK_BYTES_MARK, type Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import type { LayerBlock } from "../../src/nn/blocks.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { HeldLayout } from "../../src/nn/layout.ts";
import type { EngineMemory } from "../../src/engine/memory.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { DataType, FrameKind, REPLICA_PART_BYTES_MAX, type FrameHeader } from "../../src/wire/header.ts";
import type { NodeTraffic } from "../core/copies.ts";
import { appliedSchema, replicaHelloSchema } from "./control-messages.ts";
import { checkMessage, encodeMessage, parseMessage } from "./messages.ts";

export const REPLICA_PROTOCOL = "/ringtmp/replica/1";
/** An owner may know of the view before this node has installed it. */
const INSTALL_LIMIT_MS = 10_000;
/** A holder of which nothing comes for so long is given up: another one may have the layers. However much there is, its parts come sooner. */
const FETCH_QUIET_MS = 10_000;
const REDIAL_MS = 200;
/** An owner may send so much ahead: with more, tensors on the same connection wait behind it. */
const WINDOW_BYTES = 1024 * 1024;

const REMEDY = "run the same build on every node";

export interface Applied {
  readonly version: number;
  readonly digests: readonly string[];
}

/** One owner's gradients to one holder of copies. */
export interface FollowerInit {
  readonly transport: Transport;
  readonly addresses: readonly string[];
  readonly job: string;
  readonly view: number;
  readonly owner: number;
  readonly applied: (applied: Applied) => void;
  /** The stream broke before the view was over. Another one would lack the gradients that were on their way. */
  readonly ended: () => void;
}

export class Follower {
  readonly #init: FollowerInit;
  readonly #opened = Promise.withResolvers<Link>();
  #link: Link | undefined;
  #isOver = false;

  constructor(init: FollowerInit) {
    this.#init = init;
    // Whoever sends sees it; before that it must not count as unhandled.
    this.#opened.promise.catch(() => {});
    void this.#open();
  }

  get traffic(): NodeTraffic {
    return trafficOf(this.#link === undefined ? [] : [this.#link]);
  }

  /** `layers` must stay as they are until every copy has told that it has the step. */
  async send(
    step: number,
    loss: number,
    layers: readonly { readonly layer: number; readonly bytes: Uint8Array }[],
  ): Promise<void> {
    try {
      const link = await this.#opened.promise;
      const { job, view } = this.#fields;
      for (const { layer, bytes } of layers) {
        for (let offset = 0; offset < bytes.length; offset += REPLICA_PART_BYTES_MAX) {
          const part = bytes.subarray(offset, offset + REPLICA_PART_BYTES_MAX);
          const fields = { kind: FrameKind.replica, dtype: DataType.float32, shape: [part.length / 4] };
          await link.send({ ...fields, job, view, step, microBatch: layer, value: offset }, part);
        }
      }
      await link.send({ kind: FrameKind.replicaDone, job, view, step, value: loss });
    } catch {
      // A stream that is lost shows in `ended`.
    }
  }

  /** Tells a spare, which is in no ring of owners, how far the ring is. */
  tellFrontier(version: number): void {
    this.#opened.promise
      .then((link) => link.send({ kind: FrameKind.frontier, ...this.#fields, step: version }))
      .catch(() => {});
  }

  stop(): void {
    this.#isOver = true;
    this.#opened.reject(new Error("the view is over"));
    this.#link?.abort("the view is over");
  }

  get #fields() {
    return { job: BigInt(`0x${this.#init.job}`), view: this.#init.view };
  }

  async #open(): Promise<void> {
    const { transport, addresses, job, view, owner, applied, ended } = this.#init;
    const receiver: Receiver = {
      destination: ({ kind, payloadBytes }) => {
        if (kind === FrameKind.applied) return new Uint8Array(payloadBytes);
        throw new ProtocolError(`kind ${kind} does not come from a copy`, REMEDY);
      },
      handle: ({ payload }) => {
        if (!this.#isOver) applied(parseMessage(appliedSchema, payload));
      },
    };
    while (!this.#isOver) {
      try {
        const stream = await transport.dial(addresses, REPLICA_PROTOCOL);
        stream.queuedBytesMark = BULK_BYTES_MARK;
        const { link } = await Link.open(stream, { kind: "follow", job, view, owner }, receiver, INSTALL_LIMIT_MS);
        this.#link = link;
        this.#opened.resolve(link);
        if (this.#isOver) link.abort("the view is over");
        // 1. The holder, no neighbour, suspects this node and ends its connections. 2. It hears it again before a view changes. 3. Nobody else
        // would tell this node that its gradients get nowhere.
        void link.ended.then(() => this.#isOver || ended());
        return;
      } catch {
        // Busy, or not that far. A dead one is replaced by the next view.
        await new Promise((resolve) => setTimeout(resolve, REDIAL_MS));
      }
    }
  }
}

function trafficOf(links: readonly Link[]): NodeTraffic {
  return {
    sent: links.reduce((sum, { sent }) => sum + sent.bytes, 0),
    received: links.reduce((sum, { received }) => sum + received.bytes, 0),
  };
}

/** A view's copies at this node, as they are installed. */
export interface Copies {
  readonly job: string;
  readonly view: number;
  readonly restoreStep: number;
  /** No frame of the ring reaches this node: owners tell it the frontier. */
  readonly isSpare: boolean;
  readonly memory: EngineMemory;
  /** Node of a peer that owns layers which are copied here. */
  readonly ownerOf: (peerId: string) => number | undefined;
  readonly layoutsOf: (owner: number) => readonly HeldLayout[];
  /** Whether the gradient of this step may overwrite the last one. */
  readonly mayReceive: (owner: number, step: number) => boolean;
  readonly gradient: (owner: number, step: number, loss: number) => void;
  readonly frontier: (version: number) => void;
  /** The stream of an owner broke, and none took its place. */
  readonly ended: (owner: number) => void;
}

/** Copies of layers at a version, as far as they are here. */
type CopiesAt = (version: number, layers: readonly number[]) => Promise<readonly LayerBlock[]>;

/** Streams that owners dial, and those that want layers. */
export class ReplicaInbox {
  #copies: Copies | undefined;
  /** Resolves with the next view's copies. */
  #installed = Promise.withResolvers<void>();
  readonly #owners = new Map<number, Link>();
  /** The newest of each: an owner whose stream broke hears it again on the next one. */
  readonly #told = new Map<number, Applied>();

  #job: string | undefined;
  #copiesAt: CopiesAt = () => Promise.resolve([]);

  /** From now on nodes that lack layers are served. */
  serve(job: string, copiesAt: CopiesAt): void {
    this.#job = job;
    this.#copiesAt = copiesAt;
  }

  async listen(transport: Transport): Promise<void> {
    await transport.handle(REPLICA_PROTOCOL, (stream) => {
      let accepted: ((link: Link) => void) | undefined;
      const decide = async (hello: Hello): Promise<Decision> => {
        const wish = checkMessage(replicaHelloSchema, hello);
        if (wish.job !== this.#job) return { kind: "refuse", reason: `job ${wish.job} is not this ring's job` };
        if (wish.kind === "fetch") {
          stream.queuedBytesMark = BULK_BYTES_MARK;
          const layers = [...new Set(wish.layers)];
          accepted = (link) => void answer(link, this.#copiesAt(wish.version, layers));
          return { kind: "accept", answer: {}, receiver: silent };
        }
        const copies = await this.#copiesOf(wish.view);
        if (copies?.ownerOf(stream.remotePeer) !== wish.owner) {
          return { kind: "refuse", reason: `no copies of node ${wish.owner} in view ${wish.view} are here` };
        }
        accepted = (link) => this.#attach(wish.owner, link, copies);
        return { kind: "accept", answer: {}, receiver: receiverOf(copies, wish.owner) };
      };
      Link.accept(stream, decide, INSTALL_LIMIT_MS + REDIAL_MS).then(
        (link) => link !== undefined && accepted?.(link),
        () => {},
      );
    });
  }

  /** The copies of a view are here: gradients may come. */
  install(copies: Copies): void {
    this.remove();
    this.#copies = copies;
    this.#installed.resolve();
    this.#installed = Promise.withResolvers();
  }

  /** The view is over: what is still on its way is dropped. */
  remove(): void {
    for (const link of this.#owners.values()) link.abort("the view is over");
    this.#owners.clear();
    this.#told.clear();
    this.#copies = undefined;
  }

  /** Tells an owner what its copy here holds, at once or when its stream is open. */
  tell(owner: number, applied: Applied): void {
    this.#told.set(owner, applied);
    this.#send(this.#owners.get(owner), applied);
  }

  #send(link: Link | undefined, applied: Applied): void {
    link?.send({ kind: FrameKind.applied, step: applied.version }, encodeMessage(applied)).catch(() => {});
  }

  /** Of the streams of those whose layers are copied here. */
  get traffic(): NodeTraffic {
    return trafficOf([...this.#owners.values()]);
  }

  async #copiesOf(view: number): Promise<Copies | undefined> {
    const untilMs = nowMs() + INSTALL_LIMIT_MS;
    while ((this.#copies?.view ?? -1) < view) {
      const leftMs = untilMs - nowMs();
      if (leftMs <= 0) return undefined;
      await within(this.#installed.promise, leftMs, () => undefined);
    }
    return this.#copies?.view === view ? this.#copies : undefined;
  }

  #attach(owner: number, link: Link, copies: Copies): void {
    if (this.#copies !== copies) return link.abort("the view is over");
    this.#owners.get(owner)?.abort("another stream took its place");
    this.#owners.set(owner, link);
    // The owner may not see it: what ends a connection gets lost on a cut line.
    void link.ended.then(() => this.#owners.get(owner) === link && copies.ended(owner));
    const applied = this.#told.get(owner);
    if (applied !== undefined) this.#send(link, applied);
  }
}

const silent: Receiver = {
  destination: ({ kind }) => {
    throw new ProtocolError(`kind ${kind} does not come from a node that fetches`, REMEDY);
  },
  handle: () => {},
};

async function answer(link: Link, copies: Promise<readonly LayerBlock[]>): Promise<void> {
  try {
    for (const { layer, bytes } of await copies) {
      // Small parts: over a slow line each is a sign that the install gets on.
      for (let offset = 0; offset < bytes.length; offset += REPLICA_PART_BYTES_MAX) {
        const part = bytes.subarray(offset, offset + REPLICA_PART_BYTES_MAX);
        const fields = { kind: FrameKind.parameters, dtype: DataType.float32, shape: [part.length / 4] };
        await link.send({ ...fields, microBatch: layer, value: offset }, part);
      }
    }
    await link.send({ kind: FrameKind.replicaDone });
    await link.close();
  } catch {
    // The asker is gone, or asks somebody else.
  }
}

/** What one owner sends to its copies here. */
function receiverOf(copies: Copies, owner: number): Receiver {
  const arrived = new Map<number, number>();
  let newest = copies.restoreStep - 1;
  const layers = copies.layoutsOf(owner).flatMap((layout) => layout.layers);
  const bytesOf = (layer: number): Uint8Array | undefined => {
    const gradient = layers.find(({ index }) => index === layer)?.gradient;
    return gradient == null ? undefined : copies.memory.bytes(gradient.all);
  };
  const guard = (header: FrameHeader): void => {
    if (header.job === BigInt(`0x${copies.job}`) && header.view === copies.view) return;
    throw new ProtocolError(`a frame of job ${header.job}, view ${header.view} on a stream of copies`, REMEDY);
  };
  const place = (header: FrameHeader): Uint8Array => {
    guard(header);
    const { microBatch: layer, value: offset, step, payloadBytes } = header;
    const bytes = header.kind === FrameKind.replica ? bytesOf(layer) : undefined;
    const isNext = bytes !== undefined && offset === (arrived.get(layer) ?? 0) && offset + payloadBytes <= bytes.length;
    if (bytes === undefined || !isNext || !copies.mayReceive(owner, step)) {
      throw new ProtocolError(`a part of layer ${layer} at ${offset} of step ${step} is not due`, REMEDY);
    }
    arrived.set(layer, offset + payloadBytes);
    return bytes.subarray(offset, offset + payloadBytes);
  };
  return {
    destination: place,
    windowBytes: WINDOW_BYTES,
    handle: ({ header }) => {
      guard(header);
      const { kind, step, value: loss } = header;
      if (kind === FrameKind.replica) return;
      if (kind === FrameKind.frontier) {
        // The version after the newest gradient is the highest that this copy can have told.
        if (!copies.isSpare || step > newest + 1) throw new ProtocolError(`frontier ${step} is not due`, REMEDY);
        return copies.frontier(step);
      }
      const isWhole = layers.every(({ index }) => arrived.get(index) === bytesOf(index)?.length);
      if (kind !== FrameKind.replicaDone || !isWhole) {
        throw new ProtocolError(`the end of step ${step}'s gradient is not due`, REMEDY);
      }
      arrived.clear();
      newest = step;
      copies.gradient(owner, step, loss);
    },
  };
}

export interface FetchInit {
  readonly transport: Transport;
  readonly addresses: readonly string[];
  readonly job: string;
  readonly version: number;
  readonly layers: readonly number[];
  /** Bytes of each of the model's layers as they travel. */
  readonly sizeOf: (layer: number) => number;
  readonly partArrived: () => void;
  readonly arrived: (block: LayerBlock) => void;
}

/** Asks one holder for layers; resolves when it has sent what it has, or cannot. Never rejects. */
export async function fetchLayers(init: FetchInit): Promise<void> {
  const { transport, addresses, job, version, layers, sizeOf, partArrived, arrived } = init;
  const parts = new Map<number, { readonly bytes: Uint8Array; done: number }>();
  let quiet: NodeJS.Timeout | undefined;
  const receiver: Receiver = {
    destination: ({ kind, microBatch: layer, value: offset, payloadBytes }) => {
      const part = parts.get(layer) ?? { bytes: new Uint8Array(layers.includes(layer) ? sizeOf(layer) : 0), done: 0 };
      if (kind !== FrameKind.parameters || offset !== part.done || offset + payloadBytes > part.bytes.length) {
        throw new ProtocolError(`a part of layer ${layer} at ${offset} was not asked for`, REMEDY);
      }
      parts.set(layer, part);
      part.done += payloadBytes;
      return part.bytes.subarray(offset, offset + payloadBytes);
    },
    handle: ({ header: { kind, microBatch: layer, value: offset, payloadBytes } }, link) => {
      if (kind === FrameKind.replicaDone) return void link.close();
      partArrived();
      quiet?.refresh();
      const bytes = parts.get(layer)?.bytes;
      if (bytes !== undefined && offset + payloadBytes === bytes.length) arrived({ layer, bytes });
    },
  };
  try {
    const signal = AbortSignal.timeout(FETCH_QUIET_MS);
    const stream = await transport.dial(addresses, REPLICA_PROTOCOL, { signal });
    const { link } = await Link.open(stream, { kind: "fetch", job, version, layers }, receiver);
    quiet = setTimeout(() => link.abort("nothing comes any more"), FETCH_QUIET_MS);
    await link.ended;
  } catch {
    // Somebody else may have them.
  } finally {
    clearTimeout(quiet);
  }
}
