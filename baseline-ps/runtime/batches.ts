/**
 * @file Where a worker's micro-batches come from: the data set that it has loaded itself, or data servers, from which it has the next one sent
 * while it computes.
 */
import type { EngineMemory } from "../../src/engine/memory.ts";
import { GOODBYE_LIMIT_MS, Link, type Receiver } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { arraysOf, type FedSlot, type Feeder } from "../../src/runtime/feeder.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { NodeLostError, ProtocolError } from "../../src/types/errors.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { batchArrays, batchBytes, BATCHES_PROTOCOL, type BatchName, dataServerOf } from "./batch-frames.ts";

export interface Batches {
  /** Samples of the test set. */
  readonly testCount: number;
  /** It will be fed soon. */
  want(name: BatchName): void;
  /** Resolves when the slot holds the micro-batch. */
  feed(memory: EngineMemory, slot: FedSlot, name: BatchName): Promise<void>;
  /** Of requests and what belongs to them. */
  readonly bytesSent: number;
  close(): Promise<void>;
}

/** Of a worker that has the data set. */
export function loadedBatches(feeder: Feeder): Batches {
  return {
    testCount: feeder.data.test.count,
    want: () => {},
    feed: (memory, slot, { isTraining, step, index }) => {
      if (isTraining) feeder.fillTraining(memory, slot, step, index);
      else feeder.fillEvaluation(memory, slot, index);
      return Promise.resolve();
    },
    bytesSent: 0,
    close: () => Promise.resolve(),
  };
}

export interface ServedBatchesInit {
  readonly job: string;
  readonly worker: number;
  /** Addresses of each data server. */
  readonly servers: readonly (readonly string[])[];
  readonly transport: Transport;
  /** Samples of a micro-batch. */
  readonly rows: number;
  /** The model's. */
  readonly features: number;
}

interface Wanted {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly arrived: PromiseWithResolvers<void>;
}

/** The one that is needed now, and the next. */
const WANTED_MAX = 2;

export class ServedBatches implements Batches {
  readonly #init: ServedBatchesInit;
  readonly #wanted = new Map<string, Wanted>();
  /** Memory of micro-batches that have been used. */
  readonly #unused: Uint8Array<ArrayBuffer>[] = [];
  #links: readonly Link[] = [];
  #failure: Error | undefined;
  testCount = 0;

  private constructor(init: ServedBatchesInit) {
    this.#init = init;
  }

  /** Throws NetworkError where a data server cannot be reached, or refuses. Close it in the end. */
  static async connect(init: ServedBatchesInit): Promise<ServedBatches> {
    const batches = new ServedBatches(init);
    batches.#links = await Promise.all(init.servers.map((addresses, server) => batches.#dial(addresses, server)));
    return batches;
  }

  get bytesSent(): number {
    return this.#links.reduce((sum, { sent }) => sum + sent.bytes, 0);
  }

  /** Asks for it, unless that is done already. */
  want(name: BatchName): void {
    if (this.#wanted.has(keyOf(name))) return;
    assert(this.#wanted.size < WANTED_MAX, "what was wanted is used");
    const { rows, features } = this.#init;
    const bytes = this.#unused.pop() ?? new Uint8Array(batchBytes(rows, features));
    const arrived = Promise.withResolvers<void>();
    // Whoever fills a slot with it hears of it.
    arrived.promise.catch(() => {});
    if (this.#failure !== undefined) arrived.reject(this.#failure);
    this.#wanted.set(keyOf(name), { bytes, arrived });
    const fields = { kind: FrameKind.batchWanted, step: name.step, microBatch: name.index, lap: lapOf(name) };
    this.#links[dataServerOf(name, this.#links.length)]!.send(fields).catch(() => {});
  }

  /** Rejects where a data server is gone. */
  async feed(memory: EngineMemory, slot: FedSlot, name: BatchName): Promise<void> {
    this.want(name);
    const { bytes, arrived } = this.#wanted.get(keyOf(name))!;
    await arrived.promise;
    this.#wanted.delete(keyOf(name));
    this.#unused.push(bytes);
    const from = batchArrays(bytes, this.#init.rows, this.#init.features);
    const into = arraysOf(memory, slot);
    into.input.set(from.input);
    into.labels?.set(defined(from.labels, "a micro-batch has labels"));
  }

  async close(): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }

  async #dial(addresses: readonly string[], server: number): Promise<Link> {
    const { transport, job, worker, features } = this.#init;
    const stream = await transport.dial(addresses, BATCHES_PROTOCOL);
    const receiver: Receiver = {
      destination: (header) => this.#asked(header, server).bytes,
      handle: ({ header }) => this.#asked(header, server).arrived.resolve(),
    };
    const { link, answer } = await Link.open(stream, { job, worker }, receiver);
    void link.ended.then(({ kind }) => {
      if (kind !== "goodbye") this.#fail(server, kind);
    });
    const { features: theirs, testCount } = answer;
    if (theirs !== features || typeof testCount !== "number" || !Number.isSafeInteger(testCount) || testCount < 1) {
      throw new ProtocolError(`data server ${server} has other data than the model is for`, SAME_BUILD);
    }
    this.testCount = testCount;
    return link;
  }

  /** What a frame of this server brings. */
  #asked({ kind, step, microBatch: index, lap, payloadBytes }: FrameHeader, server: number): Wanted {
    const name: BatchName = { isTraining: lap === 0, step, index };
    const wanted = kind === FrameKind.batch ? this.#wanted.get(keyOf(name)) : undefined;
    const isTheirs = dataServerOf(name, this.#init.servers.length) === server;
    if (wanted !== undefined && isTheirs && payloadBytes === wanted.bytes.byteLength) return wanted;
    throw new ProtocolError(`data server ${server} sent what was not asked for`, SAME_BUILD);
  }

  #fail(server: number, how: string): void {
    this.#failure ??= new NodeLostError(`data server ${server} is gone (${how})`, "see its log; start the run again");
    for (const { arrived } of this.#wanted.values()) arrived.reject(this.#failure);
  }
}

const SAME_BUILD = "run the same build and job on every node";

const lapOf = ({ isTraining }: BatchName): number => (isTraining ? 0 : 1);
const keyOf = (name: BatchName): string => `${lapOf(name)} ${name.step} ${name.index}`;
