/**
 * @file Links between servers that have copies of shards: what one says to another keeps its order. Each server dials those that it speaks to. A
 * link that ends says nothing here: who is gone is the manager's to say.
 */
import * as z from "zod";
import { GOODBYE_LIMIT_MS, Link, type Receiver } from "../../src/net/link.ts";
import type { Decision } from "../../src/net/link-types.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import {
  DataType,
  type FrameFields,
  FrameKind,
  type FrameHeader,
  LAYER_PART_BYTES_MAX,
} from "../../src/wire/header.ts";
import type { Update } from "../core/chain.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { ShardState } from "../core/shard-messages.ts";
import { trafficOf } from "./account.ts";
import type { ChainPeers, PeerMessage } from "./hosted-shard.ts";
import type { KeyMemory } from "./key-memory.ts";
import { bytesOf } from "./key-parts.ts";
import { encodeMessage, parseMessage } from "./messages.ts";

export function chainProtocol(job: string): string {
  return `/ringtmp/data/ps-chain/1/${job}`;
}

export interface ShardPeersInit {
  readonly job: string;
  readonly server: number;
  readonly shards: readonly KeyRange[];
  readonly memory: KeyMemory;
  readonly transport: Transport;
  readonly addressesOf: (server: number) => readonly string[];
  readonly onMessage: (shard: number, message: PeerMessage) => void;
  /** A copy of the shard has come and is kept. */
  readonly onInstalled: (shard: number, epoch: number) => void;
}

const PART_FLOATS = LAYER_PART_BYTES_MAX / 4;
const count = z.int().min(0);
const range = z.strictObject({ start: count, end: count });
const levels = z.array(z.strictObject({ ...range.shape, level: count })).max(65_536);
const stateSchema = z.strictObject({
  versions: levels,
  updates: levels,
  shares: z.array(z.strictObject({ step: count, added: z.array(z.array(range)).max(65_536) })).max(65_536),
});

export class ShardPeers implements ChainPeers {
  readonly #init: ShardPeersInit;
  /** By server: the link, when it is open; what is said before waits for it. */
  readonly #links = new Map<number, Promise<Link | undefined>>();
  readonly #all: Link[] = [];
  /** Copies of which a part has come, by sender, shard and epoch. */
  readonly #copies = new Map<string, Float32Array[]>();

  constructor(init: ShardPeersInit) {
    this.#init = init;
  }

  get counters(): { readonly bytesSent: number; readonly bytesReceived: number; readonly messagesSent: number } {
    return trafficOf(this.#all, this.#init.transport.peerId);
  }

  forward(to: number, shard: number, epoch: number, index: number, update: Update, values: Float32Array): void {
    const { step, share, keys } = update;
    const fields = { view: epoch, lap: shard, job: BigInt(index), step, microBatch: share === null ? 0 : share + 1 };
    this.#sendFloats(to, { kind: FrameKind.keyUpdate, ...fields, value: keys.start }, values.slice());
  }

  tell(to: number, shard: number, epoch: number, index: number): void {
    this.#send(to, { kind: FrameKind.keyHas, view: epoch, lap: shard, job: BigInt(index) });
  }

  copy(
    to: number,
    shard: number,
    epoch: number,
    updates: number,
    state: ShardState,
    arrays: readonly Float32Array[],
  ): void {
    const of = { view: epoch, lap: shard };
    for (const [credits, array] of arrays.entries()) {
      for (let value = 0; value < array.length; value += PART_FLOATS) {
        this.#sendFloats(
          to,
          { kind: FrameKind.keyCopy, ...of, credits, value },
          array.slice(value, value + PART_FLOATS),
        );
      }
    }
    this.#send(to, { kind: FrameKind.keyCopied, ...of, job: BigInt(updates) }, encodeMessage(state));
  }

  release(received: Float32Array): void {
    this.#init.memory.giveBack(received);
  }

  installed(shard: number, epoch: number): void {
    this.#init.onInstalled(shard, epoch);
  }

