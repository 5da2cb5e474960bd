/** @file One client's connection with a server of keys: its requests that are not answered, and which shards have had their say. */
import type { Link } from "../../src/net/link.ts";
import { defined } from "../../src/types/assert.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { intersection, type KeyRange, sizeOf } from "../core/ranges.ts";
import type { ShardOutput } from "../core/shard-messages.ts";
import { type Request, singlesIn } from "./key-frames.ts";
import type { ShardStore } from "./store.ts";

interface Open {
  readonly request: Request;
  /** Shards that have not answered, by their first key. */
  readonly missing: Set<number>;
  /** Of a pull, in the order of the keys. */
  readonly values: Float32Array<ArrayBuffer>;
  version: number;
}

export interface Answer {
  readonly request: Request;
  readonly values: Float32Array<ArrayBuffer>;
  readonly version: number;
}

export class Session {
  /** By which the shards know it; `client` may come back as another one. */
  readonly number: number;
  readonly client: number;
  link: Link | undefined;
  /** Frames of views that this server does not know yet. */
  early: Frame[] = [];
  readonly #open = new Map<number, Open>();

  constructor(number: number, client: number) {
    this.number = number;
    this.client = client;
  }

  /** Returns what waited for this view, and what is of earlier ones. What was asked before is asked once more by the client. */
  adopt(view: number): { readonly due: readonly Frame[]; readonly over: readonly Frame[] } {
    this.#open.clear();
    const of = (isOf: (other: number) => boolean): Frame[] => this.early.filter(({ header }) => isOf(header.view));
    const [due, over] = [of((other) => other === view), of((other) => other < view)];
    this.early = of((other) => other > view);
    return { due, over };
  }

  /** @param shards those that are to answer, by their first key */
  begin(request: Request, shards: readonly number[]): void {
    if (request.kind === "subscribe") return;
    const { kind, keys, single, timestamp } = request;
    const length = kind === "pull" ? (single?.length ?? sizeOf(keys)) : 0;
    const open: Open = { request, missing: new Set(shards), values: new Float32Array(length), version: Infinity };
    this.#open.set(timestamp, open);
  }

  /** Returns the request when all shards have applied it. */
  applied(timestamp: number, { start }: KeyRange): Request | undefined {
    const open = this.#open.get(timestamp);
    return open !== undefined && this.#isWhole(open, start) ? open.request : undefined;
  }

  /** Reads the shard's part, and returns the answer when it is whole. */
  answered(
    { timestamp, keys, before, version }: Extract<ShardOutput, { kind: "answer" }>,
    { start }: KeyRange,
    store: ShardStore,
  ): Answer | undefined {
    const open = this.#open.get(timestamp);
    if (open === undefined) return undefined;
    const { request, values } = open;
    const part = defined(keys[0], "an answer has keys");
    if (request.single === undefined) {
      const place = sizeOf(intersection(request.keys, [{ start: 0, end: part.start }]));
      store.read(part, values.subarray(place, place + part.end - part.start), request.array, before);
    } else {
      const [from, to] = singlesIn(request.single, part);
      store.readKeys(request.single.subarray(from, to), values.subarray(from, to));
    }
    open.version = Math.min(open.version, version);
    return this.#isWhole(open, start) ? { request, values, version: open.version } : undefined;
  }

  #isWhole({ missing, request }: Open, shard: number): boolean {
    missing.delete(shard);
    if (missing.size > 0) return false;
    this.#open.delete(request.timestamp);
    return true;
  }
}
