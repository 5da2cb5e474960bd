/**
 * @file A data server on the network: it has the data set, and sends every worker the micro-batches that it asks for, augmented, ready to compute
 * with. It keeps nothing of a request: a micro-batch is a function of its name. A worker that breaks the protocol is refused and loses its link.
 */
import { Link, type Receiver } from "../../src/net/link.ts";
import type { Decision } from "../../src/net/link-types.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { evaluationCount, type Feeder } from "../../src/runtime/feeder.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { batchArrays, batchBytes, type BatchName, dataServerOf } from "./batch-frames.ts";

export interface DataServerInit {
  readonly job: string;
  readonly index: number;
  readonly dataServers: number;
  readonly workers: number;
  readonly microBatches: number;
  readonly feeder: Feeder;
}

export class DataServer {
  readonly #init: DataServerInit;
  readonly #links = new Map<number, Link | undefined>();

  constructor(init: DataServerInit) {
    this.#init = init;
  }

  get bytesSent(): number {
    return this.#open.reduce((sum, { sent }) => sum + sent.bytes, 0);
  }

  get #open(): readonly Link[] {
    return [...this.#links.values()].flatMap((link) => link ?? []);
  }

  /** Takes a stream that a worker has dialled. Throws what `Link.accept` throws. */
  async accept(stream: ByteStream): Promise<void> {
    let worker = -1;
    const link = await Link.accept(stream, (hello) => this.#decide(hello, (accepted) => (worker = accepted)));
    if (link !== undefined) this.#links.set(worker, link);
  }

  /** Says GOODBYE to every worker, and waits for theirs. */
  async close(limitMs: number): Promise<void> {
    await Promise.all(this.#open.map((link) => link.close(limitMs)));
  }

  #decide({ job, worker }: Readonly<Record<string, unknown>>, accepted: (worker: number) => void): Decision {
    const { workers, feeder } = this.#init;
    const isWorker = typeof worker === "number" && Number.isInteger(worker) && worker >= 0 && worker < workers;
    if (job !== this.#init.job || !isWorker) return { kind: "refuse", reason: "no worker of this job" };
    if (this.#links.has(worker)) return { kind: "refuse", reason: `worker ${worker} is here already` };
    this.#links.set(worker, undefined);
    accepted(worker);
    const answer = { features: feeder.data.features, testCount: feeder.data.test.count };
    return { kind: "accept", answer, receiver: this.#receiver(worker) };
  }

  #receiver(worker: number): Receiver {
    return {
      destination: ({ kind }) => {
        throw new ProtocolError(`worker ${worker} sent a frame of kind ${kind} with a payload`, SAME_BUILD);
      },
      // The next request is looked at when this answer has left: a slow worker has one in memory, not all that it asks for.
      handle: ({ header }, link) => this.#serve(worker, header, link),
    };
  }

  async #serve(worker: number, { kind, step, microBatch: index, lap }: FrameHeader, link: Link): Promise<void> {
    const { feeder, microBatches, dataServers } = this.#init;
    const isTraining = lap === 0;
    const count = isTraining ? microBatches : evaluationCount(feeder.data.test.count, feeder.rows);
    const name: BatchName = { isTraining, step, index };
    const isHere = index < count && dataServerOf(name, dataServers) === this.#init.index;
    if (kind !== FrameKind.batchWanted || !isHere) {
      throw new ProtocolError(`worker ${worker} asks for what is not here: micro-batch ${index}`, SAME_BUILD);
    }
    const { features } = feeder.data;
    const bytes = new Uint8Array(batchBytes(feeder.rows, features));
    const into = batchArrays(bytes, feeder.rows, features);
    if (isTraining) feeder.writeTraining(into, step, index);
    else feeder.writeEvaluation(into, index);
    // A rejection is the link's end, which the manager hears of.
    await link.send({ kind: FrameKind.batch, step, microBatch: index, lap }, bytes).catch(() => {});
  }
}

const SAME_BUILD = "run the same build and job on every node";