  /** Takes a stream that another server has dialled. */
  async accept(stream: ByteStream): Promise<void> {
    const link = await Link.accept(stream, ({ job, server }): Decision => {
      if (job !== this.#init.job || typeof server !== "number")
        return { kind: "refuse", reason: "no server of this job" };
      return { kind: "accept", answer: {}, receiver: this.#receiver(server) };
    });
    if (link !== undefined) this.#all.push(link);
  }

  async close(): Promise<void> {
    await Promise.all(this.#all.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  #sendFloats(to: number, fields: Partial<FrameFields> & Pick<FrameFields, "kind">, values: Float32Array): void {
    this.#send(to, { ...fields, dtype: DataType.float32, shape: [values.length] }, bytesOf(values));
  }

  #send(to: number, fields: Partial<FrameFields> & Pick<FrameFields, "kind">, payload?: Uint8Array): void {
    const link = this.#links.get(to) ?? this.#dial(to);
    this.#links.set(to, link);
    void link.then((open) => open?.send(fields, payload).catch(() => {}));
  }

  /** Undefined where nobody is there: then another view is to come. */
  async #dial(to: number): Promise<Link | undefined> {
    const { transport, job, server, addressesOf } = this.#init;
    const deaf: Receiver = {
      destination: () => {
        throw unasked(to);
      },
      handle: () => {},
    };
    try {
      const stream = await transport.dial(addressesOf(to), chainProtocol(job));
      const { link } = await Link.open(stream, { job, server }, deaf);
      this.#all.push(link);
      return link;
    } catch {
      return undefined;
    }
  }

  #receiver(from: number): Receiver {
    return {
      destination: (header) => this.#place(header, from),
      handle: (frame) => this.#hear(frame, from),
    };
  }

  #place({ kind, lap, value, shape, dtype, payloadBytes }: FrameHeader, from: number): Uint8Array {
    if (kind === FrameKind.keyCopied) return new Uint8Array(payloadBytes);
    const { shards, memory } = this.#init;
    const shard = shards[lap];
    const isUpdate = kind === FrameKind.keyUpdate;
    if (shard === undefined || dtype !== DataType.float32 || (!isUpdate && kind !== FrameKind.keyCopy))
      throw unasked(from);
    const start = isUpdate ? value - shard.start : value;
    if (!Number.isInteger(start) || start < 0 || start + shape[0]! > shard.end - shard.start) throw unasked(from);
    return isUpdate ? memory.place(payloadBytes) : new Uint8Array(payloadBytes);
  }

  #hear({ header, payload }: Frame, from: number): void {
    const { kind, view: epoch, lap: shard, job, step, microBatch, value, credits } = header;
    if (this.#init.shards[shard] === undefined) throw unasked(from);
    const index = Number(job);
    const floats = (): Float32Array => new Float32Array(payload.buffer, payload.byteOffset, payload.byteLength / 4);
    const { onMessage } = this.#init;
    switch (kind) {
      case FrameKind.keyUpdate: {
        const received = floats();
        const keys = { start: value, end: value + received.length };
        const update = { step, share: microBatch === 0 ? null : microBatch - 1, keys };
        return onMessage(shard, { kind: "update", from, epoch, index, update, values: { kind: "received", received } });
      }
      case FrameKind.keyHas:
        return onMessage(shard, { kind: "has", from, epoch, index });
      case FrameKind.keyCopy:
        this.#copyOf(from, shard, epoch, credits).set(floats(), value);
        return;
      case FrameKind.keyCopied: {
        const state = parseMessage(stateSchema, payload, `server ${from}`);
        const name = `${from} ${shard} ${epoch}`;
        const values = this.#copies.get(name) ?? [];
        this.#copies.delete(name);
        return onMessage(shard, { kind: "copy", from, epoch, updates: index, copy: { state, values } });
      }
      default:
        throw unasked(from);
    }
  }

  #copyOf(from: number, shard: number, epoch: number, array: number): Float32Array {
    const name = `${from} ${shard} ${epoch}`;
    const arrays = this.#copies.get(name) ?? [];
    this.#copies.set(name, arrays);
    const { start, end } = this.#init.shards[shard]!;
    return (arrays[array] ??= new Float32Array(end - start));
  }
}

function unasked(from: number): ProtocolError {
  return new ProtocolError(`server ${from} sent what no server of a chain sends`, "run the same build on every node");
}
