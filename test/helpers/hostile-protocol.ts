/**
 * @file A hostile peer for any protocol handler: garbage, torn and forged frames, good ones out of place, floods, silence, ends at
 * any point. It tells what the handler threw and how much memory it held. The same seed attacks in the same way.
 */
import type { Hello } from "../../src/net/hello.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { ByteStream, StreamHandler } from "../../src/net/transport.ts";
import { NetworkError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import {
  DataType,
  FrameKind,
  frameFields,
  HEADER_BYTES,
  payloadBytesMax,
  writeHeader,
  type FrameFields,
} from "../../src/wire/header.ts";
import { WINDOW_BYTES_DEFAULT } from "../../src/net/window.ts";
import { heapBytes } from "./heap.ts";

const PROTOCOL = "/attacked/1";
const ACTIONS_MAX = 12;
const FLOOD_BYTES = 8 * 1024 * 1024;
/** Turns of the event loop in which what was sent arrives and is answered; everything here is in memory. */
const TURNS = 6;

type Fields = Partial<FrameFields> & Pick<FrameFields, "kind">;

export interface Attack {
  readonly seed: number;
  /** Streams that are opened, one after the other. */
  readonly rounds: number;
  /** What a transport would be given for the protocol. */
  readonly serve: StreamHandler;
  /** A hello that may be accepted, as most streams begin. */
  readonly hello: Hello;
  /** Frames that may be expected after it: they are sent whole, damaged and out of place. */
  readonly frames: readonly { readonly fields: Fields; readonly payload: Uint8Array }[];
}

export interface Damage {
  /** What was thrown or rejected and not handled, with its round. Expected to be empty. */
  readonly uncaught: readonly string[];
  /** The most that array buffers held above the start while a stream was open, and what they still hold at the end. */
  readonly peakBytes: number;
  readonly leftBytes: number;
}

export async function attack(plan: Attack): Promise<Damage> {
  const uncaught: string[] = [];
  let round = 0;
  const note = (error: unknown): void => void uncaught.push(`seed ${plan.seed}, round ${round}: ${String(error)}`);
  const network = new MemoryNetwork();
  const [victim, attacker] = [network.join("victim"), network.join("attacker")];
  await victim.handle(PROTOCOL, (stream) => {
    try {
      plan.serve(stream);
    } catch (error) {
      note(error);
    }
  });
  process.on("unhandledRejection", note);
  const startBytes = heldBytes();
  let peakBytes = 0;
  try {
    for (; round < plan.rounds; round += 1) {
      const stream = await attacker.dial(victim.addresses, PROTOCOL);
      await new Attacker(plan, round).converse(stream);
      peakBytes = Math.max(peakBytes, heldBytes() - startBytes);
      stream.abort(new Error("the round is over"));
      await turns();
    }
    await Promise.all([victim.close(), attacker.close()]);
    await turns();
    return { uncaught, peakBytes, leftBytes: heldBytes() - startBytes };
  } finally {
    process.off("unhandledRejection", note);
  }
}

/** What the payload of a tensor must have; undefined for what has no shape. */
function shapeBytes({ dtype = DataType.bytes, shape = [] }: Partial<FrameFields>): number | undefined {
  return dtype === DataType.bytes ? undefined : shape.reduce((product, dimension) => product * dimension, 4);
}

function heldBytes(): number {
  heapBytes();
  return process.memoryUsage().arrayBuffers;
}

async function turns(): Promise<void> {
  for (let count = 0; count < TURNS; count += 1) await new Promise((resolve) => setImmediate(resolve));
}

class Attacker {
  readonly #plan: Attack;
  readonly #random: RandomStream;
  /** How much of what it says is right. */
  readonly #care: number;
  #sequence = 0;

  constructor(plan: Attack, round: number) {
    this.#plan = plan;
    this.#random = new RandomStream(plan.seed, round);
    this.#care = this.#random.nextFloat();
  }

  async converse(stream: ByteStream): Promise<void> {
    stream.unreadBytesMax = 2 * FLOOD_BYTES;
    try {
      if (this.#chance(0.9)) stream.write(this.#hello(), "given");
      if (this.#chance(0.8)) await turns();
      const actions = Math.floor(this.#random.nextFloat() * ACTIONS_MAX);
      for (let count = 0; count < actions; count += 1) {
        stream.write(this.#bytes(), "given");
        if (this.#chance(0.3)) await turns();
      }
      if (this.#chance(0.2)) await stream.close(100);
    } catch (error) {
      // The handler may end the stream at any point.
      if (!(error instanceof NetworkError)) throw error;
    }
    await turns();
  }

  #hello(): Uint8Array {
    const text = JSON.stringify(this.#plan.hello);
    const fields = { kind: FrameKind.hello, value: this.#chance(0.9) ? WINDOW_BYTES_DEFAULT : this.#odd() };
    const bytes = Buffer.from(this.#chance(0.9) ? text : text.slice(0, this.#below(text.length)));
    return this.#frame(fields, this.#chance(0.9) ? bytes : this.#damaged(bytes));
  }

  #bytes(): Uint8Array {
    const sample = this.#plan.frames[this.#below(this.#plan.frames.length)];
    const good = sample ?? { fields: { kind: FrameKind.control }, payload: new Uint8Array(0) };
    const kind = this.#chance(this.#care) ? 0 : this.#below(8);
    if (kind < 2) return this.#frame(good.fields, good.payload);
    if (kind === 2) return this.#frame(good.fields, this.#damaged(good.payload));
    if (kind === 3) return this.#frame(this.#forged(good.fields), good.payload);
    if (kind === 4) return this.#noise(this.#below(1000));
    if (kind === 5) return this.#any();
    if (kind === 6) return this.#damaged(this.#frame(good.fields, good.payload));
    if (this.#chance(0.6)) return this.#announced();
    return new Uint8Array(this.#below(this.#chance(0.5) ? FLOOD_BYTES : FLOOD_BYTES / 16));
  }

  /** Any kind, with as much as it may carry at most. */
  #any(): Uint8Array {
    const kinds = Object.values(FrameKind);
    const kind = kinds[this.#below(kinds.length)] ?? FrameKind.abort;
    const size = Math.min(payloadBytesMax(kind) ?? 0, this.#chance(0.9) ? 2_000 : 1_000_000);
    return this.#frame({ kind, step: this.#odd() }, this.#noise(this.#below(size + 1)), this.#odd());
  }

  /** A header whose payload never comes. */
  #announced(): Uint8Array {
    const kinds = Object.values(FrameKind).filter((kind) => (payloadBytesMax(kind) ?? 0) > 0);
    const kind = kinds[this.#below(kinds.length)] ?? FrameKind.abort;
    const header = new Uint8Array(HEADER_BYTES);
    const link = { sequence: this.#sequence++, grantedBytes: 0, payloadBytes: payloadBytesMax(kind) ?? 0 };
    writeHeader({ ...frameFields({ kind }), ...link, payloadChecksum: 1 }, header);
    return header;
  }

  #forged(fields: Fields): Fields {
    const numbers = ["view", "step", "microBatch"] as const;
    const name = numbers[this.#below(numbers.length)] ?? "step";
    return { ...fields, [name]: this.#odd(), value: this.#chance(0.5) ? this.#odd() : -Infinity };
  }

  /** Sums, sequence and limits are right, but for a few. */
  #frame(fields: Fields, payload: Uint8Array, grantedBytes = 0): Uint8Array {
    const sequence = this.#chance(0.95 + 0.05 * this.#care) ? this.#sequence++ : this.#odd();
    const cut = payload.subarray(0, payloadBytesMax(fields.kind));
    const fits = cut.byteLength === shapeBytes(fields);
    const plain = fits ? fields : { ...fields, dtype: DataType.bytes, shape: [] };
    return Buffer.concat(encodeFrame(frameFields(plain), { sequence, grantedBytes }, cut));
  }

  #damaged(bytes: Uint8Array): Uint8Array {
    const copy = bytes.slice(0, this.#chance(0.2) ? this.#below(bytes.byteLength + 1) : bytes.byteLength);
    for (let count = this.#below(4); count >= 0 && copy.byteLength > 0; count -= 1) {
      copy[this.#below(copy.byteLength)] = this.#below(256);
    }
    return copy;
  }

  #noise(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#below(256));
  }

  /** A number at an edge of its range, or any. */
  #odd(): number {
    const edges = [0, 1, 2 ** 31, 2 ** 32 - 1];
    return edges[this.#below(2 * edges.length)] ?? this.#below(2 ** 32);
  }

  #below(end: number): number {
    return Math.floor(this.#random.nextFloat() * end);
  }

  #chance(share: number): boolean {
    return this.#random.nextFloat() < share;
  }
}
